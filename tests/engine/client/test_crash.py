"""What callers are told whose worker died: real workers, killed, and notes of why."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from salver.wire import ends
from salver.wire.ends import End
from tests.engine.fleet import Caller, Fleet, Model, client_of, finish, fleet

LIMIT_BYTES = 300_000_000


def outcomes(callers: list[Caller]) -> Counter[str]:
    """Count how requests ended."""
    return Counter(caller.outcome for caller in callers)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ((LIMIT_BYTES, LIMIT_BYTES), "memory_limit_exceeded"),
        ((0, 0), "worker_crashed"),
        ((None, None), "worker_crashed"),
    ],
)
def test_the_note_of_an_end_says_why(limits: tuple[int | None, int | None], code: str) -> None:
    """It comes after the link is gone, and is waited for; without one the cause stays open.

    A note of another process is none.
    """

    async def run(running: Fleet) -> None:
        folder = running.home / "run"
        for name in running.names:
            ends.expect(folder, name)
            ends.tell(folder, name, End(1, 7))
        async with client_of(running) as callers:
            asked = [callers.ask(float(value), idempotent=False) for value in range(20)]
            await asyncio.sleep(0.1)
            for name, limit_bytes in zip(running.names, limits, strict=True):
                running.kill(name)
                running.processes[name].wait()
                await asyncio.sleep(0.05)
                if limit_bytes is not None:
                    ends.tell(folder, name, End(running.processes[name].pid, limit_bytes))
            await finish(asked)
            assert outcomes(asked) == {code: 20}

    with fleet(Model(runtime="very-slow"), workers=2) as running:
        uvloop.run(run(running))


def test_who_stops_does_not_wait_for_a_note() -> None:
    """A client that is stopped answers those that still wait to hear why."""

    async def run(running: Fleet) -> None:
        (name,) = running.names
        ends.expect(running.home / "run", name)
        async with client_of(running) as callers:
            asked = [callers.ask(1.0, idempotent=False)]
            await asyncio.sleep(0.1)
            running.kill(name)
            running.processes[name].wait()
            async with asyncio.timeout(20.0):
                while callers.client._deaths.open_count == 0:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.001)
            assert callers.client.in_flight == 1
            await callers.client.stop()
            assert outcomes(asked) == {"worker_crashed": 1}
            assert callers.client.in_flight == 0

    with fleet(Model(runtime="very-slow"), workers=1) as running:
        uvloop.run(run(running))


def test_notes_are_replaced_and_removed(tmp_path: Path) -> None:
    """What was noted stays for a successor that is expected, and goes with the worker."""
    assert not ends.is_noted(tmp_path, "w")
    ends.expect(tmp_path, "w")
    assert ends.is_noted(tmp_path, "w")
    assert ends.read(tmp_path, "w") is None
    ends.tell(tmp_path, "w", End(12, 34))
    ends.expect(tmp_path, "w")
    assert ends.read(tmp_path, "w") == End(12, 34)
    ends.expect(tmp_path, "v")
    ends.forget(tmp_path, "w")
    assert not ends.is_noted(tmp_path, "w")
    ends.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
