"""Real worker processes and a client of theirs, for tests."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from salver.core.clock import SystemClock
from salver.core.cohort import Cohort, CohortHandler, Piece
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import SalverError
from salver.core.handler import Responder
from salver.core.hosting import Execution
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse, form_of
from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.core.tensor import Tensor
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.wire.messages import (
    PROTOCOL_VERSION,
    BatchPolicy,
    EndpointPlan,
    FileRef,
    Hello,
    Load,
    Plan,
    VariantPlan,
    WorkerPlan,
)
from salver.wire.planfile import write_plan
from salver.wire.transport import LinkOptions
from tests.engine.runtimes import SIGNATURE

QUARANTINE = "quarantine-0"
VARIANT = "affine:1"
CLOCK = SystemClock()
DEFAULT_POLICY = BatchPolicy()
DEFAULT_EXECUTION = Execution()
_START_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True)
class Model:
    """What a fleet hosts."""

    variant: str = VARIANT
    runtime: str = "affine"
    content: bytes = b"affine"
    policy: BatchPolicy = DEFAULT_POLICY
    idempotent: bool = True
    signature: Signature = SIGNATURE
    trust_code: bool = False
    file: str = "model.txt"
    pinned: bool = False
    size_hint_bytes: int = 0
    execution: Execution = DEFAULT_EXECUTION


class Fleet:
    """A home folder, a plan, and the worker processes that it names."""

    def __init__(
        self, models: tuple[Model, ...], workers: int, environment: dict[str, str]
    ) -> None:
        # Socket paths are at most 107 bytes long, pytest's own folders can be longer.
        self.home = Path(tempfile.mkdtemp(prefix="fleet-"))
        (self.home / "run").mkdir()
        self.models = models
        self.environment = environment
        self.names = tuple(f"shared-{index}" for index in range(workers))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.starts: dict[str, int] = {}
        self.plan = self.write(models, 1)

    def write(self, models: tuple[Model, ...], number: int) -> Plan:
        """Write a plan that hosts these models everywhere."""
        loads = tuple(self._load(model) for model in models)
        workers = [self._worker(name, "shared", loads) for name in self.names]
        lazy = tuple(
            msgspec.structs.replace(load, lazy=True)
            for load in loads
            if load.runtime != "echo-stream"
        )
        workers.append(self._worker(QUARANTINE, "quarantine", lazy))
        variants = [
            VariantPlan(
                model.variant,
                "primary",
                model.variant.partition(":")[0],
                model.variant.partition(":")[2],
                load.digest,
                model.runtime,
                10_000,
                1,
                model.signature,
                self.names,
                model.policy,
                QUARANTINE if load.runtime != "echo-stream" else None,
                model.idempotent,
            )
            for model, load in zip(models, loads, strict=True)
        ]
        endpoints = tuple(EndpointPlan(variant.model, (variant,)) for variant in variants)
        self.plan = Plan(number, 0, endpoints, tuple(workers))
        write_plan(self.home / "run" / "plan.msgpack", self.plan)
        return self.plan

    def start(self, name: str, flags: Sequence[str] = ()) -> None:
        """Start one worker; one of that name that was killed is gone first."""
        if name in self.processes:
            self.processes[name].wait()
        self.starts[name] = self.starts.get(name, 0) + 1
        command = [sys.executable, "-m", "tests.engine.worker_main", "--id", name]
        self.processes[name] = subprocess.Popen(
            [*command, "--home", str(self.home), *flags],
            env={**os.environ, **self.environment},
            stderr=subprocess.DEVNULL,
        )

    def kill(self, name: str) -> None:
        """End a worker without warning."""
        self.processes[name].send_signal(signal.SIGKILL)

    async def keep_alive(self) -> None:
        """Start workers again that have died; what the supervisor does."""
        while True:
            for name, process in list(self.processes.items()):
                if process.poll() is not None:
                    self.start(name)
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End every process and remove the home."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _load(self, model: Model) -> Load:
        digest = hashlib.sha256(model.content).hexdigest()
        blob = self.home / "blobs" / "sha256" / digest[:2] / digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(model.content)
        files = (FileRef(model.file, digest, len(model.content)),)
        return Load(
            model.variant,
            digest,
            model.runtime,
            files,
            "local",
            model.signature,
            model.policy,
            trust_code=model.trust_code,
            pinned=model.pinned,
            size_hint_bytes=model.size_hint_bytes,
            execution=model.execution,
        )

    def _worker(self, name: str, kind: str, loads: tuple[Load, ...]) -> WorkerPlan:
        return WorkerPlan(name, kind, f"unix:{self.home}/run/worker-{name}.sock", loads)


@contextlib.contextmanager
def fleet(
    *models: Model, workers: int = 1, environment: dict[str, str] | None = None
) -> Iterator[Fleet]:
    """Start workers and the quarantine; end them afterwards."""
    started = Fleet(models or (Model(),), workers, environment or {})
    try:
        for name in (*started.names, QUARANTINE):
            started.start(name)
        yield started
    finally:
        started.close()


class Caller:
    """One request and what became of it."""

    def __init__(self) -> None:
        self.context: RequestContext | None = None
        self.value = 0.0
        self.responses: list[InferenceResponse] = []
        self.error: SalverError | None = None
        self.finals = 0
        self.cohort: Cohort | None = None
        self.over = asyncio.Event()

    def leave(self) -> None:
        """Wait no longer."""
        if self.context is None and self.cohort is not None and self.cohort.when_apart is not None:
            self.cohort.when_apart()
        assert self.context is not None
        self.context.cancel()

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Take an answer or a part of one."""
        self.responses.append(response)
        self._final(final)

    def fail(self, error: SalverError) -> None:
        """Take a failure."""
        self.error = error
        self._final(final=True)

    def _final(self, final: bool) -> None:
        if final:
            self.finals += 1
            self.over.set()

    @property
    def outcome(self) -> str:
        """Say how it ended: ok, an error's code, or nothing."""
        if not self.finals:
            return ""
        return self.error.code if self.error is not None else "ok"

    @property
    def answer(self) -> float:
        """Return the answer to a request of one row."""
        (output,) = self.responses[-1].outputs
        return float(output.array()[0, 0])


