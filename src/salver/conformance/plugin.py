"""Options and fixtures of pytest, loaded with `pytest -p salver.conformance.plugin`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.conformance.catalog import checks
from salver.conformance.session import opened
from salver.conformance.subject import Subject
from salver.core.errors import SalverError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say what is checked."""
    group = parser.getgroup("Open Inference Protocol")
    group.addoption("--base-url", default="", help="Address of the server's HTTP port.")
    group.addoption("--grpc", default="", help="HOST:PORT of its gRPC port; needs grpcio.")
    group.addoption("--model", default=[], action="append", help="Model to ask; may be repeated.")
    group.addoption("--api-key", default="", help="Key that the server wants; never shown.")
    group.addoption("--example", default="", help="File with a request for the model.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check."""
    if "check" in metafunc.fixturenames:
        every = checks(grpc=bool(metafunc.config.getoption("--grpc")))
        metafunc.parametrize("check", every, ids=[check.name for check in every])


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Give the server under test."""
    option = request.config.getoption
    if not option("--base-url"):
        raise pytest.UsageError("name the server with --base-url http://HOST:PORT")
    example = Path(option("--example")) if option("--example") else None
    session = opened(
        option("--base-url"),
        *option("--model"),
        grpc=option("--grpc"),
        api_key=option("--api-key"),
        example=example,
    )
    try:
        found = session.__enter__()
    except SalverError as error:
        pytest.exit(f"{error.message} [{error.code}]", returncode=2)
    yield found
    session.__exit__(None, None, None)
