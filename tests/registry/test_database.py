"""The database is opened safely and its tables follow the code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import salver
from salver.core.errors import ControlUnavailable, InvalidSettings, StorageFull
from salver.registry.database import Database, sqlite_url, translated
from salver.registry.schema import metadata


def test_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    """Upgrading from nothing gives exactly what schema.py describes."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_opening_again_changes_nothing(database: Database) -> None:
    """A second start finds the tables up to date."""
    database.provision()
    assert sa.inspect(database.engine).has_table("versions")


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """The rollback journal and synchronous=EXTRA are in force on every connection."""
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.provision()
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


@pytest.mark.parametrize("name", ["what?", "a%20b", "100%", "x#y"])
def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The database lies in the home, and nothing beside it, whatever its name means in URLs."""
    home = tmp_path / name
    home.mkdir()
    for _ in range(2):
        database = Database(sqlite_url(home / "salver.db"))
        database.provision()
        assert sa.inspect(database.engine).has_table("versions")
        database.close()
    assert sorted(tmp_path.rglob("*")) == [home, home / "salver.db"]


def test_salver_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """The migrations are found where a percent sign is in their path."""
    code = tmp_path / "100%(x)s"
    code.symlink_to(Path(salver.__file__).parents[1])
    script = (
        "import sys; from pathlib import Path; "
        "from salver.registry.database import Database, sqlite_url, _MIGRATIONS; "
        "assert '%' in str(_MIGRATIONS); Database(sqlite_url(Path(sys.argv[1]))).provision()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")],
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("url", ["nonsense", "mysql://a/b"])
def test_other_databases_are_refused(url: str) -> None:
    """The error names what is supported."""
    with pytest.raises(InvalidSettings):
        Database(url).provision()


def test_a_database_that_is_away_is_a_coded_error() -> None:
    """Nobody listening is ControlUnavailable."""
    with pytest.raises(ControlUnavailable):
        Database("postgresql+pg8000://a@127.0.0.1:9/b").provision()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """SQLite without room becomes StorageFull with the cause, and reading goes on."""
    script = (
        "import resource, sys\n"
        "from salver.registry.database import Database\n"
        "from salver.registry.state import StateStore\n"
        "from salver.core.clock import SystemClock\n"
        "from salver.core.errors import StorageFull\n"
        f"d = Database('sqlite:///{tmp_path / 'b.db'}'); d.provision()\n"
        "s = StateStore(d, SystemClock())\n"
        "s.record('a', 'b', 'c', {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "try:\n"
        "    for _ in range(1000): s.record('a', 'b', 'c', {'x': 'y' * 2000})\n"
        "except StorageFull as error:\n"
        "    print('full', s.events(1)[0].action)\n"
    )
    python = Path(__file__).parents[2] / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", script], capture_output=True, check=False)
    assert done.stdout.decode().strip() == "full b", done.stderr.decode()


def test_translation_leaves_other_errors() -> None:
    """Only the driver's errors are translated."""
    with pytest.raises(KeyError), translated():
        raise KeyError
    assert StorageFull.code == "storage_full"
