"""What webhooks are told, kept until somebody answered or the budget is over.

What is to be told is written in the transaction of the change that it is about, so that nothing is
told which did not happen, and nothing is forgotten. Ids stay the same over attempts and restarts.
"""

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from salver.core.clock import Clock
from salver.core.context import DEFAULT_TENANT
from salver.core.webhooks import BEFORE_STEP, Webhook
from salver.registry.database import Database
from salver.registry.lease import Lease
from salver.registry.records import Delivery
from salver.registry.schema import webhook_deliveries as table

WAITING, DELIVERED, REFUSED, UNDELIVERED, WITHDRAWN = (
    "waiting",
    "delivered",
    "refused",
    "undelivered",
    "withdrawn",
)
_MILLISECOND_NS = 1_000_000
_DAY_MS = 86_400_000
_MAX_REASON = 1024
_NOT_UPDATED = frozenset(("endpoint", "number", "sequence", "event", "webhook", "body"))


class DeliveryStore:
    """Not thread-safe; control calls it from one thread. Writes raise ``Standby``.

    At most ``max_waiting`` wait; what comes on top is undelivered at once.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        clock: Clock,
        max_waiting: int,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._max_waiting = max_waiting
        self._tenant = tenant

    @property
    def is_in_charge(self) -> bool:
        """Tell whether this control delivers, as of when that was last looked at."""
        return self._lease.fence > 0

    def add_within(self, connection: sa.Connection, new: Iterable[Delivery]) -> None:
        """Write down what is to be told, within the transaction of the change."""
        new = list(new)
        if not new:
            return
        room = self._max_waiting - self._count_waiting(connection)
        for place, item in enumerate(new):
            if place >= room:
                full = f"{self._max_waiting} deliveries wait already (control.webhook_queue)"
                item = msgspec.structs.replace(item, state=UNDELIVERED, reason=full)  # noqa: PLW2901
            stamped = msgspec.structs.replace(item, unix_ms=self._now_ms())
            connection.execute(sa.insert(table).values(tenant=self._tenant, **_values(stamped)))

    def withdraw_within(
        self, connection: sa.Connection, endpoint: str, number: int, asked: int | None
    ) -> None:
        """Ask webhooks nothing more about a rollout but what the event ``asked`` says."""
        stale = (
            sa.update(table)
            .filter_by(tenant=self._tenant, endpoint=endpoint, number=number)
            .where(table.c.state == WAITING, table.c.event == BEFORE_STEP)
        )
        if asked is not None:
            stale = stale.where(table.c.sequence != asked)
        connection.execute(stale.values(state=WITHDRAWN, unix_ms=self._now_ms()))

    def waiting(self) -> list[Delivery]:
        """Return what waits, oldest first, but before the rest what rollouts wait for."""
        is_other = sa.case((table.c.event == BEFORE_STEP, 0), else_=1)
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(table)
                .filter_by(tenant=self._tenant, state=WAITING)
                .order_by(is_other, table.c.unix_ms, table.c.id)
                .limit(self._max_waiting)
            ).all()
        return [_delivery(row) for row in rows]

    def save(self, item: Delivery) -> bool:
        """Write down how a delivery goes; False for one that does not wait any more."""
        values = {k: v for k, v in _values(item).items() if k not in _NOT_UPDATED}
        with self._database.write() as connection:
            self._lease.check(connection)
            done = connection.execute(
                sa.update(table)
                .filter_by(tenant=self._tenant, id=item.id, state=WAITING)
                .values({**values, "unix_ms": self._now_ms()})
            )
        return done.rowcount > 0

    def of_event(self, endpoint: str, number: int, sequence: int) -> list[Delivery]:
        """Return what webhooks are told of one event of a rollout."""
        key = {"endpoint": endpoint, "number": number, "sequence": sequence}
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(table).filter_by(tenant=self._tenant, **key).order_by(table.c.id)
            ).all()
        return [_delivery(row) for row in rows]

    def newest(self, endpoint: str, limit: int, number: int | None = None) -> list[Delivery]:
        """Return an endpoint's newest deliveries, or one rollout's, newest first."""
        query = sa.select(table).filter_by(tenant=self._tenant, endpoint=endpoint)
        if number is not None:
            query = query.filter_by(number=number)
        with self._database.read() as connection:
            rows = connection.execute(
                query.order_by(table.c.unix_ms.desc(), table.c.id).limit(limit)
            ).all()
        return [_delivery(row) for row in rows]

    def forget_old(self, days: float) -> None:
        """Delete what has ended so long ago."""
        oldest_ms = self._now_ms() - round(days * _DAY_MS)
        with self._database.write() as connection:
            self._lease.check(connection)
            connection.execute(
                sa.delete(table).where(
                    table.c.tenant == self._tenant,
                    table.c.state != WAITING,
                    table.c.unix_ms < oldest_ms,
                )
            )

    def _count_waiting(self, connection: sa.Connection) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        return int(connection.execute(query.where(table.c.state == WAITING)).scalar_one())

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // _MILLISECOND_NS


def _values(item: Delivery) -> dict[str, object]:
    return {
        **msgspec.structs.asdict(item),
        "webhook": msgspec.json.encode(item.webhook).decode(),
        "body": item.body.decode(),
        "reason": item.reason[:_MAX_REASON],
    }


def _delivery(row: sa.Row[tuple[object, ...]]) -> Delivery:
    values = {name: getattr(row, name) for name in Delivery.__struct_fields__}
    values["webhook"] = msgspec.json.decode(row.webhook, type=Webhook)
    values["body"] = row.body.encode()
    return Delivery(**values)
