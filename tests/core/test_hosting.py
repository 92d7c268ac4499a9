"""What may be asked of hosting, and how CPUs are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import HostingRefused
from salver.core.hosting import (
    MAX_CPU,
    MIN_MEMORY_BYTES,
    Cpus,
    Execution,
    Hosting,
    Limits,
    check_hosting,
    parse_cpus,
)


def test_a_number_is_so_many_and_a_list_is_these() -> None:
    """A comma or a dash makes a list, also of one."""
    assert parse_cpus("2") == Cpus(2)
    assert parse_cpus("0-3,6") == Cpus(5, frozenset({0, 1, 2, 3, 6}))
    assert parse_cpus("2-2") == Cpus(1, frozenset({2}))
    assert parse_cpus("1,1,0") == Cpus(2, frozenset({0, 1}))


def test_part_of_a_cpu_is_a_share_of_its_time() -> None:
    """As many CPUs as can hold it; what is whole has no share."""
    assert parse_cpus("0.5") == Cpus(1, share=0.5)
    assert parse_cpus("0.1") == Cpus(1, share=0.1)
    assert parse_cpus("1.25") == Cpus(2, share=1.25)
    assert parse_cpus("2.0") == Cpus(2)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "-1", "1-", "3-1", "a", "1,,2", "٣", " 1", f"0-{MAX_CPU + 1}", "1," * 200),
        *("0.05", "0.0", ".5", "1.", "1.125", "1.5.5", "0.5,1", "0-1.5", "-0.5", "1.-5", "1e.5"),
    ],
)
def test_what_are_no_cpus_is_refused(text: str) -> None:
    """Whatever else it is, it gets a coded error, and no list of unbounded length."""
    with pytest.raises(HostingRefused):
        parse_cpus(text)


@given(st.text(max_size=20))
def test_no_text_breaks_it(text: str) -> None:
    """Any text is CPUs of this world, or refused."""
    try:
        cpus = parse_cpus(text)
    except HostingRefused:
        return
    assert 1 <= cpus.number <= MAX_CPU + 1
    assert all(0 <= cpu <= MAX_CPU for cpu in cpus.listed)


REFUSED = [
    (Hosting("own"), False, False),
    (Hosting(execution=Execution(provider="opencl")), False, False),
    (Hosting(limits=Limits(memory_bytes=MIN_MEMORY_BYTES - 1)), False, False),
    (Hosting(limits=Limits(cpus="none")), False, False),
    (Hosting(execution=Execution(provider="cpu"), limits=Limits(gpu=0)), False, False),
    (Hosting("shared"), True, False),
    (Hosting("shared"), False, True),
    (Hosting("shared", limits=Limits(cpus="1")), False, False),
    (Hosting("shared", limits=Limits(gpu=0)), False, False),
    (Hosting(execution=Execution(2)), False, True),
]


@pytest.mark.parametrize(("hosting", "is_code", "is_stream"), REFUSED)
def test_what_cannot_be_had_is_refused(hosting: Hosting, is_code: bool, is_stream: bool) -> None:
    """Code never shares, nor does what has limits or streams; unknown words are no wishes."""
    with pytest.raises(HostingRefused):
        check_hosting(hosting, is_code=is_code, is_stream=is_stream)


def test_the_rest_can_be_had() -> None:
    """Each wish that contradicts nothing passes."""
    check_hosting(Hosting(), is_code=True, is_stream=True)
    check_hosting(Hosting("shared", Execution(4, 2)), is_code=False, is_stream=False)
    limits = Limits("0-1", MIN_MEMORY_BYTES, 0)
    check_hosting(Hosting("auto", Execution(2), limits), is_code=True, is_stream=False)
