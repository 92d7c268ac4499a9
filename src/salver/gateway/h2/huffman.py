"""Huffman-coded strings (RFC 7541, 5.2), a byte at a time.

``hpack`` knows what each half byte does to each state of its machine. What a whole byte does is
looked up there once and remembered: some 65,000 steps at most, of which real strings use few.
"""

from typing import Any, Final

from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)

_BYTES: Final = 256
_HALVES: Final = 16

# A state is the steps that each byte makes from it (None while unknown), then whether a string may
# end there, then its number. A step is the next state and what the byte adds to the string.
_State = list[Any]


def _state(number: int, *, ends: bool) -> _State:
    return [*[None] * _BYTES, ends, number]


_states: dict[int, _State] = {0: _state(0, ends=True)}


def decoded(text: bytes) -> bytes:
    """Return what the text says; raises ``LookupError`` when it is not well coded."""
    state = _states[0]
    parts = []
    for byte in text:
        step = state[byte]
        if step is None:
            step = state[byte] = _step(state[-1], byte)
        state, part = step
        parts.append(part)
    if not state[_BYTES]:
        raise LookupError("an incomplete string")
    return b"".join(parts)


def _step(number: int, byte: int) -> tuple[_State, bytes]:
    out = bytearray()
    flags = 0
    for half in divmod(byte, _HALVES):
        number, flags, symbol = HUFFMAN_TABLE[number * _HALVES + half]
        if flags & HUFFMAN_FAIL:
            raise LookupError("no string is coded so")
        if flags & HUFFMAN_EMIT_SYMBOL:
            out.append(symbol)
    state = _states.get(number)
    if state is None:
        state = _states[number] = _state(number, ends=bool(flags & HUFFMAN_COMPLETE))
    return state, bytes(out)
