"""A function with a mistake that a fuzzer finds, to see that what it finds is written down."""


def examine(data: bytes) -> None:
    """Fail for bytes that hold an exclamation mark."""
    assert b"!" not in data
