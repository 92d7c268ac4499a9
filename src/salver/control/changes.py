"""Loads and unloads that callers of the data port asked for, answered when they are in force."""

import asyncio

from salver.control.database import DatabaseThread
from salver.control.deploy import Deployer
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import (
    EndpointNotFound,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    SalverError,
    UnsupportedOperation,
    fault_of,
)
from salver.core.names import check_name
from salver.core.settings import Settings
from salver.observe.logs import get_logger
from salver.registry.state import StateStore
from salver.wire.connection import Connection
from salver.wire.messages import Change, Changed, Fail

log = get_logger(__name__)

MAX_OPEN = 64
_RETRY_AFTER_S = 1.0


class Changer:
    """Makes changes, at most 64 at once; every one is answered on the link it came on.

    Who asked is the gateway's word; whether the data port may change anything is asked here too.
    """

    def __init__(
        self, deployer: Deployer, state: StateStore, database: DatabaseThread, settings: Settings
    ) -> None:
        self._deployer = deployer
        self._state = state
        self._database = database
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, connection: Connection, gateway: str, change: Change) -> None:
        """Begin with a change that a gateway sent; never raises."""
        if len(self._tasks) >= MAX_OPEN:
            error = Overloaded(
                f"{MAX_OPEN} loads and unloads are under way", retry_after_s=_RETRY_AFTER_S
            )
            connection.send(_failure(change, error))
            return
        task = asyncio.get_running_loop().create_task(self._answer(connection, gateway, change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for nothing more; gateways notice that the link is gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, connection: Connection, gateway: str, change: Change) -> None:
        answer: Changed | Fail = Changed(change.id)
        try:
            await self._make(gateway, change)
        except SalverError as error:
            answer = _failure(change, error)
        except Exception as fault:  # a fault of ours must still be answered
            log.exception("change_failed", request_id=change.request_id)
            answer = _failure(change, fault_of(fault))
        log.info(
            "repository_change",
            action=change.action,
            endpoint=change.endpoint,
            principal=change.principal,
            gateway=gateway,
            request_id=change.request_id,
            code=answer.code if isinstance(answer, Fail) else "",
        )
        connection.send(answer)

    async def _make(self, gateway: str, change: Change) -> None:
        if not self._settings.http.repository_changes:
            raise UnsupportedOperation(
                "control takes no changes from the data port: 'http.repository_changes' is off"
            )
        name = check_name(change.endpoint, "endpoint")
        timeout_s = min(change.remaining_us / 1e6, self._settings.control.deploy_timeout_s)
        if change.action == "load":
            await self._load(gateway, change, name, timeout_s)
        elif change.action == "unload":
            await self._unload(gateway, change, name, timeout_s)
        else:
            raise InvalidRequest(f"no such change: {change.action[:40]!r}")

    async def _load(self, gateway: str, change: Change, name: str, timeout_s: float) -> None:
        if change.tenant != DEFAULT_TENANT:
            raise ModelNotFound(f"no model {name!r}; push it first")
        spec, is_new = await self._deployer.ensure(name)
        if is_new:
            await self._record(gateway, change, f"{spec.model}:{spec.version}")
        await self._deployer.wait(spec, timeout_s)

    async def _unload(self, gateway: str, change: Change, name: str, timeout_s: float) -> None:
        if change.tenant != DEFAULT_TENANT:
            raise EndpointNotFound(f"no endpoint {name!r} is loaded")
        spec = await self._deployer.remove(name)
        await self._record(gateway, change, spec.model)
        await self._deployer.wait_gone(spec, timeout_s)

    async def _record(self, gateway: str, change: Change, model: str) -> None:
        details = {"model": model, "gateway": gateway, "request_id": change.request_id}
        await self._database(
            lambda: self._state.record(change.principal, change.action, change.endpoint, details)
        )


def _failure(change: Change, error: SalverError) -> Fail:
    return Fail(change.id, error.code, error.message, error.retry_after_s)
