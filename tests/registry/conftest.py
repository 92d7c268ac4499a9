"""Both databases, each empty for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.registry.database import Database
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Give an open database with its tables, SQLite and PostgreSQL in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'salver.db'}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        postgres.empty()
        url = postgres.url
    database = Database(url)
    database.provision()
    yield database
    database.close()
