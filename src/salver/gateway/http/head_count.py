"""How long and how many the fields of a request are, counted while they come."""

from salver.core.errors import HeadersTooLarge
from salver.core.settings import HttpSettings


class HeadCount:
    """Counts a head and its trailers; every method raises ``HeadersTooLarge`` over a limit."""

    __slots__ = ("_bytes", "_fields", "_settings", "_unfinished_bytes")

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._bytes = self._fields = self._unfinished_bytes = 0

    def begin(self) -> None:
        """Start with the next request."""
        self._bytes = self._fields = self._unfinished_bytes = 0

    def field(self, name: bytes, value: bytes) -> None:
        """Count a field."""
        self._fields += 1
        self.add(len(name) + len(value) + 4)
        if self._fields > self._settings.max_header_count:
            raise HeadersTooLarge(
                f"more than {self._settings.max_header_count} header fields were sent"
            )

    def add(self, size_bytes: int) -> None:
        """Count bytes."""
        self._bytes += size_bytes
        if self._bytes > self._settings.max_header_bytes:
            raise HeadersTooLarge(
                f"request line and headers are over {self._settings.max_header_bytes} bytes"
            )

    def unfinished(self, size_bytes: int) -> None:
        """Count what the parser may keep to itself of a field or trailer that has no end yet."""
        self._unfinished_bytes += size_bytes
        if self._unfinished_bytes > self._settings.max_header_bytes:
            self.add(self._unfinished_bytes)

    def moved_on(self) -> None:
        """Take note that nothing is unfinished."""
        self._unfinished_bytes = 0
