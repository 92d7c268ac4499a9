"""PostgreSQL: how it is connected to, and what its errors mean."""

from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError

from salver.core.errors import ControlUnavailable, InvalidRequest, SalverError, StorageFull

_CONNECTIONS = 2
ANSWER_S = 5.0
_SERVER_TIMES = 2
_USED = "salver.used"
_NO_ROOM = "53100"
# Connections, who may connect, databases and schemas that are not there, standbys, transactions
# that said nothing for long, what somebody may not do yet, resources, shutdowns, disks.
_AWAY = ("08", "28", "3D", "3F", "25006", "25P03", "40", "42501", "53", "57", "58")
_BAD_VALUE = "22"


def open_postgresql(url: sa.URL, answer_s: float) -> sa.Engine:
    """Return an engine; whatever takes longer than ``answer_s`` fails, so that nobody waits on.

    The server is told to give up too, a little later: nothing else tells it that we have, when a
    network has dropped our words, and it would keep locks and connections of ours for hours.
    """
    # A server made under the C locale speaks ASCII to whoever asks for nothing else.
    engine = sa.create_engine(
        url.set(drivername="postgresql+pg8000"),
        pool_size=_CONNECTIONS,
        max_overflow=0,
        client_encoding="utf8",
        connect_args={"timeout": answer_s},
    )
    event.listen(engine, "connect", partial(_bound, answer_s))
    event.listen(engine, "checkout", _look)
    return engine


def meaning_of(error: DBAPIError) -> SalverError | None:
    """Return what an error of PostgreSQL or of the way to it means, None if that is not known."""
    state, text = _state(error)
    if state == _NO_ROOM:
        return StorageFull(f"the database has no room ({text}); free space on its disk")
    if state.startswith(_AWAY):
        return ControlUnavailable(f"the database does not answer: {text} (SQLSTATE {state})")
    if state.startswith(_BAD_VALUE):
        return InvalidRequest(f"the database does not store this: {text} (SQLSTATE {state})")
    if error.connection_invalidated or isinstance(error, InterfaceError):
        cause = error.orig.__cause__ if error.orig is not None else None
        told = f"{text} {cause}" if isinstance(cause, OSError) else text
        return ControlUnavailable(f"the database does not answer: {told}")
    return None


def _state(error: DBAPIError) -> tuple[str, str]:
    """Return the SQLSTATE that the server sent with an error, empty if none, and what it said."""
    details = error.orig.args[0] if error.orig is not None and error.orig.args else ""
    if isinstance(details, dict):
        return str(details.get("C", "")), str(details.get("M", ""))
    return "", str(details)


def _bound(answer_s: float, connection: Any, _record: Any) -> None:
    """Have the server end what takes too long, and a transaction of which it hears no more."""
    statement_ms = int(_SERVER_TIMES * answer_s * 1000)
    idle_ms = int(_SERVER_TIMES * min(answer_s, ANSWER_S) * 1000)
    cursor = connection.cursor()
    cursor.execute(f"SET statement_timeout = {statement_ms}")
    cursor.execute(f"SET idle_in_transaction_session_timeout = {idle_ms}")
    cursor.close()
    # What is set in a transaction that is rolled back is not set.
    connection.commit()


def _look(connection: Any, record: Any, _proxy: Any) -> None:
    """Replace a connection that does not answer, whatever it fails with.

    The driver lets some errors of the socket out as they are, which SQLAlchemy's own look does not
    take for a lost connection.
    """
    if _USED in record.info:
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
        except Exception as error:
            raise DisconnectionError("the connection is gone") from error
    record.info[_USED] = True
