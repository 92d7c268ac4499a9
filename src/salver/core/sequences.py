"""Which axes of a model's tensors are as long as a text, and how short ones are filled up."""

import msgspec


class PaddedInput(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An input whose ``axis`` (from 1 on, the batch has 0) is filled up with ``pad``."""

    name: str
    axis: int = 1
    pad: float = 0


class CutOutput(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An output whose ``axis`` is as long as the inputs' and is cut back to a row's own length."""

    name: str
    axis: int = 1


class Sequences(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How rows of unlike lengths may run together.

    ``mask`` names the input that tells values from filling. It is one of ``inputs``, filled with
    0, and made of ones where a caller leaves it out; empty where the model has none.
    """

    inputs: tuple[PaddedInput, ...]
    mask: str = ""
    outputs: tuple[CutOutput, ...] = ()
