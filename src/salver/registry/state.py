"""What is wanted and what was counted: endpoints, plan numbers, telemetry, events."""

import msgspec
import sqlalchemy as sa

from salver.core.clock import Clock
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import EndpointNotFound
from salver.observe.merge import Totals
from salver.registry.database import Database, First, nothing
from salver.registry.records import EndpointSpec, EventRecord
from salver.registry.schema import counters, endpoints, events, retired_counts, telemetry
from salver.wire.messages import Snapshot

_PLAN = "plan"
_GENERATION = "generation"
_MILLISECOND_NS = 1_000_000
_SEPARATOR = "\x1f"
_MAX_EVENTS = 1000


class StateStore:
    """Control's own tables. Not thread-safe; control calls it from one thread."""

    def __init__(self, database: Database, clock: Clock, tenant: str = DEFAULT_TENANT) -> None:
        self._database = database
        self._clock = clock
        self._tenant = tenant

    def endpoints(self) -> list[EndpointSpec]:
        """Return every endpoint that is wanted, by name."""
        with self._database.read() as connection:
            rows = connection.scalars(
                sa.select(endpoints.c.spec)
                .where(endpoints.c.tenant == self._tenant)
                .order_by(endpoints.c.name)
            ).all()
        return [msgspec.json.decode(row, type=EndpointSpec) for row in rows]

    def put_endpoint(self, spec: EndpointSpec) -> EndpointSpec:
        """Want an endpoint; returns it with its new generation."""
        with self._database.write() as connection:
            return write_endpoint(connection, self._tenant, spec)

    def endpoint(self, name: str) -> EndpointSpec | None:
        """Return an endpoint that is wanted, None if it is not."""
        with self._database.read() as connection:
            return self._endpoint(connection, name)

    def delete_endpoint(self, name: str, first: First = nothing) -> EndpointSpec:
        """Want an endpoint no more and return what it was; raises ``EndpointNotFound``.

        ``first`` is done in the same transaction; when it raises, nothing is changed.
        """
        with self._database.write() as connection:
            first(connection)
            spec = self._endpoint(connection, name)
            if spec is None:
                raise EndpointNotFound(f"no endpoint {name!r}; see 'salver get endpoints'")
            connection.execute(
                sa.delete(endpoints).where(
                    endpoints.c.tenant == self._tenant, endpoints.c.name == name
                )
            )
        return spec

    def _endpoint(self, connection: sa.Connection, name: str) -> EndpointSpec | None:
        row = connection.scalar(
            sa.select(endpoints.c.spec).where(
                endpoints.c.tenant == self._tenant, endpoints.c.name == name
            )
        )
        return None if row is None else msgspec.json.decode(row, type=EndpointSpec)

    def next_plan_number(self) -> int:
        """Return a number larger than any before, also across restarts."""
        with self._database.write() as connection:
            return _next(connection, _PLAN)

    def plan_number(self) -> int:
        """Return the largest number that was given to a plan, by whichever control."""
        with self._database.read() as connection:
            where = counters.c.name == _PLAN
            return connection.scalar(sa.select(counters.c.value).where(where)) or 0

    def load_telemetry(self) -> tuple[Totals, dict[str, Snapshot]]:
        """Return the retired totals and the last known snapshots, by incarnation."""
        totals = Totals({}, {})
        with self._database.read() as connection:
            for row in connection.execute(sa.select(retired_counts)):
                key = (row.name, tuple(row.labels.split(_SEPARATOR)) if row.labels else ())
                counts = msgspec.json.decode(row.counts, type=tuple[int, ...])
                if counts:
                    totals.histograms[key] = (counts, row.total)
                else:
                    totals.counters[key] = row.total
            live = {
                row.incarnation: msgspec.json.decode(row.snapshot, type=Snapshot)
                for row in connection.execute(sa.select(telemetry))
            }
        return totals, live

    def save_telemetry(
        self, retired: Totals | None, live: dict[str, Snapshot], first: First = nothing
    ) -> None:
        """Replace both in one transaction, so that nothing is counted twice or lost between.

        None leaves the retired totals, of which there may be many, as they are stored. ``first``
        is called in the transaction before anything else.
        """
        with self._database.write() as connection:
            first(connection)
            connection.execute(sa.delete(telemetry))
            if live:
                connection.execute(
                    sa.insert(telemetry),
                    [
                        {
                            "incarnation": incarnation,
                            "snapshot": msgspec.json.encode(snapshot).decode(),
                            "number": snapshot.number,
                        }
                        for incarnation, snapshot in live.items()
                    ],
                )
            if retired is None:
                return
            connection.execute(sa.delete(retired_counts))
            rows = _retired_rows(retired)
            if rows:
                connection.execute(sa.insert(retired_counts), rows)

    def record(self, actor: str, action: str, subject: str, details: dict[str, str]) -> None:
        """Append to the audit log."""
        with self._database.write() as connection:
            connection.execute(
                sa.insert(events).values(
                    tenant=self._tenant,
                    unix_ms=self._clock.unix_ns() // _MILLISECOND_NS,
                    actor=actor[:256],
                    action=action,
                    subject=subject[:256],
                    details=msgspec.json.encode(details).decode(),
                )
            )

    def forget_events(self, before_unix_ms: int, most: int) -> int:
        """Forget those of the first ``most`` entries of the audit log that are older; their number.

        No more are looked at: entries come in the order of their times, but for clocks that differ.
        """
        table = events.c
        first = (
            sa.select(table.id, table.unix_ms)
            .where(table.tenant == self._tenant)
            .order_by(table.id)
            .limit(most)
            .subquery()
        )
        old = sa.select(first.c.id).where(first.c.unix_ms < before_unix_ms)
        with self._database.write() as connection:
            return connection.execute(sa.delete(events).where(table.id.in_(old))).rowcount

    def events(self, limit: int = _MAX_EVENTS) -> list[EventRecord]:
        """Return the newest entries of the audit log, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(events)
                .where(events.c.tenant == self._tenant)
                .order_by(events.c.id.desc())
                .limit(min(limit, _MAX_EVENTS))
            ).all()
        return [
            EventRecord(
                row.unix_ms,
                row.actor,
                row.action,
                row.subject,
                msgspec.json.decode(row.details, type=dict[str, str]),
            )
            for row in rows
        ]


def write_endpoint(connection: sa.Connection, tenant: str, spec: EndpointSpec) -> EndpointSpec:
    """Want an endpoint within a transaction; returns it with its new generation."""
    spec = msgspec.structs.replace(spec, generation=_next(connection, _GENERATION))
    values = {"spec": msgspec.json.encode(spec).decode(), "generation": spec.generation}
    where = (endpoints.c.tenant == tenant) & (endpoints.c.name == spec.name)
    changed = connection.execute(sa.update(endpoints).where(where).values(values))
    if changed.rowcount == 0:
        key = {"tenant": tenant, "name": spec.name}
        connection.execute(sa.insert(endpoints).values({**key, **values}))
    return spec


def _next(connection: sa.Connection, name: str) -> int:
    where = counters.c.name == name
    value = connection.scalar(sa.select(counters.c.value).where(where))
    if value is None:
        connection.execute(sa.insert(counters).values(name=name, value=1))
        return 1
    connection.execute(sa.update(counters).where(where).values(value=value + 1))
    return int(value) + 1


def _retired_rows(retired: Totals) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"name": name, "labels": _SEPARATOR.join(labels), "counts": "[]", "total": value}
        for (name, labels), value in retired.counters.items()
    ]
    for (name, labels), (counts, total) in retired.histograms.items():
        rows.append(
            {
                "name": name,
                "labels": _SEPARATOR.join(labels),
                "counts": msgspec.json.encode(counts).decode(),
                "total": total,
            }
        )
    return rows
