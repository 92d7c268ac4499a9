"""Compressed bodies: what is read, what is answered, what is too much."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import BodyTooLarge
from salver.gateway.http.inflate import deflate, inflate


@given(st.binary(max_size=5000), st.sampled_from(["gzip", "deflate"]))
def test_what_is_packed_comes_out_again(data: bytes, name: str) -> None:
    """Both codings give back the bytes, whole or in parts, exactly at the limit too."""
    parts, line = deflate([data[:100], memoryview(data)[100:]], name.encode())
    assert name in line.decode()
    assert inflate(b"".join(parts), name.encode(), len(data)) == data


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", ""),
        ("br", ""),
        ("GZIP", "gzip"),
        ("xgzip", ""),
    ],
)
def test_only_what_was_asked_for(accepted: str, coding: str) -> None:
    """An answer is packed only in a way that the caller named and did not exclude."""
    _, line = deflate([b"a"], accepted.encode())
    assert coding in line.decode() if coding else line == b""


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_one_byte_over_the_limit_is_refused(pack: object) -> None:
    """The cap is exact."""
    assert callable(pack)
    name = b"gzip" if pack is gzip.compress else b"deflate"
    with pytest.raises(BodyTooLarge):
        inflate(pack(bytes(1001)), name, 1000)
