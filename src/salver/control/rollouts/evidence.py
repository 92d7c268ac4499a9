"""What gateways have counted for rollouts: taken as it comes, kept so that a restart loses little.

A gateway's counts are cumulative, so a repeated, late or lost message does no harm, and reading
what is stored again gives the same report.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from salver.control.rollouts.judging import is_warm_up
from salver.core.errors import SalverError
from salver.core.routing import CANARY
from salver.observe.logs import get_logger
from salver.rollout.columns import Columns
from salver.rollout.evidence import Block, Collection, Observed, Reading
from salver.rollout.machine import Rollout
from salver.rollout.series import Slices
from salver.rollout.tally import Packed
from salver.wire.messages import EndpointPlan, Evidence

log = get_logger(__name__)

_BLOCK, _SLICES = "block", "slices"
_MAX_NAME = 128


class _Book:
    """All evidence of one rollout, and which of it is not stored yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.collection = Collection()
        self.slices = Slices()
        self.unsaved: dict[str, bytes] = {}


class Page(NamedTuple):
    """What is in a book at a moment."""

    blocks: list[Block]
    readings: list[Reading]

    def observed(self) -> list[Observed]:
        """Return every block with the counts of all gateways; takes time where there are many."""
        collection = Collection()
        for block in self.blocks:
            collection.begin(block)
        for reading in self.readings:
            collection.take(reading)
        return collection.observed()


def _restore(book: _Book, endpoint: str, reading: Reading) -> None:
    try:
        book.collection.take(reading)
    except SalverError as error:
        # Another version of Salver counted other columns; without them a step only takes longer.
        log.error("evidence_refused", endpoint=endpoint, cause=error.message)


class EvidenceBooks:
    """Evidence of the rollouts that have not ended: one book for each endpoint's newest."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}

    def take(self, incarnation: str, evidence: Evidence) -> None:
        """Take what a gateway has counted; what does not fit is written to the log."""
        book = self._books.get(evidence.endpoint)
        if book is None:
            return
        packed = Packed(evidence.width, evidence.rows, evidence.bins)
        reading = Reading(incarnation, evidence.number, evidence.epoch, evidence.arm, packed)
        try:
            is_news = book.collection.take(reading)
        except SalverError as error:
            log.error("evidence_refused", endpoint=evidence.endpoint, cause=error.message)
            return
        if is_news:
            name = f"{incarnation}:{evidence.epoch}:{evidence.arm}"[:_MAX_NAME]
            book.unsaved[name] = msgspec.json.encode(reading)

    def has(self, endpoint: str, number: int) -> bool:
        """Tell whether the book of an endpoint's rollout is open."""
        book = self._books.get(endpoint)
        return book is not None and book.number == number

    def open(self, endpoint: str, number: int, stored: Mapping[str, bytes]) -> None:
        """Begin a rollout's book with what is stored of it, in place of the rollout's before."""
        book = self._books[endpoint] = _Book(number)
        for name, body in stored.items():
            if name.startswith(_BLOCK):
                book.collection.begin(msgspec.json.decode(body, type=Block))
        if _SLICES in stored:
            book.slices = msgspec.json.decode(stored[_SLICES], type=Slices)
        for name, body in stored.items():
            if not name.startswith(_BLOCK) and name != _SLICES:
                _restore(book, endpoint, msgspec.json.decode(body, type=Reading))

    def close(self, endpoint: str) -> None:
        """End a book; what comes late is not counted."""
        self._books.pop(endpoint, None)

    def clear(self) -> None:
        """Close every book: another control may have gone on with what is stored."""
        self._books.clear()

    def begin(self, rollout: Rollout, plan: EndpointPlan | None) -> bool:
        """Open the block that a plan has begun, and tell whether there was one.

        A plan that was made for another rollout begins none. Raises ``InvalidRequest`` for too many
        blocks.
        """
        if plan is None or not plan.evidence or plan.salt != rollout.salt:
            return False
        canary = next((v for v in plan.variants if v.role == CANARY and v.weight > 0), None)
        if canary is None or canary.id != rollout.target:
            return False
        columns = msgspec.msgpack.decode(plan.evidence, type=Columns)
        block = Block(
            canary.weight_epoch,
            canary.weight,
            columns.canary,
            columns.primary,
            warmup=is_warm_up(columns),
        )
        book = self._books[rollout.endpoint]
        if any(known.epoch == block.epoch for known in book.collection.blocks()):
            return False
        book.collection.begin(block)
        book.unsaved[f"{_BLOCK}:{block.epoch}"] = msgspec.json.encode(block)
        return True

    def newest_epoch(self, endpoint: str) -> int:
        """Return the newest weight epoch of which something is counted, 0 if there is none."""
        book = self._books.get(endpoint)
        blocks = book.collection.blocks() if book is not None else []
        return blocks[-1].epoch if blocks else 0

    def slices(self, endpoint: str) -> Slices:
        """Return the time slices of a rollout's evidence so far."""
        return self._books[endpoint].slices

    def cut(self, endpoint: str, number: int, slices: Slices) -> None:
        """Keep a rollout's time slices, if one has been added."""
        book = self._books.get(endpoint)
        if book is not None and book.number == number and slices != book.slices:
            book.slices = slices
            book.unsaved[_SLICES] = msgspec.json.encode(slices)

    def page(self, endpoint: str) -> Page:
        """Return all that is in a rollout's book, which another thread may add up."""
        collection = self._books[endpoint].collection
        return Page(collection.blocks(), collection.readings())

    def observed(self, endpoint: str) -> list[Observed]:
        """Return every block of a rollout with what was counted in it."""
        return self.page(endpoint).observed()

    def unsaved(self, endpoint: str, number: int) -> dict[str, bytes]:
        """Return what is not stored yet of a rollout; it stays so until ``saved`` is told."""
        book = self._books.get(endpoint)
        if book is None or book.number != number:
            return {}
        return dict(book.unsaved)

    def saved(self, endpoint: str, number: int, rows: Mapping[str, bytes]) -> None:
        """Take note that rows are stored; what has come in the meantime is not."""
        book = self._books.get(endpoint)
        if book is None or book.number != number:
            return
        for name, body in rows.items():
            if book.unsaved.get(name) == body:
                del book.unsaved[name]
