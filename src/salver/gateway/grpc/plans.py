"""How messages are read whose like was read before: all but their tensor is known by its bytes."""

from typing import Final

from salver.core.errors import SalverError
from salver.core.request import InferenceRequest, RequestForm, form_of
from salver.gateway.grpc.framing import PREFIX
from salver.gateway.grpc.wire import bytes_field, split_raw
from salver.gateway.oip.reading import Target

_MAX_PLANS: Final = 1024
_MAX_CUTS: Final = 4
_MAX_HEAD_BYTES: Final = 1024
_RAW_INPUT: Final = 7


class Plan:
    """What all messages with the same bytes before their tensor ask for."""

    def __init__(self, target: Target, form: RequestForm) -> None:
        self.target = target
        self.form = form


class Plans:
    """Messages that were read before, by their length and the bytes before their tensor."""

    def __init__(self) -> None:
        self._cuts: dict[int, list[int]] = {}
        self._plans: dict[bytes, Plan] = {}

    def find(self, body: bytes) -> tuple[Plan, bytes] | None:
        """Return what a body of one message asks for, and its tensor."""
        for cut in self._cuts.get(len(body), ()):
            plan = self._plans.get(body[:cut])
            if plan is not None:
                return plan, body[cut:]
        return None

    def learn(self, body: bytes, request: InferenceRequest) -> None:
        """Remember a body that was read and is in order, if others can be read by it."""
        form = form_of(request)
        size = form.size_bytes
        special = request.outputs or request.parameters or body[0]
        if len(request.inputs) != 1 or not size or special:
            return
        cut = len(body) - size
        tag = bytes_field(_RAW_INPUT, size)
        if cut > _MAX_HEAD_BYTES or not body[:cut].endswith(tag):
            return
        try:
            _, raw = split_raw(body[PREFIX.size : cut - len(tag)], _MAX_HEAD_BYTES, _MAX_HEAD_BYTES)
        except SalverError:
            return
        if raw:
            return
        cuts = self._cuts.setdefault(len(body), [])
        if len(self._plans) >= _MAX_PLANS or len(cuts) >= _MAX_CUTS:
            self._plans.clear()
            self._cuts = {len(body): (cuts := [])}
        self._plans[body[:cut]] = Plan(Target(request.endpoint, request.version), form)
        if cut not in cuts:
            cuts.append(cut)
