"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start a real PostgreSQL on a loopback port of its own."""
    with Postgres(Path("/tmp") / f"salver-postgres-{os.getpid()}") as running:
        yield running
