"""How many workers a machine takes, and who gets them."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple


class Ask(NamedTuple):
    """What one endpoint wants: at least ``least``, it has ``current``, it wants ``wanted``.

    ``workers`` names the workers of so many replicas; endpoints may share some.
    """

    least: int
    current: int
    wanted: int
    workers: Callable[[int], Collection[str]]


def share(asks: Mapping[str, Ask], fixed: Collection[str], most: int) -> dict[str, int]:
    """Return how many replicas each endpoint gets, so that there are at most ``most`` workers.

    ``fixed`` are workers that are there anyway. What is least is always given, and nobody loses to
    another one's growth what it has and still wants. The rest is given one at a time, in turns.
    """
    counts = {name: ask.least for name, ask in asks.items()}
    taken = {*fixed}
    for name, ask in asks.items():
        taken.update(ask.workers(counts[name]))
    for kept in (True, False):
        goals = {
            name: min(ask.current, ask.wanted) if kept else ask.wanted for name, ask in asks.items()
        }
        growing = sorted(name for name in asks if counts[name] < goals[name])
        while growing:
            for name in list(growing):
                more = {*asks[name].workers(counts[name] + 1)} - taken
                if len(taken) + len(more) > most and more:
                    growing.remove(name)
                    continue
                taken |= more
                counts[name] += 1
                if counts[name] >= goals[name]:
                    growing.remove(name)
    return counts
