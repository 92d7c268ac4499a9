"""Turns text into the numbers of a tokenizer made by Hugging Face's tokenizers."""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from salver.core.errors import InvalidSteps, InvalidTensor, ModelFailed
from salver.core.sequences import PaddedInput, Sequences
from salver.core.signature import VARIABLE, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import (
    Bound,
    Given,
    Place,
    check_size,
    is_text,
    one_value,
    values_at,
    without,
)

_MAX_CAUSE = 300
_LIMIT = 1_000_000
_MOST_APART = 8192
_TOKEN_BYTES = 8
_PARTS = ("ids", "attention_mask", "type_ids")


class _Padding(NamedTuple):
    """What stands where a text has no token: for each of the parts, and on which side."""

    fillers: tuple[int, int, int]
    left: bool


class TokenNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tensors are called; those called nothing are not made."""

    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    types: str | None = None


class Tokenize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of the text in ``column``, INT64 ``[rows, tokens]`` each.

    ``tokenizer`` is a file of the artifact. Text is cut at ``max_length`` tokens, and padded to the
    longest of the batch or always to ``max_length``. Text of more than ``max_bytes`` is refused.
    """

    column: str
    max_length: int = 512
    pad: Literal["longest", "max_length"] = "longest"
    tokenizer: str = "tokenizer.json"
    outputs: TokenNames = TokenNames()
    max_bytes: int = 1024 * 1024

    def bind(self, given: Given) -> Bound:
        """Fit the step; see ``Step``."""
        specs = given.specs
        at = one_value(specs, self.column)
        if not is_text(specs[at.tensor]):
            raise InvalidSteps(f"{self.column!r} is {specs[at.tensor].datatype}, no text")
        if not 1 <= self.max_length <= _LIMIT:
            raise InvalidSteps(f"'max_length' is {self.max_length}, 1 to {_LIMIT} are allowed")
        tokenizer, padding = self._tokenizer(given.folder)
        length = self.max_length if self.pad == "max_length" else VARIABLE
        names = (self.outputs.ids, self.outputs.mask, self.outputs.types)
        after = without(specs, at.tensor)
        kept = list(after)
        for name in names:
            if name is not None:
                after[name] = TensorSpec(name, "INT64", (VARIABLE, length))

        def apply(batch: Batch) -> Batch:
            made = {name: batch[name] for name in kept}
            encoded = self._encoded(tokenizer, self._texts(batch, at))
            longest = max((len(one.ids) for one in encoded), default=0)
            width = longest if length == VARIABLE else length
            size_bytes = sum(array.nbytes for array in made.values())
            size_bytes += len(encoded) * width * _TOKEN_BYTES * (len(after) - len(kept))
            check_size(size_bytes, given.limit_bytes)
            for name, part, filler in zip(names, _PARTS, padding.fillers, strict=True):
                if name is not None:
                    rows = [getattr(one, part) for one in encoded]
                    made[name] = _table(rows, width, filler, left=padding.left)
            return made

        return Bound(after, apply, self._sequences(padding))

    def _sequences(self, padding: _Padding) -> Sequences | None:
        # Fillers on the left are not what filling up does; and tokens that wait take memory.
        if self.pad != "longest" or padding.left or self.max_length > _MOST_APART:
            return None
        names = (self.outputs.ids, self.outputs.mask, self.outputs.types)
        made = zip(names, padding.fillers, strict=True)
        return Sequences(
            tuple(PaddedInput(name, 1, filler) for name, filler in made if name is not None)
        )

    def _tokenizer(self, folder: Path) -> tuple[Any, _Padding]:
        path = folder / self.tokenizer
        if "/" in self.tokenizer or not path.is_file():
            raise InvalidSteps(f"{self.tokenizer!r} is no file of the artifact's own folder")
        # One thread a model, as everywhere; read at each call by the library.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import tokenizers  # noqa: PLC0415 - only models of text need it
        except ModuleNotFoundError as error:
            raise InvalidSteps(
                "this step needs tokenizers, which is not installed: pip install 'salver[text]'"
            ) from error
        try:
            tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
            tokenizer.enable_truncation(self.max_length)
            padding = tokenizer.padding or {}
            # The library's own padding takes much memory a token, and says nothing before.
            tokenizer.no_padding()
        except BaseException as error:  # the library panics with an exception of no common base
            raise InvalidSteps(f"{self.tokenizer}: {error}"[:_MAX_CAUSE]) from error
        fillers = (padding.get("pad_id", 0), 0, padding.get("pad_type_id", 0))
        return tokenizer, _Padding(fillers, padding.get("direction") == "left")

    def _texts(self, batch: Batch, at: Place) -> list[str]:
        texts = []
        for row, item in enumerate(values_at(batch, at).tolist()):
            data = item.encode() if isinstance(item, str) else item
            if len(data) > self.max_bytes:
                raise InvalidTensor(
                    f"{self.column!r}, row {row}: the text has {len(data)} bytes, at most "
                    f"{self.max_bytes} are allowed"
                )
            try:
                texts.append(data.decode())
            except UnicodeDecodeError as error:
                raise InvalidTensor(f"{self.column!r}, row {row}: the text is not UTF-8") from error
        return texts

    def _encoded(self, tokenizer: Any, texts: list[str]) -> list[Any]:
        try:
            encoded: list[Any] = tokenizer.encode_batch(texts)
        except BaseException as error:  # the library panics with an exception of no common base
            raise ModelFailed(f"tokenizers: {error}"[:_MAX_CAUSE]) from error
        return encoded


def _table(rows: list[list[int]], width: int, filler: int, *, left: bool) -> AnyArray:
    table = np.full((len(rows), width), filler, np.int64)
    for padded, row in zip(table, rows, strict=True):
        if left:
            padded[width - len(row) :] = row
        else:
            padded[: len(row)] = row
    return table
