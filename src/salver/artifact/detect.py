"""Which runtime a file is for, from its name and its first bytes."""

from pathlib import Path

from salver.artifact.code import MODEL_FILE, code_runtime
from salver.artifact.torch_archive import SUFFIXES, kind_of, pickled
from salver.core.errors import CodeRefused, PickleRefused, UnsupportedFormat

_PICKLE_ENDINGS = (".pkl", ".pickle", ".joblib")
_HEAD_BYTES = 256
_TORCH = "torch"
_PICKLE_MAGIC = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_ZIP_MAGIC = b"PK\x03\x04"
_SUPPORTED = (
    "ONNX (.onnx), scikit-learn (.skops), XGBoost (.json, .ubj), LightGBM (.txt), PyTorch (.pt2, "
    ".pt) and code (model.py) are supported"
)


def detect_runtime(folder: Path, *, trust_pickle: bool, trust_code: bool = False) -> str:
    """Return the runtime of the artifact in ``folder``.

    Raises ``CodeRefused`` and ``PickleRefused`` for what nobody trusted, and ``UnsupportedFormat``.
    """
    if (folder / MODEL_FILE).is_file():
        if not trust_code:
            raise code_refusal()
        return code_runtime(folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    _refuse_torch_pickles(folder, names)
    pickles = [name for name in names if _is_pickle(folder / name)]
    if pickles:
        if trust_pickle and len(names) == 1:
            return "sklearn"
        raise PickleRefused(
            f"{pickles[0]} is a pickle, which runs whatever code is in it when it is loaded; save "
            "the model with skops (skops.io.dump) or as ONNX, or push that one file with "
            "--trust-pickle if you made it yourself"
        )
    found = {runtime for name in names if (runtime := _runtime_of(folder / name)) is not None}
    if len(found) == 1:
        runtime = found.pop()
        if runtime == _TORCH and not trust_code:
            raise torch_refusal()
        return runtime
    if len(found) > 1:
        raise UnsupportedFormat(
            f"the folder holds models for {' and '.join(sorted(found))}; push one model at a time, "
            "or name it with --runtime"
        )
    raise UnsupportedFormat(f"no known model in {', '.join(names[:5])}; {_SUPPORTED}")


def code_refusal() -> CodeRefused:
    """Return why code that nobody trusted is not loaded."""
    return CodeRefused(
        f"{MODEL_FILE} is code, which does whatever it says when it is loaded, with all rights of "
        "the worker; push it with --trust-code if you wrote it or have read it, or name another "
        "file of the folder with --runtime"
    )


def torch_refusal() -> CodeRefused:
    """Return why a PyTorch file that nobody trusted is not loaded."""
    return CodeRefused(
        "PyTorch's loaders were not made for files of strangers: a file made for it can run code "
        "with all rights of the worker; push it with --trust-code if you made it yourself or trust "
        "who did, or save the model as ONNX"
    )


def refuse_pickles(folder: Path) -> None:
    """Raise ``PickleRefused`` if any file is a pickle."""
    for path in folder.rglob("*"):
        if path.is_file() and _is_pickle(path):
            raise PickleRefused(
                f"{path.name} is a pickle, which runs whatever code is in it when it is loaded; "
                "save the model with skops or as ONNX, or push it with --trust-pickle"
            )


def _refuse_torch_pickles(folder: Path, names: list[str]) -> None:
    """Raise ``PickleRefused`` for what ``torch.save`` wrote, which nothing here can load."""
    for name in names:
        if name.lower().endswith(SUFFIXES):
            if not _head(folder / name).startswith(_ZIP_MAGIC):
                raise pickled(name)
            kind_of(folder / name)


def _is_pickle(path: Path) -> bool:
    return path.name.lower().endswith(_PICKLE_ENDINGS) or _head(path).startswith(_PICKLE_MAGIC)


def _runtime_of(path: Path) -> str | None:
    name, head = path.name.lower(), _head(path)
    if name.endswith(".onnx"):
        return "onnx"
    if name.endswith(".skops") and head.startswith(_ZIP_MAGIC):
        return "sklearn"
    if name.endswith(SUFFIXES) and head.startswith(_ZIP_MAGIC):
        return _TORCH
    if (name.endswith((".json", ".ubj")) and b"learner" in head) or name.endswith(".ubj"):
        return "xgboost"
    if head.startswith(b"tree\n") or (name.endswith((".txt", ".lgb")) and b"version=v" in head):
        return "lightgbm"
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
