"""Structured logs: one JSON object a line, never with tensor values in it."""

import sys
from typing import Any

import structlog

Logger = structlog.typing.FilteringBoundLogger


def get_logger(name: str) -> Logger:
    """Return a logger whose events carry ``room=name``."""
    logger: Logger = structlog.get_logger(room=name)
    return logger


def configure_logs(level: str, **context: Any) -> None:
    """Send events to standard error as JSON; ``context`` goes into every event of the process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**context)
