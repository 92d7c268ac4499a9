"""Loading and unloading for admins: who may, what may be asked, and control's answer."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, NoReturn

from salver.core.context import Principal
from salver.core.errors import (
    Draining,
    Forbidden,
    InvalidRequest,
    SalverError,
    UnsupportedOperation,
    fault_of,
)
from salver.core.names import check_name
from salver.gateway.auth import check_access
from salver.observe.logs import get_logger
from salver.wire.messages import Change

log = get_logger(__name__)

_SHOWN_LENGTH = 100
# Control says best itself why it took too long.
_GRACE_S = 5.0
_RETRY_AFTER_S = 1.0

Ask = Callable[[Change, float], Coroutine[Any, Any, None]]
Done = Callable[[SalverError | None], None]


class Wanted(NamedTuple):
    """What a caller asks for.

    ``action`` is ``load`` or ``unload``; ``parameters`` reads what was sent along, which nobody
    looks at before it is clear that the caller may ask. ``timeout_s`` is the caller's own patience.
    """

    action: str
    name: str
    repository: str
    principal: Principal
    request_id: str
    parameters: Callable[[], Mapping[str, object]]
    timeout_s: float | None = None


class Changes:
    """Passes loads and unloads on to control; ``ask`` is None where the data port does neither.

    ``timeout_s`` is how long a model may take to answer.
    """

    def __init__(self, ask: Ask | None, timeout_s: float) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    @property
    def is_on(self) -> bool:
        """Whether the data port loads and unloads at all."""
        return self._ask is not None

    def begin(self, wanted: Wanted, done: Done) -> None:
        """Ask control; ``done`` is called once with the outcome, on the event loop.

        Raises ``UnsupportedOperation``, ``Forbidden``, ``QuotaExceeded``, ``InvalidName``,
        ``InvalidRequest`` or ``Draining``, or what ``parameters`` raises, and then nothing was
        asked and ``done`` is not called.
        """
        ask, principal = self._ask, wanted.principal
        if ask is None:
            _refuse(wanted)
        if not principal.is_admin:
            raise Forbidden(
                f"{principal.name!r} may not {wanted.action} models; that takes an entry of the "
                "key file with 'admin: true'"
            )
        check_access(principal, check_name(wanted.name, "endpoint"))
        if wanted.repository:
            raise UnsupportedOperation(f"there is one repository; {wanted.action} without its name")
        _check_parameters(wanted.action, wanted.parameters())
        if self._is_draining:
            raise _draining()
        principal.in_flight += 1
        task = asyncio.get_running_loop().create_task(self._make(ask, wanted, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drain(self) -> None:
        """Answer what is open: control goes on with it, but this process will not learn more."""
        self._is_draining = True
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            # Not before its first step: a task that never began could not answer.
            loop.call_soon(task.cancel)

    async def _make(self, ask: Ask, wanted: Wanted, done: Done) -> None:
        principal, error = wanted.principal, None
        timeout_s = self._timeout_s
        if wanted.timeout_s is not None:
            timeout_s = min(timeout_s, wanted.timeout_s)
        change = Change(
            0,
            wanted.action,
            wanted.name,
            principal.name,
            principal.tenant,
            wanted.request_id,
            round(timeout_s * 1e6),
        )
        try:
            await ask(change, timeout_s + _GRACE_S)
        except SalverError as refusal:
            error = refusal
        except asyncio.CancelledError:
            # Only drain cancels, and the caller is still there to hear of it.
            error = _draining()
        except Exception as fault:  # a fault of ours must still be answered
            log.exception("change_failed", request_id=wanted.request_id)
            error = fault_of(fault)
        principal.in_flight -= 1
        log.info(
            "repository_change",
            action=wanted.action,
            endpoint=wanted.name,
            principal=principal.name,
            request_id=wanted.request_id,
            code="" if error is None else error.code,
        )
        done(error)


def _draining() -> Draining:
    return Draining(
        "this gateway is stopping; ask again, the change may have been made",
        retry_after_s=_RETRY_AFTER_S,
    )


def _refuse(wanted: Wanted) -> NoReturn:
    command = "deploy" if wanted.action == "load" else "undeploy"
    raise UnsupportedOperation(
        f"the data port changes nothing: '{wanted.action}' is 'salver {command} "
        f"{wanted.name[:_SHOWN_LENGTH]}', or the control API; with 'http.repository_changes' "
        "admins may do it here"
    )


def _check_parameters(action: str, parameters: Mapping[str, object]) -> None:
    """Refuse what would bring a model's files or configuration along, and what is not known."""
    for name, value in parameters.items():
        if action == "unload" and name == "unload_dependents":
            if not isinstance(value, bool):
                raise InvalidRequest("'unload_dependents' must be true or false")
            continue
        raise UnsupportedOperation(
            f"parameter {name[:_SHOWN_LENGTH]!r}: a model is loaded as it was pushed; leave it "
            "out ('salver push' and 'salver deploy' take a model's files and settings)"
        )
