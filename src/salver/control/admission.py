"""What an endpoint may ask for: checked where it is wanted, and for many of them beforehand."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from salver.control.placement import runs_code
from salver.control.reconcile import Reconciler
from salver.control.rollouts.judging import judge_policy
from salver.control.rollouts.memory import Rehearsed
from salver.control.rollouts.placing import Change, Placing, with_rules
from salver.core.errors import Conflict, InvalidRequest, NotFound, SalverError
from salver.core.hosting import Hosting, check_hosting
from salver.core.names import ModelReference, check_name, parse_reference
from salver.core.webhooks import check_webhooks, read_allow_list
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.state import StateStore
from salver.runtimes.table import is_stream

VALIDATIONS = ("off", "warn", "reject")
BATCHINGS = ("fixed", "adaptive")


class Step(NamedTuple):
    """An endpoint that shall serve a model as ``spec`` says, or be removed where that is None.

    With ``force`` whatever can be forced does not stand against it.
    """

    name: str
    spec: EndpointSpec | None = None
    model: str = ""
    force: bool = False


class Refusal(NamedTuple):
    """What an endpoint would be refused with, and the key of its file that is meant, if one is."""

    name: str
    key: str
    error: SalverError


class Admission:
    """Checks that change nothing."""

    def __init__(
        self, reconciler: Reconciler, catalog: Catalog, state: StateStore, placing: Placing
    ) -> None:
        self._reconciler = reconciler
        self._catalog = catalog
        self._state = state
        self._placing = placing

    def check(self, spec: EndpointSpec) -> None:
        """Raise for what cannot be, whatever else there is.

        Raises ``InvalidName``, ``InvalidRequest``, ``InvalidSettings``, ``WorkerLimit`` or
        ``HostingRefused``.
        """
        for _, check in self._checks(spec):
            check()

    def resolved(
        self, spec: EndpointSpec, reference: ModelReference, others: Collection[EndpointSpec]
    ) -> tuple[EndpointSpec, VersionRecord]:
        """Return what is wanted with its version; called from the database's thread.

        ``others`` are all endpoints. One of them that follows the same alias, or none with a
        policy, and has a version keeps it, if it shall have a rollout policy: a rollout brings the
        next.

        Raises ``ModelNotFound``, ``VersionNotFound``, ``AliasNotFound``, ``InvalidRequest``,
        ``WebhookNotAllowed``, ``HostingRefused`` and ``Conflict`` where another endpoint has its
        version hosted otherwise.
        """
        known = next((other for other in others if other.name == spec.name), None)
        record = self._meant(spec, reference, known)
        self._check_webhooks(spec)
        self._check_hosting(spec, record, others)
        return _pinned(spec, reference, record), record

    def refusals(self, specs: Sequence[EndpointSpec]) -> list[Refusal]:
        """Return all that ``check`` has against these endpoints."""
        found: list[Refusal] = []
        for spec in specs:
            for key, check in self._checks(spec):
                with _noting(found, spec.name, key):
                    check()
        return found

    def rehearse(self, steps: Sequence[Step], serving: Collection[str], by: str) -> list[Refusal]:
        """Return what these steps would be refused with, if they were done one after the other.

        Called from the database's thread. Each is checked as the ones before it leave things,
        which is more than looking at each by itself: two may want one version hosted in two ways.
        """
        found: list[Refusal] = []
        others = {spec.name: spec for spec in self._state.endpoints()}
        kept: dict[str, Rehearsed] = {}
        for step in steps:
            if step.spec is None:
                with _noting(found, step.name, ""):
                    self._placing.check_removal(step.name, force=step.force)
                others.pop(step.name, None)
                kept[step.name] = Rehearsed()
                continue
            with _noting(found, step.name, "webhooks"):
                self._check_webhooks(step.spec)
            reference = parse_reference(step.model)
            with _noting(found, step.name, "model"):
                record = self._meant(step.spec, reference, others.get(step.name))
                with _noting(found, step.name, "hosting"):
                    self._check_hosting(step.spec, record, others.values())
                wanted = _pinned(step.spec, reference, record)
                with _noting(found, step.name, ""):
                    change = self._placing.check(
                        wanted, record, serving, force=step.force, by=by, kept=kept
                    )
                    kept[step.name] = Rehearsed(wanted, record, _kept(change))
                others[step.name] = wanted
        return found

    def _checks(self, spec: EndpointSpec) -> Iterator[tuple[str, Callable[[], object]]]:
        rollout = spec.rollout
        yield "name", lambda: check_name(spec.name, "endpoint")
        yield "validation", lambda: _one_of("validation", spec.validation, VALIDATIONS)
        yield "batching", lambda: _one_of("batching", spec.batching, BATCHINGS)
        yield "replicas", lambda: self._reconciler.scaler.rules.check(spec)
        yield "hosting", lambda: check_hosting(spec.hosting, is_code=False, is_stream=False)
        if rollout is not None:
            yield "rollout.analysis", lambda: judge_policy(rollout)

    def _meant(
        self, spec: EndpointSpec, reference: ModelReference, known: EndpointSpec | None
    ) -> VersionRecord:
        """Return the version that is wanted of an endpoint which was ``known`` before."""
        record = self._catalog.resolve(reference)
        if known is None or known.version is None:
            return record
        follows = reference.alias is not None and spec.rollout is not None
        # A promotion beside its alias leaves an endpoint without one: it follows on from there.
        goes_on = known.alias is None and known.rollout is not None
        if not follows or known.model != record.model:
            return record
        if known.alias != reference.alias and not goes_on:
            return record
        return self._catalog.resolve(ModelReference(known.model, known.version))

    def _check_webhooks(self, spec: EndpointSpec) -> None:
        """Check what is said of webhooks, beside those that are kept."""
        own = spec.rollout.webhooks if spec.rollout is not None else ()
        if not own and spec.webhooks is None:
            return
        spec = with_rules(spec, self._state.endpoint(spec.name))
        settings = self._reconciler.settings.control
        allowed = read_allow_list(settings.webhook_hosts, settings.webhook_networks)
        check_webhooks((*(spec.webhooks or ()), *own), allowed)

    def _check_hosting(
        self, spec: EndpointSpec, record: VersionRecord, others: Collection[EndpointSpec]
    ) -> None:
        hosting, runtime = spec.hosting, record.manifest.runtime
        check_hosting(hosting, is_code=runs_code(record), is_stream=is_stream(runtime))
        if hosting == Hosting():
            return
        for other in others:
            if other.model != record.model or other.name == spec.name:
                continue
            if other.hosting in (hosting, Hosting()):
                continue
            with suppress(NotFound):
                reference = ModelReference(other.model, other.version, other.alias)
                if self._catalog.resolve(reference).id == record.id:
                    raise Conflict(
                        f"endpoint {other.name!r} has {record.id} hosted with other options; a "
                        "version is hosted in one way: give the same, or change that one first"
                    )


def _kept(change: Change) -> tuple[VersionRecord, ...] | None:
    """Return what a change keeps in memory, None where it leaves what is kept as it is."""
    if change.before is None:
        return None
    return (change.kept,) if change.kept is not None and change.keep_s > 0 else ()


def _pinned(spec: EndpointSpec, reference: ModelReference, record: VersionRecord) -> EndpointSpec:
    held = reference.alias is None or spec.rollout is not None
    return msgspec.structs.replace(
        spec,
        model=record.model,
        version=record.version if held else None,
        alias=reference.alias,
    )


def _one_of(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidRequest(f"{key} is one of {', '.join(known)}")


@contextmanager
def _noting(found: list[Refusal], name: str, key: str) -> Iterator[None]:
    """Note what is refused inside, and go on after it."""
    try:
        yield
    except SalverError as error:
        found.append(Refusal(name, key, error))
