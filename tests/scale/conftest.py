"""What tests of the supervisor leave of the process that they run in."""

from collections.abc import Iterator

import pytest

from salver.scale.local import orphans


@pytest.fixture(autouse=True)
def adopts_nobody() -> Iterator[None]:
    """Let the process adopt no more orphans than before; later tests would wait for their end."""
    yield
    orphans._libc.prctl(orphans._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
