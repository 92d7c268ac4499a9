"""Compressed bodies: what is read, what is answered, what is too much."""

import gzip
import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import BodyTooLarge, MalformedHttp
from salver.gateway.grpc.framing import PREFIX, whole_message
from salver.gateway.http.inflate import MAX_DEFLATED_BYTES, deflate, inflate


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


@pytest.mark.parametrize("data", [bytes(40_000_001), os.urandom(3_000_000) + bytes(20_000_000)])
def test_large_data_comes_out_in_pieces(data: bytes) -> None:
    """What is fed and kept in pieces is the same data; a wrong end is told."""
    packed = zlib.compress(data, 1)
    assert inflate(packed, b"deflate", len(data)) == data
    for wrong in (packed[:-1], packed + b"x", packed + bytes(100_000)):
        with pytest.raises(MalformedHttp):
            inflate(wrong, b"deflate", len(data))


def test_bombs_are_not_kept() -> None:
    """Of a body that inflates to more than the limit, little is ever in memory."""
    packer = zlib.compressobj(9)
    bomb = b"".join([packer.compress(bytes(1024 * 1024)) for _ in range(300)]) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflate(bomb, b"deflate", 256 * 1024 * 1024)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 1024 * 1024


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_long_answers_stay_as_they_are(name: str) -> None:
    """Compressing them would hold up everybody else; a view counts by its bytes."""
    limit = MAX_DEFLATED_BYTES
    longest = memoryview(bytes(limit)).cast("B", (limit // 8, 8))
    parts, line = deflate([longest], name.encode())
    assert line
    assert bytes(inflate(b"".join(parts), name.encode(), limit)) == bytes(limit)
    assert deflate([longest, b"x"], name.encode()) == ([longest, b"x"], b"")
    framed = whole_message([longest, b"x"], name.encode())
    assert framed == [PREFIX.pack(0, limit + 1), longest, b"x"]
    assert whole_message([longest], name.encode())[0][:1] == b"\x01"
