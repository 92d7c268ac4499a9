"""Which batches run in the event loop."""

from salver.core.settings import EngineSettings
from salver.engine.worker.inline import Inline
from salver.engine.worker.job import Job, one_job
from salver.wire.messages import Infer, TensorHeader
from tests.engine.worker.sequences import Desk

SHORT_NS, LONG_NS = 20_000, 500_000_000


def jobs(size_bytes: int) -> list[Job]:
    """Return a batch of one request with so many bytes."""
    header = TensorHeader("x", "UINT8", (1, size_bytes), size_bytes)
    infer = Infer(1, "m:1", (header,), 1_000_000, "")
    return [one_job(Desk(joins=True), infer, bytes(size_bytes), 0, batches=True)]


def test_the_first_batch_and_much_larger_ones_run_in_a_thread() -> None:
    """Nothing is known of them, and a long one would keep the loop from everything else."""
    inline = Inline(EngineSettings())
    assert not inline.allows(jobs(100))
    inline.took(jobs(100), SHORT_NS)
    assert inline.allows(jobs(100))
    assert inline.allows(jobs(800))
    assert not inline.allows(jobs(801))
    inline.took(jobs(801), SHORT_NS)
    assert inline.allows(jobs(6_000))


def test_what_was_long_is_not_tried_again_in_the_loop() -> None:
    """Also after many short runs have brought the mean down."""
    inline = Inline(EngineSettings())
    for _ in range(3):
        inline.took(jobs(1_000), SHORT_NS)
    inline.took(jobs(5_000), LONG_NS)
    assert not inline.allows(jobs(100))
    for _ in range(100):
        inline.took(jobs(100), SHORT_NS)
    assert inline.allows(jobs(100))
    assert not inline.allows(jobs(5_000))


def test_the_setting_decides() -> None:
    """Inline always does, thread never."""
    always, never = Inline(EngineSettings(runner="inline")), Inline(EngineSettings(runner="thread"))
    for inline in (always, never):
        inline.took(jobs(100), SHORT_NS)
    assert always.allows(jobs(1_000_000))
    assert not never.allows(jobs(100))
