"""What people may say of rollouts: start, look, pause, promote, go back, freeze."""

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from salver.control.deploy import Deployer
from salver.control.reconcile import Reconciler
from salver.control.rollouts import view
from salver.control.rollouts.earlier import is_kept
from salver.control.rollouts.gates import Gates, check_model
from salver.control.rollouts.journal import line_of, line_of_return, record_of, rollout_of
from salver.control.rollouts.journal import shown as line_shown
from salver.control.rollouts.judging import judge_policy, with_labels
from salver.control.rollouts.runner import Runner, Stores
from salver.control.webhooks.outbox import as_event, told_of_return
from salver.control.webhooks.outbox import shown as delivery_shown
from salver.core.clock import Clock
from salver.core.errors import (
    Conflict,
    EndpointNotFound,
    InvalidRequest,
    NotReady,
    PreviousNotFound,
    SalverError,
)
from salver.core.names import ModelReference, check_name, parse_reference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.routing import CANARY
from salver.core.sides import Side
from salver.core.webhooks import check_webhooks, read_allow_list
from salver.observe.logs import get_logger
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, Freeze, VersionRecord
from salver.rollout.approvals import added
from salver.rollout.machine import RUNNING, Command, Rollout, begun, command
from salver.rollout.states import Return

log = get_logger(__name__)

_MILLISECOND_NS = 1_000_000
_SALT_BYTES = 6
_MAX_REASON = 1024
_THAW = frozenset(("resume", "promote", "weight", "approve"))
_MAX_DELIVERIES = 50


class Start(NamedTuple):
    """A rollout that somebody wants: to a version (``2``), ``MODEL:VERSION`` or ``MODEL@ALIAS``."""

    endpoint: str
    to: str
    policy: RolloutPolicy
    actor: str
    force: bool = False


class Restored(NamedTuple):
    """An endpoint as it was before: whether that is in memory, what ended, and what was left."""

    spec: EndpointSpec
    is_kept: bool
    ended: Side | None
    back: Return


