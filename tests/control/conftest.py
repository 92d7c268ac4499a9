"""A clock, and the parts of the control that is in charge."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.core.clock import ManualClock
from tests.control.parts import Control, control


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock."""
    return ManualClock()


@pytest.fixture
def parts(tmp_path: Path, clock: ManualClock) -> Iterator[Control]:
    """Give the control that is in charge."""
    parts = control(tmp_path, "one", clock)
    yield parts
    parts.thread.stop()
