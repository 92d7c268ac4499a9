"""Which workers are left alone, against what a policy promises."""

from hypothesis import given
from hypothesis import strategies as st

from salver.engine.client.ejection import EjectionPolicy, Ejections
from salver.observe.outcomes import Outcome

SECOND = 1_000_000_000
MS = 1_000_000
POLICY = EjectionPolicy()
WORKERS = ("a", "b", "c", "d")


def record(
    judge: Ejections, worker: str, answered: int, failed: int, total_ns: int, now_ns: int
) -> None:
    """Let requests end at a worker."""
    outcome = Outcome("m:1", worker, ("default", "alice"), answered, answered, failed)
    outcome.total_ns = total_ns
    judge.record(outcome, failed, now_ns)


def known(*workers: str, policy: EjectionPolicy = POLICY) -> Ejections:
    """Return a judge of some workers."""
    made = Ejections(policy, 0)
    made.know(workers)
    return made


def test_failures_in_a_row() -> None:
    """The fifth failure in a row ejects a worker; an answer in between starts the count again."""
    judge = known("a", "b")
    record(judge, "b", 1, 0, MS, 0)
    record(judge, "a", 0, 4, 0, 0)
    assert judge.judge(0) == []
    record(judge, "a", 1, 0, MS, 0)
    record(judge, "a", 0, 4, 0, 0)
    assert judge.judge(0) == []
    record(judge, "a", 0, 1, 0, 0)
    assert judge.judge(0) == [("a", "failures")]
    assert judge.ejected(0) == {"a"}


def test_what_all_suffer_from_ejects_nobody() -> None:
    """When every worker fails, or all are slow, none is left alone."""
    judge = known("a", "b", "c")
    for worker in "abc":
        record(judge, worker, 0, 50, 0, 0)
    assert judge.judge(0) == []
    judge = known("a", "b", "c")
    for worker in "abc":
        record(judge, worker, 100, 0, 100 * SECOND, 0)
    assert judge.judge(POLICY.window_ns) == []


def test_a_slow_worker() -> None:
    """Who takes over four times the median of the others is ejected, at the end of a window."""
    judge = known("a", "b", "c", "d")
    for worker, mean_ms in zip("abcd", (10, 12, 11, 60), strict=True):
        record(judge, worker, 50, 0, 50 * mean_ms * MS, 0)
    assert judge.judge(POLICY.window_ns - 1) == []
    assert judge.judge(POLICY.window_ns) == [("d", "latency")]


def test_of_two_the_slow_one() -> None:
    """With two workers the other one is the measure."""
    judge = known("a", "b")
    record(judge, "a", 50, 0, 50 * 10 * MS, 0)
    record(judge, "b", 50, 0, 50 * 50 * MS, 0)
    assert judge.judge(POLICY.window_ns) == [("b", "latency")]


def test_few_requests_or_small_times_say_nothing() -> None:
    """Under 20 answers, or with a difference under 5 ms, nobody is ejected for being slow."""
    judge = known("a", "b")
    record(judge, "a", 50, 0, 50 * 10 * MS, 0)
    record(judge, "b", 19, 0, 19 * SECOND, 0)
    assert judge.judge(POLICY.window_ns) == []
    record(judge, "a", 50, 0, 50 * MS // 10, 0)
    record(judge, "b", 50, 0, 50 * 5 * MS, 0)
    assert judge.judge(2 * POLICY.window_ns) == []


def test_it_is_tried_again_and_stays_out_longer_each_time() -> None:
    """The pause doubles with each ejection; windows without a complaint shorten it again."""
    judge, now_ns = known("a", "b"), 0
    for doubled in (1, 2, 4):
        record(judge, "b", 1, 0, MS, now_ns)
        record(judge, "a", 0, 5, 0, now_ns)
        assert judge.judge(now_ns) == [("a", "failures")]
        now_ns += doubled * POLICY.base_ns
        assert judge.ejected(now_ns - 1) == {"a"}
        assert judge.ejected(now_ns) == frozenset()
    for _ in range(4):
        now_ns += POLICY.window_ns
        record(judge, "a", 100, 0, 100 * MS, now_ns)
        record(judge, "b", 100, 0, 100 * MS, now_ns)
        assert judge.judge(now_ns) == []
    record(judge, "a", 0, 5, 0, now_ns)
    judge.judge(now_ns)
    assert judge.ejected(now_ns + POLICY.base_ns) == frozenset()


def test_either_reason_can_be_switched_off() -> None:
    """With 0 a worker may fail, or be slow, as it likes."""
    judge = known("a", "b", policy=EjectionPolicy(failures=0))
    record(judge, "b", 1, 0, MS, 0)
    record(judge, "a", 0, 500, 0, 0)
    assert judge.judge(0) == []
    judge = known("a", "b", policy=EjectionPolicy(latency_ratio=0))
    record(judge, "a", 50, 0, 50 * SECOND, 0)
    record(judge, "b", 50, 0, 50 * MS, 0)
    assert judge.judge(POLICY.window_ns) == []


events = st.lists(
    st.tuples(
        st.sampled_from(WORKERS),
        st.integers(0, 40),
        st.integers(0, 8),
        st.integers(0, 500 * MS),
        st.integers(0, 4 * SECOND),
    ),
    max_size=60,
)


@given(st.integers(1, 4), events)
def test_half_of_the_workers_stay(count: int, script: list[tuple[str, int, int, int, int]]) -> None:
    """Whatever happens, at most half are ejected and never the last one; all come back."""
    judge, now_ns = known(*WORKERS[:count]), 0
    for worker, answered, failed, mean_ns, step_ns in script:
        now_ns += step_ns
        record(judge, worker, answered, failed, answered * mean_ns, now_ns)
        judge.judge(now_ns)
        assert len(judge.ejected(now_ns)) <= count // 2
    assert judge.ejected(now_ns + 33 * POLICY.base_ns) == frozenset()


def test_what_ends_late_does_not_count_twice() -> None:
    """Requests that fail while a worker is left alone do not eject it again when it is back."""
    judge = known("a", "b")
    record(judge, "b", 1, 0, MS, 0)
    record(judge, "a", 0, 5, 0, 0)
    assert judge.judge(0) == [("a", "failures")]
    record(judge, "a", 0, 50, 0, 1)
    assert judge.judge(POLICY.base_ns) == []


def test_a_changed_plan() -> None:
    """Who is in the new plan too is remembered, others are not."""
    judge = known("a", "b", "c", "d")
    for worker in "cd":
        record(judge, worker, 1, 0, MS, 0)
    record(judge, "a", 0, 5, 0, 0)
    record(judge, "b", 0, 5, 0, 0)
    assert {name for name, _ in judge.judge(0)} == {"a", "b"}
    judge.know(("a", "c"))
    assert judge.ejected(0) == {"a"}
    record(judge, "unknown", 0, 5, 0, 0)
    assert judge.judge(0) == []
