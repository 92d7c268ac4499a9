"""How long to wait before something that failed is tried again."""

_FIRST_S, _LONGEST_S = 1.0, 60.0


class Pauses:
    """Pauses in seconds, each twice as long as the one before up to a longest one."""

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def take(self) -> float:
        """Return the next pause."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, _LONGEST_S)
        return pause_s

    def end(self) -> None:
        """Begin with the first pause again, since it went well."""
        self._next_s = _FIRST_S
