"""Callers whose side fails while their answer is delivered: nobody else notices."""

import numpy as np
import pytest
import uvloop

from salver.core.errors import SalverError
from salver.core.request import InferenceResponse
from salver.core.tensor import Tensor, encode_bytes
from salver.runtimes.echo_stream import SIGNATURE
from tests.engine.fleet import (
    QUARANTINE,
    VARIANT,
    Caller,
    Callers,
    Model,
    client_of,
    finish,
    fleet,
    until,
)
from tests.engine.runtimes import REFUSED

ECHO = "echo:1"


class Broken(Caller):
    """A caller whose transport takes nothing."""

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Take note of an answer and fail."""
        super().send(response, final=final)
        raise RuntimeError("the transport is closed")

    def fail(self, error: SalverError) -> None:
        """Take note of a failure and fail as well."""
        super().fail(error)
        raise RuntimeError("the transport is closed")


def row(value: float) -> list[Tensor]:
    """Return the inputs that ask for one row."""
    return [Tensor.from_array("x", np.array([[value]]))]


def incarnation(callers: Callers) -> str:
    """Return which connection leads to the only worker."""
    (name,) = [name for name in callers.client._links if name != QUARANTINE]
    connection = callers.client._links[name]._connection
    assert connection is not None
    return str(id(connection))


@pytest.mark.parametrize("together", [False, True])
def test_a_caller_that_cannot_be_told_fails_alone(*, together: bool) -> None:
    """Whether it is an answer or a failure, alone or with others, the link goes on for the rest."""

    async def run() -> None:
        with fleet(Model()) as running:
            async with client_of(running) as callers:
                before = incarnation(callers)
                if together:
                    first = callers.ask_together([float(n) for n in range(1, 9)])
                    assert first[-1].cohort is not None
                    broken = Broken()
                    broken.value, broken.cohort = first[-1].value, first[-1].cohort
                    first[-1].cohort.seats[-1] = first[-1] = broken
                else:
                    values = (1.0, REFUSED)
                    first = [callers.send(row(v), caller=Broken()) for v in values]
                others = [callers.ask(float(n)) for n in range(20, 40)]
                await finish([*first, *others])
                assert {one.outcome for one in others} == {"ok"}
                assert incarnation(callers) == before
                assert callers.client.open_requests(VARIANT) == 0
                assert callers.client.ready_workers(VARIANT) == 1

    uvloop.run(run())


def test_a_stream_that_cannot_be_told_is_cancelled() -> None:
    """The worker does not go on with chunks that nobody gets, and others of the link go on."""

    async def run() -> None:
        with fleet(Model(ECHO, "echo-stream", b"echo", signature=SIGNATURE)) as running:
            async with client_of(running) as callers:
                before = incarnation(callers)
                words = Tensor("text", "BYTES", (1,), encode_bytes([b"word " * 100]))
                broken = callers.send([words], variant=ECHO, stream=True, caller=Broken())
                await until(lambda: broken.context is not None and broken.context.cancelled)
                assert len(broken.responses) == 1
                await until(lambda: callers.client.open_requests(ECHO) == 0)
                assert incarnation(callers) == before

    uvloop.run(run())
