"""What the processes of a server hold: descriptors by kind, shared memory, files, children."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.e2e.server import Server

SHARED = Path("/dev/shm")
LEDGERS = "ledgers"
COPIES = "lock of copies"
_LOOKS, _PAUSE_S = 5, 0.2


def processes(server: Server) -> dict[str, int]:
    """Return the processes that the supervisor keeps alive; fails while one of them is restarting.

    Raises ``LookupError`` then.
    """
    table = json.loads((server.home / "run" / "processes.json").read_text())["processes"]
    if not all(one["pid"] for one in table):
        raise LookupError("a process is restarting")
    return {one["identity"]: one["pid"] for one in table}


def held(pid: int) -> Counter[str]:
    """Count the descriptors of a process by kind, and the ledgers that it has mapped.

    Raises ``OSError`` for one that is gone.
    """
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            kinds[_kind(str(link.readlink()))] += 1
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    kinds[LEDGERS] = sum("/ledger-" in line for line in maps)
    # A worker that has loaded something keeps one for as long as it runs.
    kinds[COPIES] = max(0, kinds[COPIES] - 1)
    return kinds


def _kind(target: str) -> str:
    """Return what a descriptor is of: socket, pipe and the like, or file; ledgers have names."""
    if target.endswith(".lock") and "/run/models/" in target:
        return COPIES
    if target.startswith("/"):
        return "ledger" if "/ledger-" in target else "file"
    return target.partition(":[")[0]


def take(server: Server) -> dict[str, Counter[str]]:
    """Return what each process of a server holds; raises ``LookupError`` or ``OSError``."""
    return {name: held(pid) for name, pid in processes(server).items()}


def most(server: Server) -> dict[str, Counter[str]]:
    """Return the most that each process holds at some looks; raises as ``take``."""
    known = take(server)
    for _ in range(_LOOKS):
        time.sleep(_PAUSE_S)
        for name, kinds in take(server).items():
            known[name] |= kinds
    return known


def grown(before: dict[str, Counter[str]], now: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """Return what each process holds more of than it did."""
    more = {name: now[name] - kinds for name, kinds in before.items()}
    return {name: kinds for name, kinds in more.items() if kinds}


def sockets(server: Server) -> list[str]:
    """Return every socket of each process, as the kernel's tables show it."""
    found: list[str] = []
    for name, pid in processes(server).items():
        lines = {
            line.split()[place]: line.strip()
            for table, place in (("unix", 6), ("tcp", 9), ("tcp6", 9))
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        }
        for link in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name)):
            with suppress(OSError):
                kind, _, inode = str(link.readlink()).partition(":[")
                if kind == "socket":
                    found.append(f"{name}: {link.name} {lines.get(inode[:-1], inode)}")
    return found


def strays(server: Server) -> set[str]:
    """Return the descendants of the supervisor that nobody started, and those that are dead."""
    pid = server.supervisor_pid()
    assert pid is not None
    known = set(processes(server).values())
    return {
        f"{one.pid} {one.status()} {' '.join(one.cmdline())}"
        for one in _descendants(psutil.Process(pid))
        if one.pid not in known or one.status() == psutil.STATUS_ZOMBIE
    }


def _descendants(parent: psutil.Process) -> Iterator[psutil.Process]:
    for one in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            one.status()
            yield one


def left_behind(server: Server) -> set[str]:
    """Return the files of the run folder that belong to no process of now."""
    present = set(processes(server))
    return {
        str(path.relative_to(server.home))
        for path in _owned(server.home / "run")
        if path.name.startswith("ledger-") or _owner(path) not in present
    }


def _owned(run: Path) -> Iterator[Path]:
    for pattern in ("ledger-*", "pulse-*", "end-*", "worker-*.sock", "models/*"):
        yield from run.glob(pattern)


def _owner(path: Path) -> str:
    name = path.name.removeprefix("pulse-").removeprefix("end-").removeprefix("worker-")
    return name.removesuffix(".sock")


def shared_memory() -> set[str]:
    """Return the names of the machine's shared memory, but for what databases have of it."""
    return {path.name for path in SHARED.iterdir() if not path.name.startswith("PostgreSQL.")}
