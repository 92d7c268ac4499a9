"""Real models in PyTorch's two formats, made once per test run."""

import functools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_iris

from salver.core.tensor import AnyArray

_FOLDER = tempfile.TemporaryDirectory(prefix="salver-torch-")
_EPOCHS = 60


class Iris(torch.nn.Module):
    """Tells three kinds of flowers apart by four lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3)
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the probability of each kind, and the likeliest."""
        probabilities = torch.softmax(self.layers(x), 1)
        return {"probabilities": probabilities, "label": torch.argmax(probabilities, 1)}


@functools.cache
def iris() -> torch.nn.Module:
    """Return the model, trained."""
    torch.manual_seed(0)
    data = load_iris()
    rows = torch.tensor(data.data, dtype=torch.float32)
    kinds = torch.tensor(data.target)
    model = Iris()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(_EPOCHS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.layers(rows), kinds).backward()
        optimizer.step()
    return model.eval()


@functools.cache
def iris_script() -> Path:
    """Return the flowers' model as TorchScript."""
    return script(iris(), Path(_FOLDER.name, "iris.pt"))


@functools.cache
def iris_exported() -> Path:
    """Return the flowers' model as an exported program for any number of rows."""
    return export(iris(), Path(_FOLDER.name, "iris.pt2"), torch.ones(2, 4))


def script(model: torch.nn.Module, path: Path) -> Path:
    """Write a module as TorchScript."""
    with quiet():
        torch.jit.script(model).save(str(path))
    return path


def export(
    model: torch.nn.Module, path: Path, *inputs: torch.Tensor, sizes: Any = None, **named: Any
) -> Path:
    """Export a module; the first size of each input varies unless ``sizes`` says otherwise."""
    if sizes is None:
        rows = torch.export.Dim("rows")
        sizes = tuple({0: rows} for _ in inputs)
    with quiet():
        program = torch.export.export(model.eval(), inputs, named or None, dynamic_shapes=sizes)
        torch.export.save(program, path)
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings of its own plans out of the tests, where a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ask(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """PyTorch itself, by its own loaders."""
    with quiet(), torch.no_grad():
        loaded = (
            torch.export.load(path).module()
            if path.suffix == ".pt2"
            else torch.jit.load(str(path)).eval()
        )
        answer = loaded(torch.tensor(rows))
    return {name: np.asarray(tensor) for name, tensor in answer.items()}
