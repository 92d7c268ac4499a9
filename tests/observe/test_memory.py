"""How much memory this process occupied at the most."""

import mmap

from salver.observe.memory import forget_peak, peak_bytes, resident_bytes

SIZE = 64 * 1024 * 1024


def test_a_peak_is_remembered_until_it_is_forgotten() -> None:
    """Memory that was given back counts until then, and not afterwards."""
    assert forget_peak()
    before = resident_bytes()
    with mmap.mmap(-1, SIZE) as memory:
        for start in range(0, SIZE, mmap.PAGESIZE):
            memory[start] = 1
    assert resident_bytes() < before + SIZE // 2
    assert peak_bytes() >= before + SIZE // 2
    assert forget_peak()
    assert peak_bytes() < before + SIZE // 2
