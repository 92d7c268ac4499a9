"""Which databases there are, told before anything is started that would fail with another."""

from salver.core.errors import InvalidSettings

NO_URL = (
    "'control.database_url' is no URL; it looks like "
    "postgresql+pg8000://USER:PASSWORD@HOST:5432/DATABASE"
)
"""What is said of one that cannot be read; it may hold a password, so it is not shown."""
_KINDS = ("sqlite", "postgresql")
_SEPARATOR, _DRIVER = "://", "+"


def check_database_url(url: str) -> None:
    """Raise ``InvalidSettings`` for what is no URL of a database that is supported; empty is."""
    kind, separator, _ = url.partition(_SEPARATOR)
    if not url:
        return
    if not separator:
        raise InvalidSettings(NO_URL)
    kind = kind.partition(_DRIVER)[0]
    if kind not in _KINDS:
        raise InvalidSettings(
            f"database {kind[:40]!r} is not supported; use sqlite or postgresql+pg8000"
        )
