"""What stays of a worker that is gone."""

from pathlib import Path

from salver.scale.local.leftovers import remove
from salver.wire.pulse import Beat, expect


def test_what_is_of_others_stays(tmp_path: Path) -> None:
    """All of one worker goes, however much there is; its neighbour by name keeps its own."""
    for worker in ("shared-0", "shared-0.1"):
        expect(tmp_path, worker, Beat(1, 2))
        (tmp_path / f"worker-{worker}.sock").touch()
        copy = tmp_path / "models" / worker / "m-1" / "deep"
        copy.mkdir(parents=True)
        (copy / "model.onnx").write_bytes(b"weights")
    before = len([*tmp_path.rglob("*")])
    remove(tmp_path, "shared-0")
    left = {path.name for path in tmp_path.rglob("*")}
    assert {"pulse-shared-0.1", "worker-shared-0.1.sock", "shared-0.1"} <= left
    assert not left & {"pulse-shared-0", "worker-shared-0.sock", "shared-0"}
    assert len([*tmp_path.rglob("*")]) == before - 6
    remove(tmp_path, "never-there")
