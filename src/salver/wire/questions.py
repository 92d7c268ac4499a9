"""What a process has asked control and not been answered yet."""

import asyncio
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from salver.core.errors import (
    ControlUnavailable,
    DeadlineExceeded,
    Overloaded,
    UnsupportedOperation,
    from_code,
)
from salver.wire.connection import Connection
from salver.wire.messages import (
    FIRST_CHANGE_VERSION,
    FIRST_REPORT_VERSION,
    Change,
    Changed,
    Fail,
    Report,
    ReportTaken,
)

MAX_OPEN = 16
MAX_OPEN_REPORTS = 64
_RETRY_AFTER_S = 1.0

Question = TypeVar("Question", bound=Change | Report)
Answer = TypeVar("Answer", bound=Changed | ReportTaken)


class Terms(NamedTuple):
    """What holds for one kind of questions, and what those who ask are told.

    ``away`` is what follows from control being away, ``gone`` what to do when it went before it
    answered, ``late`` when it did not answer in time.
    """

    first_version: int
    max_open: int
    called: str
    away: str
    gone: str
    late: str


CHANGES = Terms(
    FIRST_CHANGE_VERSION,
    MAX_OPEN,
    "loads and unloads",
    "nothing can be loaded or unloaded now; what is served stays served",
    "ask again, the change may have been made",
    "the repository's index says what became of it",
)
REPORTS = Terms(
    FIRST_REPORT_VERSION,
    MAX_OPEN_REPORTS,
    "calls that report",
    "no report can be kept now; send it again later",
    "send the reports again, each counts once",
    "send the reports again, each counts once",
)


class Questions(Generic[Question, Answer]):
    """Open questions of one kind on the link to control: so many at most, each with an end.

    ``numbers`` are the ids, unique on the link, so all kinds on it share them.
    """

    def __init__(self, terms: Terms, numbers: Iterator[int]) -> None:
        self._terms = terms
        self._numbers = numbers
        self._open: dict[int, asyncio.Future[Answer]] = {}
        self._is_silent = False

    async def ask(
        self, connection: Connection | None, question: Question, timeout_s: float
    ) -> Answer:
        """Return control's answer to a question, which gets its id here.

        Raises what control refuses it with, ``ControlUnavailable`` when control is away or goes,
        ``Overloaded`` when too much is open, ``UnsupportedOperation`` where control is older than
        such questions, and ``DeadlineExceeded``.
        """
        terms = self._terms
        if connection is None or not connection.is_open or connection.peer is None:
            raise ControlUnavailable(
                f"the control process is away, so {terms.away}", retry_after_s=_RETRY_AFTER_S
            )
        if self._is_silent and connection.is_blocked:
            # What is sent now would only pile up here.
            raise ControlUnavailable(
                f"the control process reads nothing, so {terms.away}", retry_after_s=_RETRY_AFTER_S
            )
        if connection.peer.version < terms.first_version:
            raise UnsupportedOperation("the control process is of an older release; update it")
        if len(self._open) >= terms.max_open:
            raise Overloaded(
                f"{terms.max_open} {terms.called} are under way here", retry_after_s=_RETRY_AFTER_S
            )
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        connection.send(msgspec.structs.replace(question, id=number))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            self._is_silent = True
            raise DeadlineExceeded(
                f"control did not answer within {timeout_s:g} s; {terms.late}",
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        finally:
            del self._open[number]

    def answered(self, message: Answer | Fail) -> None:
        """Take an answer; one that nobody waits for (any more) is dropped."""
        self._is_silent = False
        answer = self._open.get(message.id)
        if answer is None or answer.done():
            return
        if isinstance(message, Fail):
            error = from_code(message.code, message.message, message.retry_after_s)
            answer.set_exception(error)
        else:
            answer.set_result(message)

    def lost(self) -> None:
        """End every question: whoever would have answered is gone."""
        self._is_silent = False
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(
                    ControlUnavailable(
                        f"the control process went away before it answered; {self._terms.gone}",
                        retry_after_s=_RETRY_AFTER_S,
                    )
                )
