"""What a process promises of when its event loop will be back."""

import asyncio
from pathlib import Path

from salver.core.clock import SystemClock
from salver.observe.heartbeat import Heartbeat
from salver.wire.pulse import Beat, expect, read

CLOCK = SystemClock()
S_NS = 1_000_000_000


def promised(folder: Path) -> tuple[int, float]:
    """Return when the process last gave a sign, and for how long."""
    beat = read(folder, "control")
    assert beat is not None
    return beat.beaten_ns, (beat.due_ns - beat.beaten_ns) / S_NS


def test_it_beats_while_the_loop_comes_round(tmp_path: Path) -> None:
    """Each sign promises another one within the limit, and the last one the end of the process."""

    async def work() -> None:
        async with asyncio.timeout(30):
            while read(tmp_path, "control") == Beat(1, 2):  # noqa: ASYNC110 - a file says nothing
                await asyncio.sleep(0.01)
            first_ns, seconds = promised(tmp_path)
            assert seconds == 0.4
            while promised(tmp_path)[0] == first_ns:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    expect(tmp_path, "control", Beat(1, 2))
    asyncio.run(Heartbeat(tmp_path, "control", 0.4, CLOCK).during(work(), 25.0))
    assert promised(tmp_path)[1] == 25.0


def test_an_end_has_the_limit_at_least(tmp_path: Path) -> None:
    """Who may be silent for long in its work may be so while it ends, however that goes."""

    async def work() -> None:
        raise ValueError

    heartbeat = Heartbeat(tmp_path, "control", 60.0, CLOCK)
    try:
        asyncio.run(heartbeat.during(work(), 25.0))
    except ValueError:
        assert promised(tmp_path)[1] == 60.0
    else:
        raise AssertionError


def test_without_a_limit_or_room_nothing_is_promised(tmp_path: Path) -> None:
    """What the supervisor expected is taken back, since it would be broken; the work is done."""
    done: list[str] = []

    async def work(name: str) -> None:
        done.append(name)

    expect(tmp_path, "control", Beat(1, 2))
    asyncio.run(Heartbeat(tmp_path, "control", 0.0, CLOCK).during(work("unlimited"), 25.0))
    assert read(tmp_path, "control") is None
    nowhere = tmp_path / "nowhere"
    asyncio.run(Heartbeat(nowhere, "control", 30.0, CLOCK).during(work("roomless"), 25.0))
    assert done == ["unlimited", "roomless"]
