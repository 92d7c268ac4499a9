"""Which versions' series are of no use any more: those that no plan has had for long."""

from collections.abc import Collection, Iterable, MutableMapping
from typing import TypeVar

from salver.observe.catalog import variant_of

Kept = TypeVar("Kept")

KEPT_S = 7 * 86_400.0
"""For how long series are shown of a version that no plan has any more."""


class Fading:
    """Follows which versions are planned; those that were not for ``kept_s`` have faded."""

    def __init__(self, kept_s: float = KEPT_S, known: Iterable[str] = ()) -> None:
        self._kept_ns = round(kept_s * 1e9)
        self._planned = frozenset(known)
        self._left_ns: dict[str, int] = {}

    def begin_anew(self, now_ns: int) -> None:
        """Take all that has left as having left now, as a process does that is new."""
        self._left_ns = dict.fromkeys(self._left_ns, now_ns)

    def after(self, planned: Collection[str], now_ns: int) -> frozenset[str]:
        """Take note of what is planned now, and return all that has faded."""
        for variant in self._planned.difference(planned):
            self._left_ns.setdefault(variant, now_ns)
        self._planned = frozenset(planned)
        for variant in self._planned & self._left_ns.keys():
            del self._left_ns[variant]
        left = self._left_ns.items()
        return frozenset([name for name, since_ns in left if now_ns - since_ns > self._kept_ns])


def leave_out(
    series: MutableMapping[tuple[str, tuple[str, ...]], Kept], variants: Collection[str]
) -> None:
    """Remove the series of versions."""
    for key in [key for key in series if variant_of(key) in variants]:
        del series[key]
