"""Bytes where a library wants text are the caller's error, and hurt nobody else."""

import numpy as np
import pytest

from salver.core.errors import InvalidTensor
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.checks import as_text
from salver.runtimes.table import create_batch
from tests import models


def test_an_onnx_model_refuses_what_is_not_text() -> None:
    """Bytes that are not UTF-8 are refused by name; text before and after is answered."""
    runtime = create_batch("onnx")
    runtime.load(models.onnx_identity("BYTES").parent, None, RuntimeOptions())
    signature = runtime.signature()
    assert signature is not None
    name = signature.inputs[0].name
    good = np.array([["grün"]], dtype=object)
    for batch in ({name: good}, {name: np.array([["grün".encode()]], dtype=object)}):
        (answer,) = runtime.run(batch, None).values()
        assert answer.tolist() == good.tolist()
    with pytest.raises(InvalidTensor, match=f"{name!r} holds bytes that are not UTF-8"):
        runtime.run({name: np.array([[b"\xff\xfe"]], dtype=object)}, None)
    (answer,) = runtime.run({name: good}, None).values()
    assert answer.tolist() == good.tolist()


def test_text_keeps_its_shape() -> None:
    """Elements stay where they are; those that are text already are taken as they are."""
    array = np.array([[b"a", "b"], [b"", "d"]], dtype=object)
    assert as_text("x", array).tolist() == [["a", "b"], ["", "d"]]
