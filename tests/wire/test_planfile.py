"""The plan on disk."""

from pathlib import Path

from salver.core.signature import Signature, TensorSpec
from salver.wire.messages import EndpointPlan, Load, Plan, VariantPlan, WorkerPlan
from salver.wire.planfile import read_plan, write_plan

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
PLAN = Plan(
    7,
    1,
    (
        EndpointPlan(
            "e",
            (VariantPlan("m:1", "primary", "m", "1", "d", "onnx", 1, 1, SIGNATURE, ("w",)),),
        ),
    ),
    (WorkerPlan("w", "shared", "unix:/w", (Load("m:1", "d", "onnx", (), "local", SIGNATURE),)),),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A plan comes back equal, and a newer one replaces it."""
    path = tmp_path / "plan"
    write_plan(path, PLAN)
    assert read_plan(path) == PLAN
    write_plan(path, Plan(8, 2))
    assert read_plan(path) == Plan(8, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan"]


def test_no_plan_and_unreadable_plans(tmp_path: Path) -> None:
    """No file, an empty, a cut or a foreign one are no plan."""
    path = tmp_path / "plan"
    assert read_plan(path) is None
    write_plan(path, PLAN)
    data = path.read_bytes()
    bad_text = data.replace(b"primary", b"pr\x80mary")
    for broken in (b"", data[:-5], b"{}", b"\xc1" * 10, bad_text):
        path.write_bytes(broken)
        assert read_plan(path) is None