class Callers:
    """Makes requests of a client, or of a handler in front of it."""

    def __init__(self, client: EngineClient, handler: CohortHandler | None = None) -> None:
        self.client = client
        self.handler = handler or client
        self.principal = ANONYMOUS
        self.all: list[Caller] = []

    def ask(
        self,
        value: float,
        *,
        variant: str = VARIANT,
        timeout_s: float = 30.0,
        idempotent: bool = True,
    ) -> Caller:
        """Ask for one row."""
        tensor = Tensor.from_array("x", np.array([[value]]))
        return self.send([tensor], variant=variant, timeout_s=timeout_s, idempotent=idempotent)

    def send(
        self,
        inputs: list[Tensor],
        *,
        variant: str = VARIANT,
        timeout_s: float = 30.0,
        idempotent: bool = True,
        stream: bool = False,
        caller: Caller | None = None,
    ) -> Caller:
        """Send a request with these tensors."""
        caller = caller or Caller()
        if inputs[0].datatype == "FP64" and inputs[0].size_bytes:
            caller.value = float(inputs[0].array().flat[0])
        now_ns = CLOCK.monotonic_ns()
        context = RequestContext("0" * 40, self.principal, now_ns, now_ns + round(timeout_s * 1e9))
        context.variant = variant
        context.idempotent = idempotent
        caller.context = context
        self.all.append(caller)
        parameters = {"stream": True} if stream else None
        request = InferenceRequest(variant, inputs, parameters=parameters)
        self.handler(request, context, caller)
        return caller

    def ask_together(self, values: Sequence[float], *, timeout_s: float = 30.0) -> list[Caller]:
        """Ask for one row each, as a cohort."""
        callers = [Caller() for _ in values]
        template = InferenceRequest(VARIANT, [Tensor.from_array("x", np.array([[0.0]]))])
        form_of(template)
        template.inputs = []
        now_ns = CLOCK.monotonic_ns()
        context = RequestContext("", self.principal, now_ns, now_ns + round(timeout_s * 1e9))
        context.variant = VARIANT
        count = len(callers)
        cohort = Cohort(
            template,
            context,
            Room(),
            [*callers],
            ["0" * 40] * count,
            [None] * count,
            [np.float64(value).tobytes() for value in values],
        )
        for caller, value in zip(callers, values, strict=True):
            caller.value, caller.cohort = value, cohort
        self.all += callers
        self.handler.many([cohort])
        return callers


class Room:
    """Audience whose seats are callers."""

    def seated(self, cohort: Cohort) -> None:
        """Need not know."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Hand each caller its part."""
        position = 0
        for cohort, start, stop in pieces:
            for caller in cohort.seats[start:stop]:
                caller.send(response.alone(position))
                position += 1

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Let a caller stand for itself from now on."""
        caller: Caller = cohort.seats[index]
        assert request.inputs[0].array().item() == caller.value
        caller.context = context
        return caller


async def finish(callers: list[Caller], timeout_s: float = 60.0) -> None:
    """Wait until each has had its final answer."""
    async with asyncio.timeout(timeout_s):
        for caller in callers:
            await caller.over.wait()


async def until(condition: Callable[[], bool], timeout_s: float = _START_TIMEOUT_S) -> None:
    """Wait for something that happens on its own."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def client_of(
    running: Fleet,
    settings: EngineSettings | None = None,
    meter: Meter | None = None,
) -> AsyncIterator[Callers]:
    """Connect a client to a fleet; every variant that can load is ready."""
    settings = settings or EngineSettings()
    hello = Hello(PROTOCOL_VERSION, "gateway", "gateway-0", "test")
    client = EngineClient(
        hello, settings, CLOCK, meter or Meter(), LinkOptions(coalesce=settings.coalesce)
    )
    await client.start()
    client.apply(running.plan)
    wanted = [model.variant for model in running.models if model.content != b"fail"]
    count = len(running.names)
    await until(lambda: all(client.ready_workers(variant) == count for variant in wanted))
    try:
        yield Callers(client)
    finally:
        await client.stop()
