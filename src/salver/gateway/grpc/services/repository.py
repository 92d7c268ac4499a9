"""Triton's calls that load and unload a model, answered when control has answered."""

from collections.abc import Mapping
from typing import Any

from salver.core.context import Principal
from salver.core.errors import SalverError
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import timeout_ns
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.inference import SERVICE
from salver.gateway.grpc.services.table import Begin, Later
from salver.gateway.triton.changes import Changes, Wanted


class RepositoryService:
    """Passes changes on; ``later`` are its calls."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self.later: Later = {
            f"{SERVICE}/RepositoryModelLoad": self._begin("load"),
            f"{SERVICE}/RepositoryModelUnload": self._begin("unload"),
        }

    def _begin(self, action: str) -> Begin:
        answer = message_class(f"inference.RepositoryModel{action.capitalize()}Response")
        whole: bytes = answer().SerializeToString()

        def begin(request: Any, principal: Principal, call: Call) -> None:
            def done(error: SalverError | None) -> None:
                if error is None:
                    call.reply((whole,))
                else:
                    call.fail(error)

            self._changes.begin(_wanted(action, request, principal, call), done)

        return begin


def _wanted(action: str, request: Any, principal: Principal, call: Call) -> Wanted:
    def parameters() -> Mapping[str, object]:
        return {name: _value(value) for name, value in request.parameters.items()}

    patience = call.stream.fields.get(b"grpc-timeout")
    return Wanted(
        action,
        request.model_name,
        request.repository_name,
        principal,
        call.request_id,
        parameters,
        None if patience is None else timeout_ns(patience) / 1e9,
    )


def _value(parameter: Any) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)
