"""Sizes as people write them on the command line."""

import pytest
import typer

from salver.cli.deploy_options import size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("512MiB", 512 * 1024**2),
        ("2GB", 2_000_000_000),
        ("1.5 g", 1_500_000_000),
        ("1600000000", 1_600_000_000),
        ("64000000000", 64_000_000_000),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    """With a unit or as a number of bytes, whatever that number is."""
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["many", "-1", "1e9", "9" * 15 + "TiB", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    """One that no machine could have is none."""
    with pytest.raises(typer.BadParameter, match="is no size"):
        size_bytes(text)
