"""Seeded damage to model files: bytes, numbers, lines and lengths."""

import io
import random
import re
import zipfile
from collections.abc import Callable

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_EXTREMES = (
    b"-1", b"0", b"1", b"2", b"7", b"100000000", b"2147483647", b"-2147483648", b"4294967296",
    b"1e308", b"-0.0", b"99999999999999999999",
)  # fmt: skip


def mutate(data: bytes, seed: int) -> bytes:
    """Return a damaged copy; equal seeds give equal damage."""
    rng = random.Random(seed)
    kinds: list[Callable[[bytes, random.Random], bytes]] = [
        _flip_bits,
        _overwrite,
        _truncate,
        _remove,
        _repeat,
    ]
    if _is_text(data):
        kinds += [_change_number, _change_number, _change_number, _drop_line]
    damaged = data
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        damaged = rng.choice(kinds)(damaged, rng)
    return damaged


def mutate_member(data: bytes, seed: int) -> bytes:
    """Return a sound zip archive in which one file is damaged, so that no checksum tells."""
    rng = random.Random(seed)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        entries = old.infolist()
        damaged = rng.choice([entry.filename for entry in entries if entry.file_size])
        for entry in entries:
            content = old.read(entry)
            new.writestr(
                entry.filename, mutate(content, seed) if entry.filename == damaged else content
            )
    return written.getvalue()


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:1000]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    start = rng.randrange(len(data))
    patch = rng.randbytes(rng.choice((1, 4, 8)))
    return data[:start] + patch + data[start + len(patch) :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 64)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 64))]
    return data[:start] + piece + data[start:]


def _change_number(data: bytes, rng: random.Random) -> bytes:
    places = list(_NUMBER.finditer(data))
    if not places:
        return data
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(_EXTREMES) + data[place.end() :]


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)
