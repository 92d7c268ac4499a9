"""One at a time, in order."""

from salver.engine.worker.turn import Turn


def test_only_one_holds_the_turn() -> None:
    """Those who come later are called in order, each when the one before has released."""
    turn, called = Turn(lambda hurried: None), list[str]()
    assert turn.take(lambda: called.append("never"))
    assert not turn.take(lambda: called.append("b"))
    assert not turn.take(lambda: called.append("c"))
    turn.release()
    assert called == ["b"]
    assert turn.take(lambda: called.append("never"))
    turn.release()
    assert called == ["b", "c"]


def test_who_has_nothing_to_do_passes_it_on() -> None:
    """A caller that does not take the turn offers it to the next."""
    turn, called = Turn(lambda hurried: None), list[str]()
    assert turn.take(lambda: None)
    assert not turn.take(turn.offer)
    assert not turn.take(lambda: called.append("last"))
    turn.release()
    assert called == ["last"]