class Rollouts:
    """Carries out what people say, one at a time with the loop that drives rollouts."""

    def __init__(
        self,
        stores: Stores,
        catalog: Catalog,
        gates: Gates,
        runner: Runner,
        reconciler: Reconciler,
        deployer: Deployer,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._catalog = catalog
        self._gates = gates
        self._runner = runner
        self._reconciler = reconciler
        self._deployer = deployer
        self._clock = clock

    async def start(self, start: Start) -> dict[str, Any]:
        """Begin a rollout and return it.

        Raises what the gates refuse with, ``NotReady`` when the endpoint serves nothing yet,
        ``Conflict`` when it serves this version already, ``WebhookNotAllowed``, and
        ``InvalidSettings`` for a policy by which nothing could be judged.
        """
        policy = check_policy(start.policy)
        judge_policy(policy)
        plan = self._reconciler.plan
        async with self._runner.lock:
            record = await self._stores.database(lambda: self._begin(start, policy, plan.number))
            rollout = rollout_of(record)
            self._runner.current[rollout.endpoint] = rollout
            self._runner.findings.pop(rollout.endpoint, None)
        self._reconciler.wake()
        reason = f"from {rollout.source} to {rollout.target}"
        await self._record(start.actor, "rollout", rollout.endpoint, reason)
        return view.shown(rollout, None)

    async def say(self, endpoint: str, wish: Command) -> dict[str, Any]:
        """Carry out pause, resume, promote, abort, weight or approve; returns the rollout.

        Raises ``RolloutNotFound``, ``EndpointFrozen`` and as ``machine.command``.
        """
        check_name(endpoint, "endpoint")
        async with self._runner.lock:
            return await self._say(endpoint, wish)

    async def _say(self, endpoint: str, wish: Command) -> dict[str, Any]:
        """Do what ``say`` does, with the lock held."""
        rollout = await self._newest(endpoint)
        is_ready = wish.kind != "promote" or self._runner.facts(rollout).is_ready
        wish = msgspec.structs.replace(wish, is_ready=is_ready, reason=wish.reason[:_MAX_REASON])
        check = self._thawed(endpoint) if wish.kind in _THAW else None
        if check is not None:
            # That it is frozen says more than what else is wrong with the wish.
            await self._stores.database(check)
        after, transition = command(rollout, wish)
        assert transition is not None
        await self._runner.commit(after, transition, check)
        return view.shown(after, self._runner.findings.get(endpoint))

    async def approve(self, endpoint: str, to: str, actor: str, comment: str) -> dict[str, Any]:
        """Approve of the version that is rolled out, or of another (``to``) for a later change.

        Returns the rollout, or the version and who approves of it. Raises ``Conflict`` when the
        endpoint demands no approvals or this person has approved already, and as ``say``.
        """
        check_name(endpoint, "endpoint")
        async with self._runner.lock:
            await self._runner.refresh()
            rollout = self._runner.current.get(endpoint)
            target = rollout.target if rollout is not None else ""
            version = await self._stores.database(lambda: self._meant(endpoint, to, target))
            if version.id == target:
                return await self._say(endpoint, Command("approve", actor, comment))
            return await self._stores.database(
                lambda: self._approve(endpoint, version, actor, comment)
            )

    async def status(self, endpoint: str) -> dict[str, Any]:
        """Return an endpoint's newest rollout, its freeze and what it was before."""
        check_name(endpoint, "endpoint")
        rollout = await self._newest(endpoint)
        store = self._stores.rollouts
        deliveries = self._stores.deliveries
        frozen, previous, told = await self._stores.database(
            lambda: (
                store.frozen(),
                store.previous(),
                deliveries.newest(endpoint, _MAX_DELIVERIES, rollout.number),
            )
        )
        return {
            **view.shown(rollout, self._runner.findings.get(endpoint)),
            "frozen": view.frozen(frozen.get(endpoint)),
            "previous": view.earlier(previous.get(endpoint)),
            "webhooks": [delivery_shown(item) for item in told],
        }

    async def history(self, endpoint: str, limit: int) -> list[dict[str, Any]]:
        """Return the newest events of an endpoint's rollouts, newest first.

        What webhooks were told is among them.
        """
        check_name(endpoint, "endpoint")
        stores = self._stores
        events, told = await stores.database(
            lambda: (
                stores.rollouts.history(endpoint, limit),
                stores.deliveries.newest(endpoint, limit),
            )
        )
        lines = [line_shown(event) for event in events]
        if told:
            lines += [as_event(item) for item in told]
            lines.sort(key=lambda line: -line["unix_ms"])
        return lines[:limit]

    async def rollback(
        self, endpoint: str, actor: str, reason: str, *, force: bool
    ) -> dict[str, Any]:
        """Go back to what the endpoint was before: abort its rollout, or restore its last state.

        Returns when no request goes to what was there any more. A shadow or an experiment that
        goes on ends with it. Raises ``PreviousNotFound`` and ``EndpointFrozen``, what the gates
        refuse with when the earlier version is not in memory any more, and ``DeadlineExceeded``
        when it is not in force in time.
        """
        check_name(endpoint, "endpoint")
        async with self._runner.lock:
            await self._runner.refresh()
            rollout = self._runner.current.get(endpoint)
            if rollout is not None:
                check = None if force else self._thawed(endpoint)
                after, transition = command(rollout, Command("abort", actor, reason))
                assert transition is not None
                await self._runner.commit(after, transition, check)
                restored = None
            else:
                epoch, why = self._reconciler.plan.number, reason or "by hand"
                restored = await self._stores.database(
                    lambda: self._restore(endpoint, actor, why, epoch, force=force)
                )
        timeout_s = _deploy_timeout_s(self._reconciler)
        if rollout is not None:
            number = rollout.number
            versions = {"from": rollout.target, "to": rollout.source}
            await self._record(actor, "rollback", endpoint, reason, **versions)

            def is_moot() -> bool:
                other = self._runner.current.get(endpoint)
                return other is not None and other.number != number

            await self._deployer.wait_unrouted(endpoint, rollout.target, timeout_s, is_moot)
            return _gone_back(endpoint, rollout.source, kept=True, ended=None)
        assert restored is not None
        spec, kept, ended, left = restored
        self._reconciler.wake()
        self._runner.deliverer.wake()
        versions = {"from": left.source, "to": left.target}
        await self._record(actor, "rollback", endpoint, reason, **versions)
        if ended is not None:
            await self._record(actor, f"{ended.kind} stop", endpoint, "rollback")
        await self._deployer.wait(spec, timeout_s)
        return _gone_back(endpoint, left.target, kept=kept, ended=ended)

    async def freeze(self, endpoint: str, reason: str, actor: str) -> dict[str, Any]:
        """Let nothing change an endpoint; a rollout that runs is paused.

        What webhooks are asked is withdrawn, so that no yes changes anything either. Both are one
        transaction. Raises ``EndpointNotFound``.
        """
        check_name(endpoint, "endpoint")
        async with self._runner.lock:
            await self._runner.refresh()
            rollout = self._runner.current.get(endpoint)
            if rollout is not None and (rollout.state == RUNNING or rollout.asked is not None):
                frozen = await self._freeze_and_pause(rollout, reason, actor)
            else:
                frozen = await self._stores.database(lambda: self._freeze(endpoint, reason, actor))
        await self._record(actor, "freeze", endpoint, reason)
        return {"endpoint": endpoint, "frozen": view.frozen(frozen)}

    async def _freeze_and_pause(self, rollout: Rollout, reason: str, actor: str) -> Freeze:
        endpoint, store = rollout.endpoint, self._stores.rollouts
        why = f"the endpoint was frozen: {reason or 'no reason'}"
        after, transition = command(rollout, Command("pause", actor, why))
        assert transition is not None
        written: list[Freeze] = []

        def freeze(connection: sa.Connection) -> None:
            written.append(store.freeze_within(connection, endpoint, reason, actor))

        await self._runner.commit(after, transition, lambda: self._exists(endpoint), freeze)
        return written[0]

    async def unfreeze(self, endpoint: str, actor: str) -> dict[str, Any]:
        """Let an endpoint be changed again; a rollout stays paused until it is resumed.

        Raises ``Conflict`` for one that is not frozen.
        """
        check_name(endpoint, "endpoint")
        was = await self._stores.database(lambda: self._stores.rollouts.unfreeze(endpoint))
        if not was:
            raise Conflict(f"endpoint {endpoint!r} is not frozen")
        await self._record(actor, "unfreeze", endpoint, "")
        return {"endpoint": endpoint, "frozen": None}

    def _thawed(self, endpoint: str) -> Callable[[], None]:
        return lambda: self._gates.check_thawed(endpoint)

    async def _record(
        self, actor: str, action: str, endpoint: str, reason: str, **more: str
    ) -> None:
        state = self._stores.state
        details = {"reason": reason, **more}
        await self._stores.database(lambda: state.record(actor, action, endpoint, details))

    async def _newest(self, endpoint: str) -> Rollout:
        record = await self._stores.database(lambda: self._stores.rollouts.newest(endpoint))
        stored = rollout_of(record)
        known = self._runner.current.get(endpoint)
        same = known is not None and (known.number, known.sequence) == (
            stored.number,
            stored.sequence,
        )
        return known if known is not None and same else stored

    def _begin(self, start: Start, policy: RolloutPolicy, epoch: int) -> Any:
        """Check all gates and store the rollout; on the database's thread."""
        spec = self._spec(check_name(start.endpoint, "endpoint"))
        self._gates.check_free(spec.name)
        source = self._gates.current(spec)
        target = self._target(start.to, spec)
        policy = self._with_webhooks(spec, policy)
        if source.id == target.id:
            raise Conflict(f"endpoint {spec.name!r} serves {target.id} already")
        if not self._serves(spec.name, source):
            raise NotReady(
                f"{source.id}, which endpoint {spec.name!r} serves, is not ready; a rollout "
                "needs something to compare with",
                retry_after_s=1.0,
            )
        if not start.force:
            self._gates.check_version(spec, source, target, CANARY)

        policy = with_labels(policy, source)
        # With the model's classes there may be more to count than gateways can.
        judge_policy(policy)
        approved = self._gates.approvals.of(spec.name, target) if spec.approvals else []
        # Another control may have made plans that this one has not seen.
        first_epoch = max(epoch, self._stores.state.plan_number())

        def make(number: int) -> tuple[bytes, bytes]:
            rollout = Rollout(
                spec.name,
                number,
                source.id,
                target.id,
                policy,
                secrets.token_hex(_SALT_BYTES),
                self._clock.unix_ns() // _MILLISECOND_NS,
                start.actor,
                first_epoch=first_epoch,
                digest=target.digest,
                approvals=spec.approvals or 0,
                approved_by=tuple(each.person for each in approved),
            )
            return record_of(rollout).body, line_of(begun(rollout))

        return self._stores.rollouts.begin(spec.name, make)

    def _with_webhooks(self, spec: EndpointSpec, policy: RolloutPolicy) -> RolloutPolicy:
        """Tell the endpoint's webhooks as well as the rollout's own."""
        hooks = (*(spec.webhooks or ()), *policy.webhooks)
        settings = self._reconciler.settings.control
        check_webhooks(hooks, read_allow_list(settings.webhook_hosts, settings.webhook_networks))
        return msgspec.structs.replace(policy, webhooks=hooks)

    def _meant(self, endpoint: str, to: str, target: str) -> VersionRecord:
        """Return the version that somebody approves of."""
        spec = self._spec(endpoint)
        if not to and not target:
            raise InvalidRequest(
                f"no rollout of endpoint {endpoint!r} is on; say of which version you approve "
                "with --to VERSION"
            )
        return self._target(to or target, spec)

    def _approve(
        self, endpoint: str, version: VersionRecord, actor: str, comment: str
    ) -> dict[str, Any]:
        """Store an approval for a change that is to come; on the database's thread."""
        spec, store = self._spec(endpoint), self._gates.approvals
        self._gates.check_thawed(endpoint)
        needed = spec.approvals or 0
        people = added(needed, [each.person for each in store.of(endpoint, version)], actor)
        store.add(endpoint, version, actor, comment)
        details = {"version": version.id, "digest": version.digest, "comment": comment}
        self._stores.state.record(actor, "approve", endpoint, details)
        return {
            "endpoint": endpoint,
            "version": version.id,
            "approvals": {"needed": needed, "by": list(people), "digest": version.digest},
        }

    def _serves(self, endpoint: str, version: VersionRecord) -> bool:
        return any(
            plan.name == endpoint and plan.variants and plan.variants[0].id == version.id
            for plan in self._reconciler.plan.endpoints
        )

    def _target(self, to: str, spec: EndpointSpec) -> VersionRecord:
        if to.isascii() and to.isdigit():
            return self._catalog.resolve(parse_reference(f"{spec.model}:{to}"))
        reference = parse_reference(to)
        if reference == ModelReference(reference.name) and reference.name != spec.model:
            raise InvalidRequest(f"{to!r} is no version; write 2, NAME:2 or NAME@ALIAS")
        check_model(reference.name, spec)
        return self._catalog.resolve(reference)

    def _spec(self, endpoint: str) -> EndpointSpec:
        spec = self._stores.state.endpoint(endpoint)
        if spec is None:
            raise EndpointNotFound(f"no endpoint {endpoint!r}; see 'salver get endpoints'")
        return spec

    def _restore(
        self, endpoint: str, actor: str, reason: str, epoch: int, *, force: bool
    ) -> Restored:
        """Restore the last state; on the database's thread."""
        spec = self._spec(endpoint)
        if not force:
            self._gates.check_thawed(endpoint)
        previous = self._stores.rollouts.previous().get(endpoint)
        if previous is None:
            raise PreviousNotFound(
                f"endpoint {endpoint!r} has no earlier state; deploy the version you want with "
                f"'salver deploy NAME:VERSION --endpoint {endpoint}'"
            )
        try:
            present: VersionRecord | None = self._gates.current(spec)
        except SalverError:
            present = None
        earlier = self._gates.current(previous.spec)
        kept = is_kept(previous)
        if not (kept or force):
            self._gates.check_version(spec, present, earlier)
        leaves = present is not None and present.id != earlier.id
        marked = present.id if present is not None and leaves else ""
        now_ms = self._clock.unix_ns() // _MILLISECOND_NS
        came_from = present.id if present is not None else ""
        back = Return(came_from, earlier.id, actor, reason[:_MAX_REASON], now_ms)
        facts = {"from": came_from, "to": earlier.id, "actor": actor, "reason": reason}
        tell = told_of_return(self._stores.deliveries, spec, facts)
        ended: list[Side | None] = []
        last_epoch = max(epoch, self._stores.state.plan_number()) + 1

        def also(connection: sa.Connection) -> None:
            tell(connection)
            self._stores.rollouts.append_within(
                connection, endpoint, lambda stored: line_of_return(stored, back)
            )
            # Its weights would keep the version that is left in use.
            sides = self._stores.sides
            ended.append(sides.end_within(connection, endpoint, "", last_epoch, now_ms))

        why = f"by {actor}: {reason}"
        restored = self._stores.rollouts.restore(spec, marked, why, also)
        return Restored(restored, kept, ended[-1], back)

    def _exists(self, endpoint: str) -> None:
        """Raise ``EndpointNotFound`` for an endpoint that is not wanted."""
        self._spec(endpoint)

    def _freeze(self, endpoint: str, reason: str, actor: str) -> Freeze:
        self._exists(endpoint)
        return self._stores.rollouts.freeze(endpoint, reason, actor)


def _gone_back(endpoint: str, version: str, *, kept: bool, ended: Side | None) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "version": version,
        "was_in_memory": kept,
        "ended": f"{ended.kind} {ended.number}" if ended is not None else None,
    }


def _deploy_timeout_s(reconciler: Reconciler) -> float:
    return reconciler.settings.control.deploy_timeout_s
