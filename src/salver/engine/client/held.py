"""Cohorts that a worker holds whole, found by the ids of their members."""

from collections.abc import Iterator, Sequence

import msgspec

from salver.core.cohort import Cohort, Piece
from salver.engine.client.pending import VariantRoute


class Held(msgspec.Struct, eq=False):
    """A cohort on its way through a worker.

    ``ids`` are those of all its members on the link; members before ``start`` have had their
    answers. ``started`` tells that the worker was about to run the rest.
    """

    cohort: Cohort
    route: VariantRoute
    ids: tuple[int, ...]
    start: int = 0
    started: bool = False

    @property
    def open_count(self) -> int:
        """Count the members without an answer."""
        return len(self.ids) - self.start


class HeldCohorts:
    """The cohorts of one link; each is filed under the id of its first open member."""

    def __init__(self) -> None:
        self._by_id: dict[int, Held] = {}
        self.members = 0

    def __iter__(self) -> Iterator[Held]:
        """Go over the cohorts, oldest first; they may be removed meanwhile."""
        return iter(list(self._by_id.values()))

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._by_id)

    def add(self, held: Held) -> None:
        """File a cohort."""
        self._by_id[held.ids[held.start]] = held
        self.members += held.open_count

    def remove(self, held: Held) -> None:
        """Forget a cohort with the members it still has."""
        del self._by_id[held.ids[held.start]]
        self.members -= held.open_count

    def having(self, request_id: int) -> Held | None:
        """Return the cohort with this open member."""
        for held in self._by_id.values():
            if held.ids[held.start] <= request_id <= held.ids[-1]:
                return held
        return None

    def whole(self, ids: tuple[int, ...]) -> Held | None:
        """Return the cohort of exactly these open members."""
        held = self._by_id.get(ids[0])
        return held if held is not None and held.ids == ids else None

    def find(self, ids: Sequence[int]) -> list[tuple[Held, int]]:
        """Return the cohorts that these ids begin with, and up to which member each.

        They have one audience; where another begins, the search ends.
        """
        found: list[tuple[Held, int]] = []
        position, count = 0, len(ids)
        while position < count:
            held = self._by_id.get(ids[position])
            if held is None:
                break
            stop = min(len(held.ids), held.start + count - position)
            following = position + stop - held.start
            if ids[position:following] != held.ids[held.start : stop]:
                break
            if found and held.cohort.audience is not found[0][0].cohort.audience:
                break
            found.append((held, stop))
            position = following
        return found

    def advance(self, held: Held, stop: int) -> Piece:
        """Take note that the members before ``stop`` are answered; returns who they are."""
        start, ids = held.start, held.ids
        del self._by_id[ids[start]]
        self.members -= stop - start
        held.start = stop
        if stop < len(ids):
            self._by_id[ids[stop]] = held
        return Piece(held.cohort, start, stop)
