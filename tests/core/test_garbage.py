"""The collector is tamed, not switched off."""

import gc
import weakref

from salver.core.garbage import settle


class Node:
    """Something that can be part of a cycle."""

    def __init__(self) -> None:
        self.other: Node | None = None


def test_cycles_are_still_collected() -> None:
    """After settling, fewer collections run, and cycles go when one does."""
    before, usual = gc.get_threshold(), (700, 10, 10)
    try:
        # Another test in this process may have settled before.
        gc.set_threshold(*usual)
        settle()
        assert gc.get_threshold() > usual
        assert gc.isenabled()
        first, second = Node(), Node()
        first.other, second.other = second, first
        gone = weakref.ref(first)
        del first, second
        gc.collect()
        assert gone() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
