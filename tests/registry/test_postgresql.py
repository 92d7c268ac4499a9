"""PostgreSQL: what its errors mean, and connections that are lost or do not answer."""

import gc
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from salver.core.errors import ControlUnavailable, InvalidRequest, StorageFull
from salver.registry.database import Database
from tests.e2e.server import wait_until
from tests.postgres import Postgres


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """Give an open database without tables of others."""
    postgres.empty()
    database = Database(postgres.url)
    database.provision()
    yield database
    database.close()


def value(database: Database, statement: str) -> object:
    """Return what a statement selects."""
    with database.read() as connection:
        return connection.scalar(sa.text(statement))


def end_others(postgres: Postgres) -> int:
    """End every connection but our own, as a restart of the server does; returns how many."""
    engine = sa.create_engine(postgres.url)
    with engine.begin() as connection:
        ended = connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        ).all()
    engine.dispose()
    return len(ended)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StorageFull),
        ("53300", ControlUnavailable),
        ("57P03", ControlUnavailable),
        ("57P01", ControlUnavailable),
        ("08006", ControlUnavailable),
        ("28P01", ControlUnavailable),
        ("25006", ControlUnavailable),
        ("42501", ControlUnavailable),
        ("22021", InvalidRequest),
    ],
)
def test_the_server_s_errors_have_codes(
    database: Database, state: str, kind: type[Exception]
) -> None:
    """Each says what the server said, and what it means is told by its SQLSTATE."""
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'the cause' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(kind, match="the cause"), database.write() as connection:
        connection.execute(sa.text(raising))
    assert value(database, "SELECT 7") == 7


def test_faults_of_ours_stay_what_they_are(database: Database) -> None:
    """A statement that is wrong is no sign of a database that is away."""
    with pytest.raises(sa.exc.DBAPIError), database.read() as connection:
        connection.execute(sa.text("SELEC 1"))


def test_text_that_it_does_not_store_is_the_caller_s_fault(database: Database) -> None:
    """A NUL character is refused with a code."""
    with pytest.raises(InvalidRequest, match="0x00"), database.read() as connection:
        connection.execute(sa.text("SELECT length(:text)"), {"text": "a\0b"})


