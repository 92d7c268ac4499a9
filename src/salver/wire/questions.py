"""What a process has asked control and not been answered yet."""

import asyncio

import msgspec

from salver.core.errors import (
    ControlUnavailable,
    DeadlineExceeded,
    Overloaded,
    UnsupportedOperation,
    from_code,
)
from salver.wire.connection import Connection
from salver.wire.messages import FIRST_CHANGE_VERSION, Change, Changed, Fail

MAX_OPEN = 16
_RETRY_AFTER_S = 1.0


class Questions:
    """Open questions on the link to control: at most 16, each with an end."""

    def __init__(self) -> None:
        self._open: dict[int, asyncio.Future[None]] = {}
        self._last_id = 0

    async def ask(self, connection: Connection | None, change: Change, timeout_s: float) -> None:
        """Return when control has made the change, which gets its id here.

        Raises what control refuses it with, ``ControlUnavailable`` when control is away or goes,
        ``Overloaded`` when too much is open, ``UnsupportedOperation`` where control is older than
        such questions, and ``DeadlineExceeded``.
        """
        if connection is None or not connection.is_open or connection.peer is None:
            raise ControlUnavailable(
                "the control process is away, so nothing can be loaded or unloaded now; what is "
                "served stays served",
                retry_after_s=_RETRY_AFTER_S,
            )
        if connection.peer.version < FIRST_CHANGE_VERSION:
            raise UnsupportedOperation("the control process is of an older release; update it")
        if len(self._open) >= MAX_OPEN:
            raise Overloaded(
                f"{MAX_OPEN} loads and unloads are under way here", retry_after_s=_RETRY_AFTER_S
            )
        self._last_id += 1
        number = self._last_id
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        connection.send(msgspec.structs.replace(change, id=number))
        try:
            async with asyncio.timeout(timeout_s):
                await answer
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"control did not answer within {timeout_s:g} s; the repository's index says "
                "what became of it"
            ) from error
        finally:
            del self._open[number]

    def answered(self, message: Changed | Fail) -> None:
        """Take an answer; one that nobody waits for any more is dropped."""
        answer = self._open.get(message.id)
        if answer is None or answer.done():
            return
        if isinstance(message, Fail):
            error = from_code(message.code, message.message, message.retry_after_s)
            answer.set_exception(error)
        else:
            answer.set_result(None)

    def lost(self) -> None:
        """End every question: whoever would have answered is gone."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(
                    ControlUnavailable(
                        "the control process went away before it answered; ask again, the change "
                        "may have been made",
                        retry_after_s=_RETRY_AFTER_S,
                    )
                )
