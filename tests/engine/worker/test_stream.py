"""Streams through a real worker: order, credit, cancellation, deaths."""

import asyncio

import pytest
import uvloop

from salver.core.tensor import Tensor, encode_bytes
from salver.engine.client.pending import STREAM_CREDIT
from salver.runtimes.echo_stream import SIGNATURE
from salver.wire.messages import Chunk, Fail, InferMany, TensorHeader
from salver.wire.transport import connect
from tests.engine.fleet import Caller, Callers, Fleet, Model, client_of, finish, fleet, until
from tests.wire.links import Inbox, hello

VARIANT = "echo:1"
MODEL = Model(VARIANT, "echo-stream", b"echo", signature=SIGNATURE)


def ask(callers: Callers, words: int, *, stream: bool = True) -> Caller:
    """Ask for so many chunks."""
    text = b" ".join(b"w%d" % index for index in range(words))
    tensor = Tensor("text", "BYTES", (1,), encode_bytes([text]))
    return callers.send([tensor], variant=VARIANT, stream=stream)


def words_of(caller: Caller) -> list[bytes]:
    """Return what came, in order."""
    return [word for r in caller.responses for t in r.outputs for word in t.array().ravel()]


def test_chunks_come_in_order_and_end_once() -> None:
    """More chunks than the first credit arrive complete, in order, with one final.

    Streams of several callers do not mix.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            asked = [ask(callers, count) for count in (1, 5, STREAM_CREDIT * 4, 100)]
            await finish(asked)
            for caller, count in zip(asked, (1, 5, STREAM_CREDIT * 4, 100), strict=True):
                assert words_of(caller) == [b"w%d" % index for index in range(count)]
                assert caller.finals == 1
                assert caller.outcome == "ok"

    with fleet(MODEL) as running:
        uvloop.run(run(running))


@pytest.mark.parametrize(
    ("times_us", "names"), [((9_000_000,), ()), ((8_000_000, 0, 9_000_000), ("a", "b", "c"))]
)
def test_a_cohort_is_as_many_streams(times_us: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Each member of a cohort is a stream of its own, in both forms of the message."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            await finish([ask(callers, 1)])
            inbox = Inbox()
            address = f"unix:{running.home}/run/worker-shared-0.sock"
            link = await connect(address, hello("gateway"), inbox.accept, 5.0)
            texts = [encode_bytes([text]) for text in (b"w0", b"w1", b"w2")]
            header = (TensorHeader("text", "BYTES", (1,), len(texts[0])),)
            link.send(InferMany((1, 2, 3), VARIANT, header, times_us, names), texts)

            def ends() -> dict[int, object]:
                return {
                    m.id: payload if isinstance(m, Chunk) else m.code
                    for m, payload in inbox.messages
                    if isinstance(m, Fail) or (isinstance(m, Chunk) and not m.final)
                }

            await until(lambda: len(ends()) == 3)
            expected: dict[int, object] = dict(enumerate(texts, 1))
            assert ends() == (expected if not names else {**expected, 2: "deadline_exceeded"})
            link.close()
            await inbox.until_lost()

    with fleet(MODEL) as running:
        uvloop.run(run(running))


def test_credit_holds_the_worker_back() -> None:
    """Without further credit only the first chunks are sent.

    A cancelled stream ends, and the next one is answered.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            link = next(iter(callers.client._links.values()))
            caller = ask(callers, 200)
            connection = link._connection
            assert connection is not None
            link._connection = None  # nobody grants more
            await until(lambda: len(caller.responses) == STREAM_CREDIT)
            await asyncio.sleep(0.1)
            assert len(caller.responses) == STREAM_CREDIT
            link._connection = connection
            assert caller.context is not None
            caller.context.cancel()
            await asyncio.sleep(0.1)
            assert len(caller.responses) == STREAM_CREDIT
            other = ask(callers, 3)
            await finish([other])
            assert words_of(other) == [b"w0", b"w1", b"w2"]

    with fleet(MODEL) as running:
        uvloop.run(run(running))


def test_a_begun_stream_is_not_repeated() -> None:
    """A stream that has given its first chunk fails with worker_crashed when the worker dies."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            caller = ask(callers, 100_000)
            await until(lambda: len(caller.responses) > 0)
            running.kill(running.names[0])
            running.kill(running.names[1])
            await finish([caller])
            assert caller.outcome == "worker_crashed"
            assert words_of(caller) == [b"w%d" % n for n in range(len(caller.responses))]

    with fleet(MODEL, workers=2) as running:
        uvloop.run(run(running))


def test_bad_input_fails_the_stream() -> None:
    """What the runtime refuses at submit is the answer."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            tensor = Tensor("other", "BYTES", (1,), encode_bytes([b"a"]))
            caller = callers.send([tensor], variant=VARIANT, stream=True)
            await finish([caller])
            assert caller.outcome == "invalid_tensor"

    with fleet(MODEL) as running:
        uvloop.run(run(running))
