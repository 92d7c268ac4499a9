"""The requests of one connection that wait for their answers, which leave in order."""

import asyncio
from collections import deque
from typing import cast

from salver.gateway.http.message import HttpMessage, body_bytes
from salver.observe.logs import get_logger

log = get_logger(__name__)


class Replies:
    """Requests in the order in which they came.

    ``held_bytes`` is what large answers have in memory that wait for those before them: whoever
    makes one adds it.
    """

    __slots__ = ("_queue", "held_bytes")

    def __init__(self) -> None:
        self._queue: deque[HttpMessage] = deque()
        self.held_bytes = 0

    def __len__(self) -> int:
        """Count those that are not answered."""
        return len(self._queue)

    def append(self, message: HttpMessage) -> None:
        """Take the next request."""
        self._queue.append(message)

    def write(self, transport: asyncio.Transport) -> bool:
        """Write the answers that are due; tells whether the connection ends with the last one.

        Those behind it have no place any more. A transport that takes no answer is aborted: its
        client would wait for ever, and whoever answers must not suffer for it.
        """
        queue = self._queue
        while queue and (reply := queue[0].reply) is not None:
            message = queue.popleft()
            try:
                if type(reply) is bytes:
                    transport.write(reply)
                else:
                    pieces = cast("list[bytes]", reply)
                    transport.writelines(pieces)
                    self.held_bytes -= body_bytes(pieces[1:])
            except Exception:
                log.exception("answer_not_written", request_id=message.request_id)
                transport.abort()
                return False
            if message.close:
                self.forget()
                return True
        return False

    def forget(self) -> None:
        """Tell whoever answers that nobody waits."""
        queue, self._queue = self._queue, deque()
        self.held_bytes = 0
        for message in queue:
            gone, message.on_gone = message.on_gone, None
            if gone is not None:
                gone(message)

    def close_after_all(self) -> None:
        """Let the connection end with the last answer that is due, unless that is made already."""
        if self._queue and self._queue[-1].reply is None:
            self._queue[-1].close = True

    def close_after(self, message: HttpMessage) -> bool:
        """Let it end with the answer of a request that comes behind all others.

        False when an answer that is made already has said that it is the last.
        """
        last = self._queue[-1] if self._queue else None
        if last is not None and last.close:
            if last.reply is not None:
                return False
            last.close = False
        message.close = True
        return True
