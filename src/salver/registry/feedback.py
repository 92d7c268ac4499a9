"""What became of answers: outcomes that callers report, each once, and their sums by arm."""

import msgspec
import sqlalchemy as sa

from salver.core.context import DEFAULT_TENANT
from salver.registry.database import Database
from salver.registry.schema import feedback, feedback_sums

_CHUNK = 400


class Outcome(msgspec.Struct, frozen=True):
    """One reported value of one answer.

    ``version``, ``weight_epoch`` and ``place`` are what the answer's id says of its arm; an answer
    of an endpoint with one version has epoch 0.
    """

    request_id: str
    metric: str
    value: float
    version: int = 0
    weight_epoch: int = 0
    place: int = -1
    answered_unix_ms: int = 0


class Sums(msgspec.Struct, frozen=True):
    """The outcomes of one arm at one place, added up; ``squares`` is the sum of squared values."""

    version: int
    weight_epoch: int
    place: int
    count: int
    total: float
    squares: float


class FeedbackStore:
    """Outcomes of one tenant. Not thread-safe; control calls it from one thread."""

    def __init__(self, database: Database, tenant: str = DEFAULT_TENANT) -> None:
        self._database = database
        self._tenant = tenant

    def take(self, endpoint: str, outcomes: list[Outcome], unix_ms: int) -> dict[int, float]:
        """Keep outcomes that are new, in one transaction.

        Returns, by place in the list, those that were reported before and the value they had then;
        of two for the same answer and metric in one call the first counts.
        """
        with self._database.write() as connection:
            known = self._known(connection, endpoint, outcomes)
            before: dict[int, float] = {}
            fresh: list[Outcome] = []
            for index, outcome in enumerate(outcomes):
                key = (outcome.request_id, outcome.metric)
                if key in known:
                    before[index] = known[key]
                else:
                    known[key] = outcome.value
                    fresh.append(outcome)
            if fresh:
                rows = [self._row(endpoint, outcome, unix_ms) for outcome in fresh]
                connection.execute(sa.insert(feedback), rows)
                self._add(connection, endpoint, fresh)
        return before

    def sums(self, endpoint: str, metric: str, epochs: list[int]) -> list[Sums]:
        """Return what was reported of answers of these weight epochs, by arm and place."""
        table = feedback_sums.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(feedback_sums).where(
                    table.tenant == self._tenant,
                    table.endpoint == endpoint,
                    table.metric == metric,
                    table.weight_epoch.in_(epochs),
                )
            ).all()
        return [
            Sums(row.version, row.weight_epoch, row.place, row.outcomes, row.total, row.squares)
            for row in rows
        ]

    def count(self, endpoint: str) -> dict[str, int]:
        """Return how many outcomes of an endpoint there are, by metric."""
        table = feedback_sums.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(table.metric, sa.func.sum(table.outcomes))
                .where(table.tenant == self._tenant, table.endpoint == endpoint)
                .group_by(table.metric)
            ).all()
        return {metric: int(count) for metric, count in rows}

    def forget(self, before_unix_ms: int) -> int:
        """Forget single outcomes of answers that are older; their sums stay. Returns how many."""
        table = feedback.c
        with self._database.write() as connection:
            done = connection.execute(
                sa.delete(feedback).where(
                    table.tenant == self._tenant, table.answered_unix_ms < before_unix_ms
                )
            )
        return done.rowcount

    def _known(
        self, connection: sa.Connection, endpoint: str, outcomes: list[Outcome]
    ) -> dict[tuple[str, str], float]:
        ids = sorted({outcome.request_id for outcome in outcomes})
        known: dict[tuple[str, str], float] = {}
        for start in range(0, len(ids), _CHUNK):
            found = connection.execute(
                sa.select(feedback.c.request_id, feedback.c.metric, feedback.c.value).where(
                    feedback.c.tenant == self._tenant,
                    feedback.c.endpoint == endpoint,
                    feedback.c.request_id.in_(ids[start : start + _CHUNK]),
                )
            )
            known |= {(row.request_id, row.metric): row.value for row in found}
        return known

    def _row(self, endpoint: str, outcome: Outcome, unix_ms: int) -> dict[str, object]:
        return {
            "tenant": self._tenant,
            "endpoint": endpoint,
            "received_unix_ms": unix_ms,
            **msgspec.structs.asdict(outcome),
        }

    def _add(self, connection: sa.Connection, endpoint: str, outcomes: list[Outcome]) -> None:
        added: dict[tuple[str, int, int, int], tuple[int, float, float]] = {}
        for one in outcomes:
            key = (one.metric, one.version, one.weight_epoch, one.place)
            count, total, squares = added.get(key, (0, 0.0, 0.0))
            added[key] = (count + 1, total + one.value, squares + one.value**2)
        table = feedback_sums.c
        for (metric, version, epoch, place), (count, total, squares) in added.items():
            arm: dict[str, object] = {
                "tenant": self._tenant,
                "endpoint": endpoint,
                "metric": metric,
                "version": version,
                "weight_epoch": epoch,
                "place": place,
            }
            where = sa.and_(*(table[name] == value for name, value in arm.items()))
            more = {
                "outcomes": table.outcomes + count,
                "total": table.total + total,
                "squares": table.squares + squares,
            }
            changed = connection.execute(sa.update(feedback_sums).where(where).values(more))
            if changed.rowcount == 0:
                values = {**arm, "outcomes": count, "total": total, "squares": squares}
                connection.execute(sa.insert(feedback_sums).values(values))
