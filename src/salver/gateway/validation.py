"""Checks a routed request against its variant's signature and declared values."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import SalverError, ValueRejected
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, InferenceResponse, RequestForm, form_of
from salver.core.signature import OUT_OF_RANGE, Column, Signature
from salver.core.tensor import AnyArray, Tensor
from salver.observe.meter import Meter
from salver.wire.messages import Plan

OFF, WARN, REJECT = "off", "warn", "reject"


class _Rule:
    """What holds for one variant; ``forms`` remembers those that passed."""

    __slots__ = ("checks_values", "declared", "forms", "policy", "signature")

    def __init__(self, signature: Signature, policy: str) -> None:
        self.signature = signature
        self.policy = policy
        self.forms: set[RequestForm] = set()
        self.declared = {
            spec.name: tuple([_held(column, spec.datatype) for column in spec.columns])
            for spec in signature.inputs
            if policy != OFF and any(_declares(column) for column in spec.columns)
        }
        self.checks_values = bool(self.declared)


class _Warned:
    """Responder that tells the caller, in the answer, which declared value was not kept."""

    __slots__ = ("_problem", "_responder")

    def __init__(self, responder: Responder, problem: str) -> None:
        self._responder = responder
        self._problem = problem

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        if final:
            response.parameters = {**(response.parameters or {}), OUT_OF_RANGE: self._problem}
        self._responder.send(response, final=final)

    def fail(self, error: SalverError) -> None:
        self._responder.fail(error)


_MAX_FORMS = 256


class SignatureCheck:
    """Handler that lets through what the model can take, and what the policy allows."""

    def __init__(self, inner: Handler, meter: Meter) -> None:
        self._inner = inner
        self._inner_many = many_of(inner)
        self._meter = meter
        self._rules: dict[tuple[str, str], _Rule] = {}

    def apply(self, plan: Plan) -> None:
        """Check by this plan from now on."""
        before, self._rules = self._rules, {}
        for endpoint in plan.endpoints:
            for variant in endpoint.variants:
                key, signature = (endpoint.name, variant.id), variant.signature
                policy, rule = endpoint.validation, before.get(key)
                # Plans come often, and to make a rule reads every declared category.
                if rule is None or (rule.signature, rule.policy) != (signature, policy):
                    rule = _Rule(signature, policy)
                self._rules[key] = rule

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Check, then pass on or fail."""
        rule = self._rules[(request.endpoint, context.variant)]
        if request.form in rule.forms and not rule.checks_values:
            self._inner(request, context, responder)
            return
        try:
            warning = self._check(rule, request)
        except SalverError as error:
            responder.fail(error)
            return
        self._inner(request, context, _Warned(responder, warning) if warning else responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Pass on cohorts of a form that has passed before, where no values are checked."""
        whole: list[Cohort] = []
        for cohort in cohorts:
            rule = self._rules[(cohort.request.endpoint, cohort.context.variant)]
            if cohort.request.form in rule.forms and not rule.checks_values:
                whole.append(cohort)
            else:
                one_by_one(self, cohort)
        if whole:
            self._inner_many(whole)

    def _check(self, rule: _Rule, request: InferenceRequest) -> str:
        if request.lay_out is not None:
            request.inputs = request.lay_out(request.inputs, rule.signature)
            request.lay_out = None
        form = form_of(request)
        if form not in rule.forms:
            rule.signature.check_inputs(request.inputs)
            if request.outputs is not None:
                rule.signature.check_outputs(request.outputs)
            if len(rule.forms) >= _MAX_FORMS:
                rule.forms.clear()
            rule.forms.add(form)
        return self._check_values(rule, request) if rule.checks_values else ""

    def _check_values(self, rule: _Rule, request: InferenceRequest) -> str:
        found = ""
        for tensor in request.inputs:
            columns = rule.declared.get(tensor.name)
            if columns is None:
                continue
            problem = _first_violation(tensor, columns)
            if problem:
                self._meter.add("salver_out_of_range_total", (request.endpoint, tensor.name))
                if rule.policy == REJECT:
                    raise ValueRejected(problem)
                found = found or problem
        return found


def _declares(column: Column) -> bool:
    return column.categories is not None or column.minimum is not None or column.maximum is not None


def _first_violation(tensor: Tensor, columns: tuple[Column, ...]) -> str:
    array = tensor.array()
    if array.ndim == 0:
        return ""
    rows = array.reshape(-1, len(columns)) if array.size else array.reshape(0, len(columns))
    for index, column in enumerate(columns):
        problem = _violation(rows[:, index], column, tensor.datatype)
        if problem:
            return f"input {tensor.name!r}, column {column.name!r}: {problem}"
    return ""


def _held(column: Column, datatype: str) -> Column:
    """Return a column with its categories as its datatype holds them: in FP32, 0.1 is another."""
    dtype = DTYPES.get(datatype)
    if column.categories is None or dtype is None or dtype.kind != "f":
        return column
    held = tuple([_rounded(category, dtype) for category in column.categories])
    return msgspec.structs.replace(column, categories=held)


def _rounded(category: str, dtype: np.dtype[Any]) -> str:
    """Return what ``_category`` makes of a number that was stored; other text as it is."""
    try:
        with np.errstate(over="ignore"):
            return _category(float(dtype.type(category)))
    except ValueError:
        return category


def _category(value: object) -> str:
    """Return a value as categories are written: text as it is, 3.0 as 3."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _violation(values: AnyArray, column: Column, datatype: str) -> str:
    if column.categories is not None:
        found = {_category(value) for value in set(values.tolist())}
        if not found.issubset(column.categories):
            return "a value is not one of the declared categories"
    if datatype == BYTES:
        return ""
    with np.errstate(invalid="ignore"):
        if column.minimum is not None and bool((values < column.minimum).any()):
            return f"a value is below the declared minimum of {column.minimum:g}"
        if column.maximum is not None and bool((values > column.maximum).any()):
            return f"a value is above the declared maximum of {column.maximum:g}"
    return ""
