"""Loads and calls code that came with a model: its class, its errors, its outputs."""

import asyncio
import contextlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from salver.artifact.code import MODEL_CLASS, MODEL_FILE
from salver.artifact.detect import code_refusal
from salver.artifact.requirements import check_requirements
from salver.core.errors import LoadFailed, ModelFailed, SalverError, message_of
from salver.core.garbage import give_back
from salver.observe.logs import get_logger
from salver.runtimes.base import RuntimeOptions

log = get_logger(__name__)

_MAX_CAUSE = 500
_MAX_TRACEBACK = 20_000
_ALWAYS_LOGGED = 10
_LOG_EVERY = 100


class _Raised(NamedTuple):
    """What an awaited call ended with; carried out of the event loop, which must go on."""

    error: BaseException


class Code:
    """The ``Model`` of one folder.

    Not thread-safe, except for ``call`` with a method that the model's author made so; each thread
    has an event loop of its own, which runs while something is awaited. Nothing
    that the code raises leaves it but as a ``SalverError``, ``sys.exit`` included.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._model: Any = None
        self._loops: list[asyncio.Runner] = []
        self._own = threading.local()
        self._seen: Counter[str] = Counter()

    @property
    def is_loaded(self) -> bool:
        """Tell whether there is a model."""
        return self._model is not None

    def load(self, folder: Path, options: RuntimeOptions) -> None:
        """Import ``model.py``, make the model, and let it load.

        Raises ``CodeRefused``, ``RequirementsUnmet`` or ``LoadFailed``.
        """
        if not options.trust_code:
            raise code_refusal()
        self._folder = folder.resolve()
        check_requirements(folder)
        if not (folder / MODEL_FILE).is_file():
            raise LoadFailed(f"the folder holds no {MODEL_FILE}")
        sys.path.insert(0, str(self._folder))
        try:
            made = _class_of(self._import())()
            if hasattr(made, "load"):
                self._value(made.load(self._folder))
        except BaseException as error:
            told = error if isinstance(error, SalverError) else LoadFailed(self._told(error))
            self.close()
            raise told from error
        self._model = made

    def has(self, method: str) -> bool:
        """Tell whether the model defines a method."""
        return callable(getattr(self._model, method, None))

    def call(self, method: str, argument: Any) -> Any:
        """Return what a method answers, awaited if need be; raises ``ModelFailed``."""
        if self._model is None:
            raise ModelFailed("the model is not loaded")
        try:
            return self._value(getattr(self._model, method)(argument))
        except BaseException as error:
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> ModelFailed:
        """Return what a caller is told of an error; the log gets the traceback."""
        return ModelFailed(self._told(error))

    def close(self) -> None:
        """Forget the model and its modules."""
        self._model = None
        loops, self._loops, self._own = self._loops, [], threading.local()
        for loop in loops:
            # One that a stream is still using ends with its thread.
            with contextlib.suppress(RuntimeError):
                loop.close()
        inside = str(self._folder)
        if inside in sys.path:
            sys.path.remove(inside)
        for name, module in list(sys.modules.items()):
            if _lies_in(getattr(module, "__file__", None), self._folder):
                del sys.modules[name]
        give_back()

    def _import(self) -> ModuleType:
        path = self._folder / MODEL_FILE
        name = f"salver_model_{sha256(str(path).encode()).hexdigest()[:16]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Under its name before it runs, as dataclasses and pickles inside it expect.
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def _value(self, result: Any) -> Any:
        if not inspect.isawaitable(result):
            return result
        loop: asyncio.Runner | None = getattr(self._own, "loop", None)
        if loop is None:
            loop = self._own.loop = asyncio.Runner()
            self._loops.append(loop)
        value = loop.run(_awaited(result))
        if isinstance(value, _Raised):
            raise value.error
        return value

    def _told(self, error: BaseException) -> str:
        """Return type, message and line, and log the rest."""
        place = self._place(error)
        self._seen[place] += 1
        count = self._seen[place]
        if count <= _ALWAYS_LOGGED or count % _LOG_EVERY == 0:
            # As text: rendering it is the error's own code once more, which may fail too.
            lines = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
            log.error("model_code_failed", place=place, count=count, traceback=lines)
        what = f"{type(error).__name__}: {message_of(error)}"
        if isinstance(error, ValueError) and ("read-only" in what or "WRITEABLE" in what):
            what += "; inputs are read-only, so copy what is written into: inputs[name].copy()"
        if isinstance(error, SystemExit):
            what = f"sys.exit({error.code!r}) was called; raise an error instead"
        return f"{place}: {what}"[:_MAX_CAUSE]

    def _place(self, error: BaseException) -> str:
        """Return the innermost line of the model's own files that an error came through."""
        place = MODEL_FILE
        for frame, line in traceback.walk_tb(error.__traceback__):
            file = frame.f_code.co_filename
            if _lies_in(file, self._folder):
                place = f"{Path(file).relative_to(self._folder)} line {line}"
        if isinstance(error, SyntaxError) and _lies_in(error.filename, self._folder):
            place = f"{Path(str(error.filename)).relative_to(self._folder)} line {error.lineno}"
        return place


async def _awaited(result: Any) -> Any:
    try:
        return await result
    except BaseException as error:  # SystemExit would end the loop with it
        return _Raised(error)


def _class_of(module: ModuleType) -> Any:
    found = getattr(module, MODEL_CLASS, None)
    if not inspect.isclass(found):
        raise LoadFailed(f"{MODEL_FILE} defines no class {MODEL_CLASS}")
    return found


def _lies_in(file: str | None, folder: Path) -> bool:
    return file is not None and file.startswith(f"{folder}/")
