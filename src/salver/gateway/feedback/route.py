"""`POST /v2/models/E/feedback`: who may report, and control's word on what was taken."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import orjson

from salver.core.context import Principal
from salver.core.errors import (
    InvalidRequest,
    MethodNotAllowed,
    SalverError,
    UnsupportedOperation,
    fault_of,
    from_code,
)
from salver.core.feedback import Problem, Reported, Taken
from salver.gateway.auth import Keys
from salver.gateway.feedback.bodies import MAX_BODY_BYTES, Sent, read_body
from salver.gateway.feedback.room import Room
from salver.gateway.http.inflate import inflate
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Extensions
from salver.gateway.triton.paths import Call
from salver.observe.logs import get_logger
from salver.wire.messages import Report

log = get_logger(__name__)

ACTION = "feedback"
TIMEOUT_S = 10.0

Tell = Callable[[Report, float], Coroutine[Any, Any, Taken]]


class FeedbackRoute:
    """Passes reports on to control, and all other calls to the extensions that it wraps.

    An answer says of each report what control has stored; nothing is kept here, so that without
    control there is a refusal and never a promise. ``tell`` is None where the data port takes none.
    """

    def __init__(
        self, others: Extensions, inference: Inference, keys: Keys, tell: Tell | None
    ) -> None:
        self.names = others.names
        self._others = others
        self._inference = inference
        self._keys = keys
        self._tell = tell
        self._room = Room()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, message: HttpMessage, call: Call) -> None:
        """Answer a message, a report when control has answered.

        Raises what is answered as a refusal: what an inference of this caller would be refused
        with, ``MethodNotAllowed``, ``UnsupportedOperation``, ``Overloaded``, and what a bad body is
        refused with.
        """
        if call.action != ACTION:
            self._others(message, call)
            return
        if message.method not in call.methods:
            raise MethodNotAllowed("what became of answers is reported with POST")
        principal = self._keys.identify(message.headers, message.peer)
        if self._tell is None:
            raise UnsupportedOperation(
                "the data port takes no reports: 'http.feedback' is off; use 'salver feedback' or "
                "the control API"
            )
        self._inference.access.check(principal, call.name)
        self._inference.known(call.name, principal.tenant)
        encoding = message.headers.get(b"content-encoding", b"")
        body = inflate(message.body, encoding, MAX_BODY_BYTES)
        sent = read_body(body, message.headers.get(b"content-type", b""))
        good = [report for _, report in sent.reports if isinstance(report, Reported)]
        if not good:
            _answer(message, sent, Taken(0, 0, ()))
            return
        self._room.take(principal, len(good))
        principal.in_flight += 1
        report = Report(
            0, call.name, principal.name, principal.tenant, message.request_id, tuple(good)
        )
        work = self._pass_on(self._tell, message, sent, report, principal)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, tell: Tell, message: HttpMessage, sent: Sent, report: Report, principal: Principal
    ) -> None:
        try:
            taken = await tell(report, TIMEOUT_S)
        except SalverError as refusal:
            answered: Taken | SalverError = refusal
        except Exception as fault:  # a fault of ours must still be answered
            log.exception("report_failed", request_id=message.request_id)
            answered = fault_of(fault)
        else:
            answered = taken
        finally:
            principal.in_flight -= 1
            self._room.give(principal, len(report.reports))
        if isinstance(answered, SalverError):
            message.fail(answered)
        else:
            _answer(message, sent, answered)


def _answer(message: HttpMessage, sent: Sent, taken: Taken) -> None:
    """Tell how many were taken and what is wrong with others, by the numbers of the body.

    What is wrong with a single report is an error of its own.
    """
    passed_on = [number for number, report in sent.reports if isinstance(report, Reported)]
    problems = [
        Problem(number, error.code, error.message)
        for number, error in sent.reports
        if isinstance(error, InvalidRequest)
    ]
    problems += [
        msgspec.structs.replace(problem, number=passed_on[problem.number - 1])
        for problem in taken.problems
    ]
    if sent.is_one and problems:
        message.fail(from_code(problems[0].code, problems[0].error))
        return
    problems.sort(key=lambda problem: problem.number)
    whole = msgspec.structs.replace(taken, problems=tuple(problems))
    message.respond(200, (orjson.dumps(msgspec.to_builtins(whole)),))
