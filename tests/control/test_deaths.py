"""Which ends of processes are held against a version."""

import asyncio
import tempfile
from collections.abc import Callable

import pytest

from salver.control.deaths import Deaths
from salver.control.hub import GATEWAY, SUPERVISOR, WORKER, Hub
from salver.core.clock import ManualClock
from salver.observe.merge import Merger, Totals
from salver.wire.connection import Connection
from salver.wire.deaths import Death
from salver.wire.framing import Buffer
from salver.wire.messages import PROTOCOL_VERSION, Hello, Message, Snapshot
from salver.wire.transport import connect

CANARY, OTHER = "m:2", "other:1"
SHARED, QUARANTINE = ("m:1", CANARY, OTHER), "quarantine-0"


def end(deaths: Deaths, worker: str, pid: int, *ran: str, hosted: tuple[str, ...] = SHARED) -> None:
    """Let a process end unasked under plan 7 while these versions ran."""
    deaths.ended(Death(worker, pid, hosted, 7))
    deaths.ran(worker, pid, ran)


def test_an_end_in_a_shared_worker_counts_for_the_one_whose_work_ran() -> None:
    """Neither what only shares the process nor what did nothing is blamed."""
    deaths = Deaths()
    for pid in range(3):
        end(deaths, "shared-0", pid, CANARY)
    end(deaths, "shared-0", 4, OTHER)
    end(deaths, "shared-0", 5)
    assert deaths.of(CANARY, 6) == 3
    assert deaths.of(OTHER, 6) == 1
    assert deaths.of("m:1", 6) == 0


def test_ends_of_a_process_that_only_one_version_has_count_without_a_request() -> None:
    """It may end while it loads, when no gateway knows of anything that ran."""
    deaths = Deaths()
    for pid in range(2):
        end(deaths, "dedicated-m-2-0", pid, hosted=(CANARY,))
    end(deaths, "shared-1", 9, hosted=(CANARY,))
    assert deaths.of(CANARY, 6) == 3


@pytest.mark.parametrize("hosted", [SHARED, (CANARY,)])
def test_ends_that_somebody_asked_for_do_not_count(hosted: tuple[str, ...]) -> None:
    """Fewer replicas, or a link that was lost, are no crash, whatever ran then."""
    deaths = Deaths()
    for pid in range(3):
        deaths.ran("dedicated-m-2-0", pid, [CANARY])
    assert deaths.of(CANARY, 6) == 0
    deaths.ended(Death("dedicated-m-2-0", 1, hosted, 7))
    assert deaths.of(CANARY, 6) == 1


def test_ends_before_the_rollout_do_not_count() -> None:
    """What an earlier rollout of the same version did was that one's."""
    deaths = Deaths()
    end(deaths, "shared-0", 1, CANARY)
    assert deaths.of(CANARY, 7) == 0
    assert deaths.of(CANARY, 6) == 1


def test_saying_it_again_changes_nothing() -> None:
    """Two gateways and their repeated reports tell of one end."""
    deaths = Deaths()
    for _ in range(5):
        end(deaths, "shared-0", 1, CANARY)
    assert deaths.of(CANARY, 6) == 1


def test_quarantine_tells_who_it_was_where_several_ran() -> None:
    """One more end there is no second crash, and explains one at most."""
    deaths = Deaths()
    end(deaths, "shared-0", 1, CANARY, OTHER)
    assert deaths.of(CANARY, 6) == deaths.of(OTHER, 6) == 0
    end(deaths, QUARANTINE, 2, OTHER)
    assert (deaths.of(CANARY, 6), deaths.of(OTHER, 6)) == (0, 1)
    end(deaths, QUARANTINE, 3, CANARY)
    end(deaths, QUARANTINE, 4, CANARY)
    assert deaths.of(CANARY, 6) == 1
    end(deaths, "shared-0", 5, CANARY)
    assert deaths.of(CANARY, 6) == 2
    end(deaths, "shared-0", 6, CANARY)
    end(deaths, QUARANTINE, 7, CANARY)
    assert deaths.of(CANARY, 6) == 3


