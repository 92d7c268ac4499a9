"""What a worker promises of when it will be back."""

from pathlib import Path

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import EngineSettings
from salver.engine.worker.life import Life
from salver.wire.pulse import read

SETTINGS = EngineSettings(unresponsive_s=8.0, load_timeout_s=100.0)


@pytest.mark.parametrize(
    ("loads", "hurried", "expected_s"),
    [(False, False, 8.0), (False, True, 4.0), (True, False, 100.0), (True, True, 100.0)],
    ids=["usual", "others wait in quarantine", "loading", "loading in quarantine"],
)
def test_the_promise_is_what_the_settings_say(
    tmp_path: Path, *, loads: bool, hurried: bool, expected_s: float
) -> None:
    """Half the time behind which others wait in quarantine; a load has the time of loads."""
    life = Life(tmp_path, "shared-0", SETTINGS, SystemClock())
    life.promise(runs_code=False, loads=loads, hurried=hurried)
    assert read(tmp_path, "shared-0") is None
    life.start()
    life.promise(runs_code=False, loads=loads, hurried=hurried)
    life.stop()
    beat = read(tmp_path, "shared-0")
    assert beat is not None
    assert beat.due_ns - beat.beaten_ns == expected_s * 1e9


def test_without_room_for_a_note_the_worker_works(tmp_path: Path) -> None:
    """A folder that is not there, or a disk that is full, costs the note and nothing else."""
    life = Life(tmp_path / "nowhere", "shared-0", SETTINGS, SystemClock())
    life.start()
    life.promise(runs_code=False, loads=False, hurried=False)
    life.stop()
