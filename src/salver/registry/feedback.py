"""What became of answers: outcomes that callers report, each once, and their sums by arm."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from salver.core.context import DEFAULT_TENANT
from salver.core.errors import InvalidRequest
from salver.registry.database import Database, delete_some
from salver.registry.schema import feedback, feedback_sums

MAX_ANSWER_METRICS = 8
MAX_METRICS = 64
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

    def take(
        self,
        endpoint: str,
        outcomes: list[Outcome],
        unix_ms: int,
        wanted: frozenset[str] = frozenset(),
    ) -> dict[int, float | InvalidRequest]:
        """Keep outcomes that are new, in one transaction.

        Returns, by place in the list, those that were reported before and the value they had then;
        of two for the same answer and metric in one call the first counts. As whoever reports makes
        up the names of metrics, an answer has ``MAX_ANSWER_METRICS`` and an endpoint
        ``MAX_METRICS`` of them, besides those that are ``wanted``, which are always taken; what is
        over that is returned with its refusal.
        """
        with self._database.write() as connection:
            known = self._known(connection, endpoint, outcomes)
            bounds = _Bounds(endpoint, known, self._metrics(connection, endpoint), wanted)
            before: dict[int, float | InvalidRequest] = {}
            fresh: list[Outcome] = []
            for index, outcome in enumerate(outcomes):
                key = (outcome.request_id, outcome.metric)
                if key in known:
                    before[index] = known[key]
                elif (refusal := bounds.refusal(*key)) is not None:
                    before[index] = refusal
                else:
                    known[key] = outcome.value
                    fresh.append(outcome)
            if fresh:
                rows = [self._row(endpoint, outcome, unix_ms) for outcome in fresh]
                connection.execute(sa.insert(feedback), rows)
                self._add(connection, endpoint, fresh, unix_ms)
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

    def forget(self, before_unix_ms: int, most: int) -> int:
        """Forget at most that many single outcomes of answers that are older; returns how many."""
        table = feedback.c
        with self._database.write() as connection:
            is_sqlite = connection.dialect.name == "sqlite"
            # By the key it would look through all of a tenant, rather than take the times' index.
            tenant = table.tenant.concat("") if is_sqlite else table.tenant
            old = (tenant == self._tenant) & (table.answered_unix_ms < before_unix_ms)
            some = sa.select(feedback).where(old).order_by(table.answered_unix_ms).limit(most)
            return delete_some(connection, feedback, some)

    def forget_sums(
        self, before_unix_ms: int, most: int, wanted: Collection[tuple[str, str]]
    ) -> int:
        """Forget at most that many sums to which nothing was added since; returns how many.

        Those whose endpoint and metric are ``wanted`` are kept.
        """
        table, done = feedback_sums.c, 0
        old = (table.tenant == self._tenant) & (table.reported_unix_ms < before_unix_ms)
        with self._database.write() as connection:
            pairs = sa.select(table.endpoint, table.metric).where(old).distinct()
            found = {(row.endpoint, row.metric) for row in connection.execute(pairs)}
            for endpoint, metric in sorted(found.difference(wanted)):
                where = old & (table.endpoint == endpoint) & (table.metric == metric)
                some = sa.select(feedback_sums).where(where).limit(most - done)
                done += delete_some(connection, feedback_sums, some)
                if done == most:
                    break
        return done

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

    def _metrics(self, connection: sa.Connection, endpoint: str) -> set[str]:
        """Return an endpoint's metrics, from one to the next: each has thousands of sums."""
        table = feedback_sums.c
        least = sa.select(sa.func.min(table.metric)).where(
            table.tenant == self._tenant, table.endpoint == endpoint
        )
        names = sa.select(least.scalar_subquery().label("metric")).cte("names", recursive=True)
        following = least.where(table.metric > names.c.metric).correlate(names).scalar_subquery()
        names = names.union_all(sa.select(following).where(names.c.metric.is_not(None)))
        found = connection.scalars(sa.select(names.c.metric)).all()
        return {name for name in found if name is not None}

    def _row(self, endpoint: str, outcome: Outcome, unix_ms: int) -> dict[str, object]:
        return {
            "tenant": self._tenant,
            "endpoint": endpoint,
            "received_unix_ms": unix_ms,
            **msgspec.structs.asdict(outcome),
        }

    def _add(
        self, connection: sa.Connection, endpoint: str, outcomes: list[Outcome], unix_ms: int
    ) -> None:
        added: dict[tuple[str, int, int, int], tuple[int, float, float]] = {}
        for one in outcomes:
            key = (one.metric, one.version, one.weight_epoch, one.place)
            count, total, squares = added.get(key, (0, 0.0, 0.0))
            added[key] = (count + 1, total + one.value, squares + one.value**2)
        rows = [
            {
                "tenant": self._tenant,
                "endpoint": endpoint,
                "metric": metric,
                "version": version,
                "weight_epoch": epoch,
                "place": place,
                "outcomes": count,
                "total": total,
                "squares": squares,
                "reported_unix_ms": unix_ms,
            }
            for (metric, version, epoch, place), (count, total, squares) in added.items()
        ]
        is_sqlite = connection.dialect.name == "sqlite"
        insert = (sqlite.insert if is_sqlite else postgresql.insert)(feedback_sums)
        more: dict[str, sa.ColumnElement[Any]] = {
            name: feedback_sums.c[name] + insert.excluded[name]
            for name in ("outcomes", "total", "squares")
        }
        more["reported_unix_ms"] = insert.excluded.reported_unix_ms
        connection.execute(insert.on_conflict_do_update(feedback_sums.primary_key, set_=more), rows)


class _Bounds:
    """Counts the metrics of an endpoint and of each answer, with those that a call adds."""

    def __init__(
        self,
        endpoint: str,
        known: dict[tuple[str, str], float],
        metrics: set[str],
        wanted: frozenset[str],
    ) -> None:
        self._endpoint = endpoint
        self._wanted = wanted
        self._metrics = metrics
        self._counts = Counter(id_ for id_, metric in known if metric not in wanted)

    def refusal(self, request_id: str, metric: str) -> InvalidRequest | None:
        """Count a metric that was not reported of an answer before, or say why it is too many."""
        if metric in self._wanted:
            self._metrics.add(metric)
            return None
        if self._counts[request_id] >= MAX_ANSWER_METRICS:
            return InvalidRequest(
                f"{MAX_ANSWER_METRICS} metrics were reported of this answer, and no answer has "
                "more; report fewer of each"
            )
        if metric not in self._metrics and len(self._metrics) >= MAX_METRICS:
            return InvalidRequest(
                f"endpoint {self._endpoint!r} has {MAX_METRICS} metrics and takes no other name "
                f"than theirs, so {metric!r} is not counted; report under one that it has, "
                "or compare it in a rollout or an experiment"
            )
        self._metrics.add(metric)
        self._counts[request_id] += 1
        return None
