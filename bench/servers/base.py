"""What the bench needs of a server."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import ClassVar

from bench.failure import BenchError
from bench.processes import Group, Memory
from bench.wire_http import Connection, Target
from bench.workspace import Workspace

START_TIMEOUT_S = 60.0
PROBE_INTERVAL_S = 0.005
JSON = {"Content-Type": "application/json"}


class Server(ABC):
    """One server with the tabular model, and others of `models` where it can serve them."""

    name: ClassVar[str]
    binary: ClassVar[bool] = False
    """Whether it takes the binary tensor extension."""
    grpc: ClassVar[bool] = False
    """Whether it answers ModelInfer over gRPC."""

    def __init__(
        self, workspace: Workspace, models: tuple[str, ...], *, with_grpc: bool = False
    ) -> None:
        self.workspace = workspace
        self.models = models
        self.with_grpc = with_grpc
        self.folder = workspace.run / self.name
        self.groups: list[Group] = []

    @abstractmethod
    def provision(self) -> None:
        """Make the environment and the files; starts nothing that stays."""

    @abstractmethod
    def launch(self) -> None:
        """Start the processes into `groups` without waiting for them."""

    @abstractmethod
    def tabular(self) -> Target:
        """Where the tabular model answers."""

    def identity(self) -> Target:
        """Where the identity model answers; only asked for where `binary` is true."""
        raise NotImplementedError(self.name)

    def rpc(self) -> Target:
        """Where ModelInfer answers; only asked for where `grpc` and `with_grpc` are true."""
        raise NotImplementedError(self.name)

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """A request that a server which is there answers with 200: where, body and headers."""
        return self.tabular(), self.workspace.cases()[0].body, JSON

    def start(self) -> float:
        """Launch and wait for the first right answer; returns seconds since the launch."""
        begin = time.monotonic()
        self.launch()
        return self._until_answer(begin)

    def kill_worker(self) -> bool:
        """kill -9 the process that holds the model; False where there is none of its own."""
        return False

    def recovery(self) -> float | None:
        """Kill the only worker; returns seconds until the next answer, None without a worker."""
        begin = time.monotonic()
        return self._until_answer(begin) if self.kill_worker() else None

    def _until_answer(self, begin: float) -> float:
        while not self._answers():
            if time.monotonic() - begin > START_TIMEOUT_S:
                raise BenchError(f"{self.name} gave no answer; see {self.folder}")
            for group in self.groups:
                group.check()
            time.sleep(PROBE_INTERVAL_S)
        return time.monotonic() - begin

    def _answers(self) -> bool:
        target, body, headers = self.probe()
        try:
            connection = Connection(target, timeout_s=5.0, answer_limit=1 << 16)
        except OSError:
            return False
        try:
            return connection.post(body, headers).status == 200
        except (OSError, ValueError):
            return False
        finally:
            connection.close()

    def memory(self) -> Memory:
        """Memory of all processes of this server."""
        parts = [group.memory() for group in self.groups]
        return Memory(
            sum(part.pss_kib for part in parts),
            sum(part.rss_kib for part in parts),
            sum(part.processes for part in parts),
        )

    def stop(self) -> None:
        """End all processes, last started first."""
        while self.groups:
            self.groups.pop().stop()

    def spawn(self, group: Group) -> None:
        """Start a group and remember it for `stop`."""
        self.groups.append(group)
        group.start()
