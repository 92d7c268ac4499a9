"""The connection to SQLite or PostgreSQL, with the durability that acknowledged writes need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from salver.core.errors import ControlUnavailable, InvalidSettings, StorageFull

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS = 10_000
_CONNECTIONS = 2
_NO_ROOM = ("database or disk is full", "disk I/O error", "No space left", "53100")

First = Callable[[sa.Connection], None]
"""What is done at the beginning of another change's transaction."""


def nothing(_connection: sa.Connection) -> None:
    """Do nothing first."""


class Database:
    """One engine; writes are transactions that begin by taking the write lock."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: sa.Engine | None = None

    @property
    def engine(self) -> sa.Engine:
        """The engine, after ``provision``."""
        if self._engine is None:
            raise ControlUnavailable("the database is not open")
        return self._engine

    def provision(self) -> None:
        """Open the database and bring its tables up to date.

        Raises ``InvalidSettings`` for a URL that cannot be used, and ``StorageFull``.
        """
        self.close()
        try:
            url = sa.make_url(self._url)
        except sa.exc.ArgumentError as error:
            raise InvalidSettings(f"database URL {self._url!r} cannot be read") from error
        if url.get_backend_name() == "sqlite":
            self._engine = _sqlite(url)
        elif url.get_backend_name() == "postgresql":
            self._engine = sa.create_engine(
                url, pool_pre_ping=True, pool_size=_CONNECTIONS, max_overflow=0
            )
        else:
            raise InvalidSettings(
                f"database {url.get_backend_name()!r} is not supported; use sqlite or "
                "postgresql+pg8000"
            )
        with translated():
            self._migrate()

    def close(self) -> None:
        """Close every connection."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a transaction that holds the write lock and is durable when it ends well."""
        with translated(), self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7235421)"))
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading."""
        with translated(), self.engine.connect() as connection:
            yield connection

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into domain errors."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if any(sign in text for sign in _NO_ROOM):
            raise StorageFull(
                f"the database has no room ({text}); free space on its disk"
            ) from error
        raise ControlUnavailable(f"the database does not answer: {text}") from error
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, InterfaceError):
            raise ControlUnavailable(f"the database is gone: {error.orig}") from error
        raise


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        # SQLAlchemy's begin event below opens transactions; the driver must not do so by itself.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=DELETE")
        # EXTRA also syncs the folder after the journal is deleted; without that, power loss can
        # bring the journal back and undo an acknowledged commit.
        cursor.execute("PRAGMA synchronous=EXTRA")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
