"""Structured logs: one JSON object a line, never with tensor values in it.

Logging raises nothing: who logs goes on, also where the log cannot be written.
"""

from typing import Any

import structlog

from salver.observe.lines import Lines, stderr

EventDict = structlog.typing.EventDict
Logger = structlog.typing.FilteringBoundLogger


def get_logger(name: str) -> Logger:
    """Return a logger whose events carry ``room=name``."""
    logger: Logger = structlog.get_logger(room=name)
    return logger


def configure_logs(level: str, **context: Any) -> None:
    """Send events to standard error as JSON; ``context`` goes into every event of the process.

    An event that cannot be written is lost; ``log_lines_lost`` says how many were, when it works
    again.
    """

    def with_context(_logger: Any, _method: str, event: EventDict) -> EventDict:
        # Not by structlog's context variables: callbacks from other threads run without them.
        return {**context, **event}

    rendered = structlog.processors.JSONRenderer()
    processors: list[structlog.typing.Processor] = [
        with_context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]

    def told(lost: int, cause: str) -> str:
        event: Any = {"event": "log_lines_lost", "lost": lost, "cause": cause, "room": __name__}
        for processor in processors:
            event = processor(None, "warning", event)
        return str(rendered(None, "warning", event))

    out = _Out(Lines(stderr(), told))
    structlog.configure(
        processors=[*processors, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=True,
    )


class _Out:
    """Where rendered events go."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def _write(self, line: str) -> None:
        self._lines.write(line)

    debug = info = warning = error = critical = exception = _write
