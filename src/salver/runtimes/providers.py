"""What ONNX Runtime computes with: names, and which to try. Pure."""

from collections.abc import Iterable, Sequence

from salver.core.errors import ResourceUnavailable
from salver.core.hosting import AUTO, CPU, CUDA, TENSORRT

CPU_NAME = "CPUExecutionProvider"
CUDA_NAME = "CUDAExecutionProvider"
_NAMES = {
    CPU: CPU_NAME,
    CUDA: CUDA_NAME,
    TENSORRT: "TensorrtExecutionProvider",
}
_SHORT = {name: short for short, name in _NAMES.items()}
# What one provider cannot compute falls to the next.
_CHAINS = {CPU: (CPU,), CUDA: (CUDA, CPU), TENSORRT: (TENSORRT, CUDA, CPU)}


def to_try(asked: str, built_in: Sequence[str]) -> list[list[str]]:
    """Return the lists of providers to try in turn; the first of each has to be in use afterwards.

    ``built_in`` is what the installed library knows. Raises ``ResourceUnavailable`` for what was
    asked for and is not there.
    """
    if asked == AUTO:
        choices = [CUDA, CPU] if _NAMES[CUDA] in built_in else [CPU]
    elif _NAMES[asked] in built_in:
        choices = [asked]
    else:
        raise unavailable(asked, built_in, "the installed onnxruntime does not have it")
    return [
        [_NAMES[one] for one in _CHAINS[choice] if _NAMES[one] in built_in] for choice in choices
    ]


def short_name(provider: str) -> str:
    """Return how Salver calls a provider."""
    return _SHORT.get(provider, provider)


def unavailable(asked: str, there: Iterable[str], why: str) -> ResourceUnavailable:
    """Return the error that names what there is instead."""
    names = ", ".join(_SHORT[name] for name in there if name in _SHORT)
    fix = "" if asked == CPU else "; a GPU takes the onnxruntime-gpu package and its libraries"
    return ResourceUnavailable(
        f"execution provider {asked!r} cannot be used: {why}; available here: {names}{fix}"
    )
