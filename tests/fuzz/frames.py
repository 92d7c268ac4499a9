"""Changes the frames of a conversation one by one, so that most inputs get past the reader."""

import random
import struct

import atheris

from salver.gateway.h2 import frames as f
from salver.gateway.http.prelude import PREFACE
from tests.gateway.h2.inmemory import BLOCK, Frame, frames_of

_STREAMS = (0, 1, 1, 3, 3, 5, 7, 7, 9, 11, 15, 2)
_FLAGS = (0, f.END_STREAM, f.END_HEADERS, f.END_STREAM | f.END_HEADERS, f.PADDED, f.HAS_PRIORITY)
_SETTINGS = ((1, 0), (1, 4096), (3, 0), (4, 0), (4, 1), (4, 65_535), (4, 2**31 - 1), (5, 16_384))
_RAW_SHARE = 16
_MAX_CHANGES = 4


def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
    """Return another conversation; now and then its bytes are changed without regard to frames."""
    choose = random.Random(seed)
    if not choose.randrange(_RAW_SHARE):
        return bytes(atheris.Mutate(data, max_bytes))
    frames = list(frames_of(data.removeprefix(PREFACE)))
    for _ in range(choose.randint(1, _MAX_CHANGES)):
        _change(frames, choose)
    return b"".join(frame.bytes() for frame in frames)[:max_bytes]


def _change(frames: list[Frame], choose: random.Random) -> None:
    """Change, move, repeat or drop one frame, or put a new one in."""
    place = choose.randrange(len(frames) + 1)
    if place == len(frames) or not choose.randrange(3):
        frames.insert(place, _frame(choose))
        return
    frame = frames[place]
    match choose.randrange(8):
        case 0:
            del frames[place]
        case 1:
            frames.insert(choose.randrange(len(frames) + 1), frame)
        case 2:
            other = choose.randrange(len(frames))
            frames[place], frames[other] = frames[other], frame
        case 3:
            frames[place] = frame._replace(kind=choose.randrange(11))
        case 4:
            frames[place] = frame._replace(flags=frame.flags ^ choose.choice(_FLAGS))
        case 5:
            frames[place] = frame._replace(stream=choose.choice(_STREAMS))
        case _:
            size = len(frame.payload) + 16
            frames[place] = frame._replace(payload=bytes(atheris.Mutate(frame.payload, size)))


def _frame(choose: random.Random) -> Frame:
    """Return a frame as a client may send it, on any stream."""
    stream = choose.choice(_STREAMS)
    flags = choose.choice(_FLAGS)
    number = choose.choice((0, 1, 3, 100, 65_535, 2**31 - 1))
    word = struct.pack(">I", number)
    setting = struct.pack(">HI", *choose.choice(_SETTINGS))
    return choose.choice(
        (
            Frame(f.HEADERS, flags | f.END_HEADERS, stream, BLOCK),
            Frame(f.HEADERS, flags, stream, BLOCK[: choose.randrange(len(BLOCK))]),
            Frame(f.CONTINUATION, flags, stream, BLOCK[choose.randrange(len(BLOCK)) :]),
            Frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream, b"\x00\x04done\x03yes"),
            Frame(f.DATA, flags, stream, bytes(choose.randrange(40))),
            Frame(f.DATA, flags, stream, bytes(f.DEFAULT_FRAME_BYTES)),
            Frame(f.SETTINGS, 0, 0, setting),
            Frame(f.WINDOW_UPDATE, 0, stream, word),
            Frame(f.RST_STREAM, 0, stream, word),
            Frame(f.PRIORITY, 0, stream, bytes(5)),
            Frame(f.PING, flags, 0, bytes(8)),
            Frame(f.GOAWAY, 0, 0, bytes(8)),
        )
    )
