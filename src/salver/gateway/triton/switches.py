"""Settings that Triton lets its callers change, and that are read-only here."""

from typing import Any

_LEVELS = ("debug", "info", "warning", "error")


def trace_settings() -> dict[str, Any]:
    """Return the document of ``GET /v2/trace/setting``: nothing is traced."""
    return {
        "trace_level": ["OFF"],
        "trace_rate": "0",
        "trace_count": "0",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    }


def log_settings(level: str) -> dict[str, Any]:
    """Return the document of ``GET /v2/logging`` for one of Salver's log levels."""
    level = level.lower()
    rank = _LEVELS.index(level) if level in _LEVELS else 0
    return {
        "log_file": "",
        "log_info": rank <= _LEVELS.index("info"),
        "log_warnings": rank <= _LEVELS.index("warning"),
        "log_errors": True,
        "log_verbose_level": int(rank == 0),
        "log_format": "ISO8601",
    }