def test_only_so_many_processes_are_known() -> None:
    """A process that crashes for weeks does not fill control's memory."""
    deaths = Deaths()
    for pid in range(3000):
        end(deaths, "shared-0", pid, CANARY)
    assert deaths.of(CANARY, 6) == 1024


def test_who_says_it_decides_what_it_means() -> None:
    """A gateway cannot make an end unasked, nor does a worker say anything of others."""
    hub = Hub("", "one", ManualClock(), Merger(Totals({}, {})), lambda: None)

    def says(role: str, death: Death) -> None:
        hub.take_deaths(role, [death])

    says(GATEWAY, Death("shared-0", 1, (CANARY,), 7))
    says(WORKER, Death("shared-0", 1, SHARED, 7))
    assert hub.deaths.of(CANARY, 6) == 0
    says(SUPERVISOR, Death("shared-0", 1, SHARED, 7))
    assert hub.deaths.of(CANARY, 6) == 1


class Process:
    """A process that reports to control, and need not hear what it says."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reports = 0

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take nothing."""

    def on_lost(self, error: Exception | None) -> None:
        """Take no note."""

    def report(self, *deaths: Death) -> None:
        """Say which processes are gone."""
        self.reports += 1
        self.connection.send(Snapshot(self.reports, 1, 1, "ready", 0, deaths=deaths))


async def joined(address: str, role: str, name: str) -> Process:
    """Return a process that is connected to control."""
    made: list[Process] = []

    def accept(connection: Connection) -> Process:
        made.append(Process(connection))
        return made[0]

    await connect(address, Hello(PROTOCOL_VERSION, role, name, name), accept, 10.0)
    return made[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


def test_an_end_counts_when_all_who_know_have_spoken() -> None:
    """One gateway blames the canary, the other names what ran beside it a moment later."""
    clock = ManualClock()
    clock.advance(100.0)

    async def run(address: str) -> None:
        hub = Hub(address, "one", clock, Merger(Totals({}, {})), lambda: None)

        def heard(name: str) -> int:
            return next(
                peer.received_ns for peer in hub.peers(GATEWAY) if peer.hello.identity == name
            )

        await hub.start(None)
        boss = await joined(address, SUPERVISOR, "boss")
        one, two = [await joined(address, GATEWAY, name) for name in ("one", "two")]
        one.report()
        two.report()
        await until(lambda: len(hub.peers(GATEWAY)) == 2 and heard("one") == heard("two") > 0)
        clock.advance(1.0)
        boss.report(Death("shared-0", 1, SHARED, 7))
        await until(lambda: hub.deaths.of(CANARY, 6) == 0 and bool(hub.deaths._processes))
        clock.advance(0.5)
        one.report(Death("shared-0", 1, (CANARY,)))
        await until(lambda: hub.deaths.of(CANARY, 6) == 1)
        assert hub.crashes(CANARY, 6, 2.0) == 0, "the other one has said nothing yet"
        two.report(Death("shared-0", 1, (OTHER,)))
        await until(lambda: heard("two") == clock.monotonic_ns())
        assert hub.crashes(CANARY, 6, 2.0) == 0
        boss.report(Death("shared-0", 2, SHARED, 7))
        clock.advance(0.5)
        one.report(Death("shared-0", 2, (CANARY,)))
        await until(lambda: hub.deaths.of(CANARY, 6) == 1)
        assert hub.crashes(CANARY, 6, 2.0) == 0
        clock.advance(2.0)
        assert hub.crashes(CANARY, 6, 2.0) == 1, "who says nothing for so long has nothing to say"
        boss.report(Death("shared-0", 2, SHARED, 7))
        boss.report(Death("shared-0", 3, SHARED, 7))
        await until(lambda: ("shared-0", 3) in hub.deaths._processes)
        assert hub.crashes(CANARY, 6, 2.0) == 1, "what is told again is no news"
        for process in (boss, one, two):
            process.connection.close()
        await hub.stop()

    with tempfile.TemporaryDirectory(prefix="hub-") as folder:
        asyncio.run(run(f"unix:{folder}/control.sock"))