def administer(postgres: Postgres, *statements: str) -> None:
    """Do what only the owner of the server may."""
    engine = sa.create_engine(postgres.url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture
def stranger(postgres: Postgres) -> Iterator[Database]:
    """Give the database, which has no tables, as a role sees it that may do nothing there."""
    postgres.empty()
    administer(postgres, "CREATE ROLE stranger LOGIN", "GRANT USAGE ON SCHEMA public TO stranger")
    database = Database(postgres.url.replace("salver@", "stranger@"))
    yield database
    database.close()
    administer(postgres, "DROP OWNED BY stranger CASCADE", "DROP ROLE stranger")


def test_rights_that_are_lacking_may_come(stranger: Database, postgres: Postgres) -> None:
    """Without them the database is away, with what the server says, and a GRANT is enough."""
    with pytest.raises(ControlUnavailable, match="permission denied for schema"):
        stranger.provision()
    administer(postgres, "GRANT CREATE ON SCHEMA public TO stranger")
    stranger.provision()
    assert value(stranger, "SELECT count(*) FROM versions") == 0


def test_tables_of_another_role_may_be_granted(stranger: Database, postgres: Postgres) -> None:
    """Whoever made the tables may let another in, who is refused with the cause until then."""
    owner = Database(postgres.url)
    owner.provision()
    owner.close()
    with pytest.raises(ControlUnavailable, match="permission denied for table"):
        stranger.provision()
    administer(postgres, "GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger")
    stranger.provision()
    assert value(stranger, "SELECT count(*) FROM versions") == 0


def test_a_restart_is_not_noticed_by_what_comes_after(
    database: Database, postgres: Postgres
) -> None:
    """Connections that were lost while nobody used them are replaced."""
    assert value(database, "SELECT 1") == 1
    assert end_others(postgres) >= 1
    assert value(database, "SELECT 2") == 2


def test_a_transaction_that_is_cut_has_a_code(database: Database, postgres: Postgres) -> None:
    """It fails as a whole, and the next one has a connection again."""
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE kept (x integer)"))
    with (
        pytest.raises(ControlUnavailable, match="the database does not answer"),
        database.write() as connection,
    ):
        connection.execute(sa.text("INSERT INTO kept VALUES (1)"))
        end_others(postgres)
        connection.execute(sa.text("INSERT INTO kept VALUES (2)"))
    assert value(database, "SELECT count(*) FROM kept") == 0


def test_a_server_that_says_nothing_is_away() -> None:
    """One that accepts connections and never answers keeps nobody waiting."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        database = Database(f"postgresql+pg8000://salver@127.0.0.1:{port}/x", answer_s=0.2)
        with pytest.raises(ControlUnavailable, match="timed out"):
            database.provision()
    with warnings.catch_warnings():
        # The driver leaves the socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_server_that_stops_to_answer_is_away(database: Database, postgres: Postgres) -> None:
    """A statement that takes too long fails with a code, and the next one has a new connection."""
    hasty = Database(postgres.url, answer_s=0.5)
    hasty.provision()
    with pytest.raises(ControlUnavailable, match="timed out"):
        value(hasty, "SELECT pg_sleep(5)")
    assert value(hasty, "SELECT 3") == 3
    hasty.close()
    assert value(database, "SELECT 4") == 4


def waiting(database: Database) -> object:
    """Return how many connections wait for somebody's lock."""
    return value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted")


def test_who_is_cut_off_in_a_change_does_not_lock_others_out(
    database: Database, postgres: Postgres
) -> None:
    """The server hears nothing of it, and lets go of the lock by itself."""
    cut = Database(postgres.url, answer_s=0.5)
    cut.provision()
    changed = None
    with (
        pytest.raises(ControlUnavailable, match="the database does not answer"),
        cut.write() as connection,
    ):
        connection.execute(sa.text("SELECT 1"))
        with database.write() as other:
            changed = other.scalar(sa.text("SELECT 2"))
        connection.execute(sa.text("SELECT 3"))
    assert changed == 2
    cut.close()


def test_who_has_given_up_waits_at_the_server_no_more(
    database: Database, postgres: Postgres
) -> None:
    """Attempts that ended here do not add up there until it has no connections left."""
    hasty = Database(postgres.url, answer_s=0.5)
    hasty.provision()
    with database.write() as connection:
        connection.execute(sa.text("SELECT 1"))
        with pytest.raises(ControlUnavailable, match="timed out"), hasty.write():
            raise AssertionError("two hold the lock")
        wait_until(lambda: waiting(database) == 0, "the server gives up", 3)
    hasty.close()


def test_the_driver_need_not_be_named(postgres: Postgres) -> None:
    """There is one, whatever SQLAlchemy takes by itself."""
    database = Database(postgres.url.replace("+pg8000", ""))
    database.provision()
    assert value(database, "SELECT 1") == 1
    database.close()


def test_two_servers_may_make_the_tables_at_once(postgres: Postgres) -> None:
    """One waits for the other, and finds them made."""
    postgres.empty()
    script = (
        "import sys; from salver.registry.database import Database; "
        "Database(sys.argv[1]).provision()"
    )
    command = [sys.executable, "-c", script, postgres.url]
    servers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for server in servers:
        _, told = server.communicate(timeout=60)
        assert server.returncode == 0, told.decode()


def test_a_password_is_not_shown() -> None:
    """A URL that cannot be read may hold one."""
    with pytest.raises(Exception, match="no URL") as caught:
        Database("postgresql+pg8000:/salver:hunter2@host/x").provision()
    assert "hunter2" not in str(caught.value)
