"""Starts an endpoint's rollout when the alias that it follows moves."""

import asyncio

from salver.control.database import DatabaseThread
from salver.control.reconcile import Reconciler
from salver.control.rollouts.aliases import actor_of
from salver.control.rollouts.commands import Rollouts, Start
from salver.core.errors import SalverError
from salver.core.names import ModelReference
from salver.observe.logs import get_logger
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec
from salver.registry.state import StateStore

log = get_logger(__name__)

_PASSING = frozenset(("rollout_active", "side_active", "endpoint_frozen"))
_NO_VERSION = 0


class AliasFollower:
    """Component that looks where aliases point; each version is tried once per move."""

    def __init__(
        self,
        rollouts: Rollouts,
        catalog: Catalog,
        state: StateStore,
        database: DatabaseThread,
        reconciler: Reconciler,
    ) -> None:
        self._rollouts = rollouts
        self._catalog = catalog
        self._state = state
        self._database = database
        self._reconciler = reconciler
        self._refused: dict[str, tuple[int, str]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, interval_s: float) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._follow_for_ever(interval_s))

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow_for_ever(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._follow()
            except SalverError as error:
                log.warning("aliases_not_followed", code=error.code, cause=error.message)
            except Exception:  # a fault of ours must not end the loop
                log.exception("aliases_not_followed")

    async def _follow(self) -> None:
        for spec in await self._database(self._state.endpoints):
            if spec.rollout is not None and spec.alias is not None:
                await self._try(spec)

    async def _try(self, spec: EndpointSpec) -> None:
        """Look at one endpoint; whatever is wrong with it, the others are looked at."""
        try:
            await self._look(spec)
        except SalverError as error:
            refusal = (_NO_VERSION, error.code)
            if self._refused.get(spec.name) != refusal:
                self._refused[spec.name] = refusal
                log.warning(
                    "alias_not_followed", endpoint=spec.name, code=error.code, cause=error.message
                )
        except Exception:  # a fault of ours must not stop the others
            log.exception("alias_not_followed", endpoint=spec.name)

    async def _look(self, spec: EndpointSpec) -> None:
        assert spec.rollout is not None
        assert spec.alias is not None
        reference = ModelReference(spec.model, alias=spec.alias)
        target = await self._database(lambda: self._catalog.resolve(reference))
        if target.version == spec.version:
            self._refused.pop(spec.name, None)
            return
        known = self._refused.get(spec.name)
        if known is not None and known[0] == target.version and known[1] not in _PASSING:
            return
        start = Start(spec.name, target.id, spec.rollout, actor_of(spec.alias))
        try:
            await self._rollouts.start(start)
        except SalverError as error:
            if known != (target.version, error.code) and error.retry_after_s is None:
                log.warning(
                    "rollout_not_started",
                    endpoint=spec.name,
                    target=target.id,
                    code=error.code,
                    cause=error.message,
                )
                self._refused[spec.name] = (target.version, error.code)
