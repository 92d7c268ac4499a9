"""Which variant the rules of an endpoint send a request to."""

from salver.core.context import RequestContext
from salver.core.datatypes import BYTES, size_of_elements
from salver.core.request import InferenceRequest, form_of
from salver.core.routing import Rule
from salver.wire.messages import EndpointPlan, VariantPlan


class Rules:
    """The rules of one endpoint whose variants are there and not shadows, in order."""

    __slots__ = ("_rules",)

    def __init__(self, endpoint: EndpointPlan) -> None:
        targets = {variant.role: variant for variant in reversed(endpoint.answering)}
        targets |= {variant.version: variant for variant in reversed(endpoint.answering)}
        targets |= {variant.id: variant for variant in endpoint.answering}
        self._rules = [
            (rule, targets[rule.to]) for rule in endpoint.routing.rules if rule.to in targets
        ]

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._rules)

    def pick(self, request: InferenceRequest, context: RequestContext) -> VariantPlan | None:
        """Return the variant of the first rule that holds, None if none does."""
        for rule, variant in self._rules:
            if _holds(rule, request, context):
                return variant
        return None


def _holds(rule: Rule, request: InferenceRequest, context: RequestContext) -> bool:
    if rule.caller and rule.caller != context.principal.name:
        return False
    headers, parameters = context.headers or {}, request.parameters or {}
    if any(headers.get(name.lower()) != value for name, value in rule.headers.items()):
        return False
    if any(parameters.get(name) != value for name, value in rule.parameters.items()):
        return False
    if rule.input or rule.min_bytes or rule.max_bytes is not None:
        size_bytes = _size_bytes(request, rule.input)
        if size_bytes is None or size_bytes < rule.min_bytes:
            return False
        return rule.max_bytes is None or size_bytes <= rule.max_bytes
    return True


def _size_bytes(request: InferenceRequest, name: str) -> int | None:
    """Return what an input takes, or all of them together; None where there is no such input."""
    if request.inputs:
        sizes = [tensor.size_bytes for tensor in request.inputs if name in ("", tensor.name)]
    else:
        # The common request of a cohort has no inputs; those that it stands for are of fixed size.
        sizes = [
            size_of_elements(datatype, shape)
            for known, datatype, shape in form_of(request).inputs
            if name in ("", known) and datatype != BYTES
        ]
    return sum(sizes) if sizes else None
