"""What can be told of a model that is code without running it."""

import ast
from pathlib import Path

from salver.core.errors import InvalidArtifact

MODEL_FILE = "model.py"
MODEL_CLASS = "Model"
BATCH_RUNTIME, STREAM_RUNTIME = "python", "python-stream"
_STREAM_METHOD = "predict_stream"
_MAX_BYTES = 4 * 1024 * 1024


def code_runtime(folder: Path) -> str:
    """Return which runtime ``model.py`` is for: its class answers in one piece, or in chunks.

    Raises ``InvalidArtifact`` when the file cannot be read as Python.
    """
    for node in parse(folder).body:
        if isinstance(node, ast.ClassDef) and node.name == MODEL_CLASS:
            methods = {
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            return STREAM_RUNTIME if _STREAM_METHOD in methods else BATCH_RUNTIME
    return BATCH_RUNTIME


def parse(folder: Path) -> ast.Module:
    """Return the syntax tree of ``model.py``; raises ``InvalidArtifact`` with the line."""
    path = folder / MODEL_FILE
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidArtifact(f"{MODEL_FILE} is over {_MAX_BYTES} bytes; put data beside it")
        return ast.parse(path.read_bytes(), MODEL_FILE)
    except SyntaxError as error:
        raise InvalidArtifact(
            f"{MODEL_FILE} line {error.lineno}: {error.msg}; this is Python that the workers "
            "cannot run"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidArtifact(f"{MODEL_FILE} cannot be read as Python: {error}") from error
    except OSError as error:
        raise InvalidArtifact(f"{MODEL_FILE} is not there: {error.strerror}") from error
