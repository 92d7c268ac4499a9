"""Structured logs: one JSON object a line, never with tensor values in it."""

import sys
from typing import Any

import structlog

EventDict = structlog.typing.EventDict
Logger = structlog.typing.FilteringBoundLogger


def get_logger(name: str) -> Logger:
    """Return a logger whose events carry ``room=name``."""
    logger: Logger = structlog.get_logger(room=name)
    return logger


def configure_logs(level: str, **context: Any) -> None:
    """Send events to standard error as JSON; ``context`` goes into every event of the process."""

    def with_context(_logger: Any, _method: str, event: EventDict) -> EventDict:
        # Not by structlog's context variables: callbacks from other threads run without them.
        return {**context, **event}

    structlog.configure(
        processors=[
            with_context,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
