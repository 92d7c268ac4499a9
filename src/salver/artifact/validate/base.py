"""Which check belongs to which runtime."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

from salver.core.errors import InvalidArtifact


class Validator(Protocol):
    """Checks the files of one artifact."""

    def __call__(self, folder: Path) -> None:
        """Raise ``InvalidArtifact`` with the cause when a file is damaged or dangerous."""
        ...


VALIDATORS: dict[str, str] = {
    "onnx": "salver.artifact.validate.onnx:validate",
    "sklearn": "salver.artifact.validate.skops:validate",
    "xgboost": "salver.artifact.validate.xgboost:validate",
    "lightgbm": "salver.artifact.validate.lightgbm:validate",
    "torch": "salver.artifact.validate.torch:validate",
    "python": "salver.artifact.validate.python:validate",
    "python-stream": "salver.artifact.validate.python:validate",
}


_STUMBLES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def validate(runtime: str, folder: Path) -> None:
    """Check an artifact for its runtime; runtimes without a format have no check.

    Raises ``InvalidArtifact``, also when the file makes the check itself stumble.
    """
    target = VALIDATORS.get(runtime)
    if target is None:
        return
    module, _, attribute = target.partition(":")
    check: Validator = getattr(import_module(module), attribute)
    try:
        check(folder)
    except InvalidArtifact:
        raise
    except _STUMBLES as error:
        raise InvalidArtifact(
            f"the file's structure is damaged ({type(error).__name__}: {error}"[:300] + ")"
        ) from error


def model_file(folder: Path, suffixes: tuple[str, ...]) -> Path:
    """Return the artifact's one model file; raises ``InvalidArtifact``."""
    found = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(suffixes)]
    if len(found) != 1:
        raise InvalidArtifact(
            f"{len(found)} files end in {' or '.join(suffixes)}; an artifact has exactly one"
        )
    return found[0]
