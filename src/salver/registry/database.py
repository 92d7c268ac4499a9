"""The connection to SQLite or PostgreSQL, with the durability that acknowledged writes need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from salver.core.database_url import NO_URL, check_database_url
from salver.core.errors import ControlUnavailable, InvalidSettings, StorageFull
from salver.registry.postgresql import ANSWER_S, meaning_of, open_postgresql

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS = 10_000
_MIGRATION_S = 900.0
_NO_ROOM = ("database or disk is full", "disk I/O error", "No space left")

First = Callable[[sa.Connection], None]
"""What is done at the beginning of another change's transaction."""


def nothing(_connection: sa.Connection) -> None:
    """Do nothing first."""


class Database:
    """One engine; writes are transactions that begin by taking the write lock.

    A PostgreSQL that takes longer than ``answer_s`` for anything counts as away.
    """

    def __init__(self, url: str, answer_s: float = ANSWER_S) -> None:
        self._url = url
        self._answer_s = answer_s
        self._engine: sa.Engine | None = None

    @property
    def engine(self) -> sa.Engine:
        """The engine, after ``provision``."""
        if self._engine is None:
            raise ControlUnavailable("the database is not open")
        return self._engine

    def provision(self) -> None:
        """Open the database and bring its tables up to date.

        Raises ``InvalidSettings`` for a URL that cannot be used, ``ControlUnavailable`` while the
        database does not answer, and ``StorageFull``.
        """
        self.close()
        check_database_url(self._url)
        try:
            url = sa.make_url(self._url)
        except sa.exc.ArgumentError:
            # It may hold a password, so neither it nor what SQLAlchemy says is shown.
            raise InvalidSettings(NO_URL) from None
        if url.get_backend_name() == "sqlite":
            self._engine = _sqlite(url)
        else:
            self._engine = open_postgresql(url, self._answer_s)
        with translated():
            if url.get_backend_name() == "postgresql":
                self._migrate_patiently(url)
            else:
                self._migrate(self._engine)

    def close(self) -> None:
        """Close every connection."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a transaction that holds the write lock and is durable when it ends well."""
        with translated(), self.engine.begin() as connection:
            _lock(connection)
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading."""
        with translated(), self.engine.connect() as connection:
            yield connection

    def _migrate_patiently(self, url: sa.URL) -> None:
        """Bring the tables of a server that answers up to date, however large they are."""
        self.engine.connect().close()
        engine = open_postgresql(url, _MIGRATION_S)
        try:
            self._migrate(engine)
        finally:
            engine.dispose()

    def _migrate(self, engine: sa.Engine) -> None:
        config = Config()
        # A percent sign would begin an interpolation.
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with engine.begin() as connection:
            _lock(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def sqlite_url(path: Path) -> str:
    """Return the URL of a database file, whatever its path holds that means something in URLs."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def delete_some(connection: sa.Connection, table: sa.Table, which: sa.Select[Any]) -> int:
    """Delete the rows of a table that a query finds; returns how many.

    The query gets the columns of the key, and should have a limit: the write lock is free again
    soon then.
    """
    key = tuple(table.primary_key)
    some = which.with_only_columns(*key)
    return connection.execute(sa.delete(table).where(sa.tuple_(*key).in_(some))).rowcount


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
        meaning = meaning_of(error)
        if meaning is None:
            raise
        raise meaning from error
    except OSError as error:
        raise ControlUnavailable(f"the database does not answer: {error}") from error


def _lock(connection: sa.Connection) -> None:
    """Let nobody else write until the transaction ends; SQLite's begin with that."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7235421)"))


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
