"""How many reports may be on their way to control at once."""

from salver.core.context import Principal
from salver.core.errors import Overloaded
from salver.wire.questions import MAX_OPEN_REPORTS

MAX_LINES = 16_000
_PARTS = 2
_RETRY_AFTER_S = 1.0


class Room:
    """Counts open calls and their reports, of all callers and of each.

    Nobody gets more than half of it, so that one who sends many leaves room for others.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], int] = {}
        self._lines: dict[tuple[str, str], int] = {}

    def take(self, principal: Principal, lines: int) -> None:
        """Let a call with so many reports in, or raise ``Overloaded``."""
        caller = (principal.tenant, principal.name)
        calls, held = self._calls.get(caller, 0), self._lines.get(caller, 0)
        is_full = (
            sum(self._calls.values()) >= MAX_OPEN_REPORTS
            or sum(self._lines.values()) + lines > MAX_LINES
        )
        if is_full or calls >= MAX_OPEN_REPORTS // _PARTS or held + lines > MAX_LINES // _PARTS:
            raise Overloaded(
                f"{calls} calls of {principal.name!r} with {held} reports are on their way here; "
                "send more reports in one call, or wait",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._calls[caller], self._lines[caller] = calls + 1, held + lines

    def give(self, principal: Principal, lines: int) -> None:
        """Take note that such a call has ended."""
        caller = (principal.tenant, principal.name)
        self._calls[caller] -= 1
        self._lines[caller] -= lines
        if not self._calls[caller]:
            del self._calls[caller], self._lines[caller]
