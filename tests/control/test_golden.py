"""Golden examples are asked in turns, so that a model that hangs keeps nobody else waiting long."""

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from salver.artifact.golden import Golden, write_golden
from salver.control import golden
from salver.control.desired import Observed
from salver.control.golden import GoldenGate, Subject
from salver.control.hub import Hub
from salver.control.loads import AddressOf
from salver.core.clock import ManualClock
from salver.core.errors import GoldenMismatch, WireError
from salver.core.tensor import Tensor
from salver.observe.merge import Merger, Totals
from salver.registry.blobs import BlobStore
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Chunk,
    Hello,
    Infer,
    Message,
    Plan,
    VariantState,
)
from salver.wire.transport import listen

EXAMPLES = 5


class Model:
    """Answers with what it was sent; versions of ``hangs`` never do, ``slow`` ones take a while."""

    def __init__(self, connection: Connection, asked: list[str]) -> None:
        self._connection = connection
        self._asked = asked

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take a question."""
        if not isinstance(message, Infer):
            return
        self._asked.append(message.variant)
        chunk, data = Chunk(message.id, 0, True, message.inputs), bytes(payload)
        if message.variant.startswith("slow"):
            asyncio.get_running_loop().call_later(0.15, self._connection.send, chunk, [data])
        elif not message.variant.startswith("hangs"):
            self._connection.send(chunk, [data])

    def on_lost(self, error: WireError | None) -> None:
        """Forget the link."""


@asynccontextmanager
async def gate(expected: float = 1.0) -> AsyncIterator[tuple[GoldenGate, str, list[str]]]:
    """Give a gate whose workers are one socket, the digest of examples, and what was asked."""
    asked: list[str] = []
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        blobs = BlobStore(folder / "blobs")
        blobs.provision()
        one = Tensor.from_array("x", np.array([[1.0]]))
        other = Tensor.from_array("x", np.array([[expected]]))
        digest = blobs.put(write_golden([Golden([one], [other])] * EXAMPLES))
        address_of = AddressOf(str(folder))
        hello = Hello(PROTOCOL_VERSION, "worker", "shared-0", "w1")
        listener = await listen(address_of("shared-0"), hello, lambda link: Model(link, asked))
        hub = Hub("", "one", ManualClock(), Merger(Totals({}, {})), lambda: None)
        try:
            yield GoldenGate(blobs, hub, address_of, lambda: None), digest, asked
        finally:
            await listener.close()


def subject(variant: str) -> Subject:
    """Return a version in the worker."""
    return Subject("shared-0", "w1", variant)


async def keeps_nobody_waiting() -> None:
    """Let many versions hang before and while a good one is asked."""
    async with gate() as (keeper, digest, asked):
        names = [subject(f"hangs:{n}") for n in range(8) for _ in range(3)]
        hanging = [asyncio.create_task(keeper._ask_all(one, digest)) for one in names]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await keeper._ask_all(subject("good:1"), digest)
            await keeper._ask_all(subject("good:2"), digest)
        assert asked.count("good:1") == asked.count("good:2") == EXAMPLES
        assert len(keeper._slow) > 4
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def takes_several_turns() -> None:
    """Ask one that takes longer than a turn."""
    async with gate() as (keeper, digest, asked):
        await keeper._ask_all(subject("slow:1"), digest)
        assert len(asked) > EXAMPLES, "it went on in a second turn"
        assert "slow:1" in keeper._slow


async def is_asked_anew() -> None:
    """Ask one that hangs for two whole turns."""
    async with gate() as (keeper, digest, _):
        with pytest.raises(WireError, match="no answer"):
            await keeper._ask_all(subject("hangs:1"), digest)


async def fails_with_wrong_answers() -> None:
    """Ask one that answers otherwise than it should."""
    async with gate(expected=2.0) as (keeper, digest, _):
        with pytest.raises(GoldenMismatch):
            await keeper._ask_all(subject("good:1"), digest)


def test_those_that_hang_delay_others_for_a_short_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight versions, three times each, never answer; a good one is through all the same."""
    monkeypatch.setattr(golden, "_QUICK_TURN_S", 0.2)
    asyncio.run(keeps_nobody_waiting())


def test_who_takes_long_is_asked_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a turn had no time for is asked in the next; the answers so far are not asked again."""
    monkeypatch.setattr(golden, "_QUICK_TURN_S", 0.4)
    asyncio.run(takes_several_turns())


def test_who_never_answers_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn without a single answer ends the check, so that it is begun again later."""
    monkeypatch.setattr(golden, "_QUICK_TURN_S", 0.1)
    monkeypatch.setattr(golden, "_SLOW_TURN_S", 0.1)
    asyncio.run(is_asked_anew())


def test_wrong_answers_end_the_check() -> None:
    """They are a verdict on the version, in whatever turn they come."""
    asyncio.run(fails_with_wrong_answers())


async def kept(workers: dict[str, dict[str, VariantState]]) -> bool:
    """Tell whether a verdict is still known when its process is there and workers say this."""
    async with gate() as (keeper, _, _):
        keeper._verdicts[subject("m:1")] = GoldenMismatch("wrong")
        hub = keeper._hub
        hub.observed = lambda: Observed(workers, None)  # type: ignore[method-assign]
        hub.incarnations = lambda: {"shared-0": "w1"}  # type: ignore[method-assign]
        keeper.screen([], Plan(1, 0, ()))
        return subject("m:1") in keeper._verdicts


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ready", True),
        ("evicted", True),
        ("reloading", True),
        ("loading", False),
        ("failed", False),
        ("", False),
    ],
)
def test_a_verdict_ends_with_what_it_is_about(state: str, expected: bool) -> None:
    """A version that its worker has no longer is asked anew when it is loaded once more."""
    states = {"m:1": VariantState("m:1", state)} if state else {}
    assert asyncio.run(kept({"shared-0": states})) is expected


def test_a_verdict_stays_while_its_worker_says_nothing() -> None:
    """A process whose link is new has not said yet what it has."""
    assert asyncio.run(kept({}))


async def lacks_files() -> None:
    """Check a version while control can open no file."""
    async with gate() as (keeper, digest, _):

        def read(sha256: str, max_bytes: int) -> bytes:
            raise OSError(errno.EMFILE, "too many open files")

        keeper._blobs.read = read  # type: ignore[method-assign]
        keeper._open[subject("good:1")] = asyncio.create_task(asyncio.sleep(0))
        await keeper._check(subject("good:1"), digest)
        assert keeper._verdicts == {}
        assert keeper._open == {}


def test_what_control_lacks_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of the version, which is asked anew."""
    monkeypatch.setattr(golden, "_AGAIN_S", 0.0)
    asyncio.run(lacks_files())
