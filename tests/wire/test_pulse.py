"""Signs of life that others can read at any time."""

from pathlib import Path

from salver.wire.pulse import Beat, Pulse, clear, expect, forget, read


def test_the_last_beat_is_read(tmp_path: Path) -> None:
    """What was said last is what others read, also before the worker has said anything itself."""
    assert read(tmp_path, "shared-0.1") is None
    expect(tmp_path, "shared-0.1", Beat(1, 2))
    assert read(tmp_path, "shared-0.1") == Beat(1, 2)
    pulse = Pulse.open(tmp_path, "shared-0.1")
    assert read(tmp_path, "shared-0.1") == Beat(1, 2)
    pulse.beat(2**62, 2**62 + 1)
    assert read(tmp_path, "shared-0.1") == Beat(2**62, 2**62 + 1)
    # The next process is expected while the file of the last one is still mapped.
    expect(tmp_path, "shared-0.1", Beat(3, 4))
    pulse.beat(5, 6)
    pulse.close()
    assert read(tmp_path, "shared-0.1") == Beat(5, 6)


def test_each_worker_has_its_own(tmp_path: Path) -> None:
    """One is forgotten without the others, and a new server forgets all."""
    for name in ("shared-0", "shared-0.1"):
        expect(tmp_path, name, Beat(1, 2))
    forget(tmp_path, "shared-0")
    forget(tmp_path, "never-there")
    assert read(tmp_path, "shared-0") is None
    assert read(tmp_path, "shared-0.1") == Beat(1, 2)
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_note_is_none(tmp_path: Path) -> None:
    """A file that is too short, or a link to somewhere else, says nothing."""
    (tmp_path / "pulse-short").write_bytes(b"1234567")
    (tmp_path / "elsewhere").write_bytes(bytes(16))
    (tmp_path / "pulse-linked").symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path, "short") is None
    assert read(tmp_path, "linked") is None
