"""Where a version runs, and how much of the machine it gets."""

import math
from typing import NamedTuple

import msgspec

from salver.core.errors import HostingRefused

AUTO, SHARED, DEDICATED = "auto", "shared", "dedicated"
KINDS = (AUTO, SHARED, DEDICATED)
CPU, CUDA, TENSORRT = "cpu", "cuda", "tensorrt"
PROVIDERS = (AUTO, CPU, CUDA, TENSORRT)

MAX_INSTANCES, MAX_THREADS, MAX_GPU, MAX_CPU = 16, 256, 63, 4095
MIN_MEMORY_BYTES = 256 * 1024 * 1024
"""A worker without a model has 120 MiB of its own."""
_MAX_CPUS_TEXT = 256
_DIGITS, _LEAST_SHARE = 2, 0.1


class Execution(msgspec.Struct, frozen=True, array_like=True):
    """How a worker runs a version.

    ``instances`` is how many batches run at the same time, each in a copy of the model;
    ``threads`` is for one run of an instance, 0 for what ``engine.threads`` says; ``provider``
    is what ONNX Runtime and PyTorch compute with.
    """

    instances: int = 1
    threads: int = 0
    provider: str = AUTO


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """How much of the machine a worker process may use; the defaults are no limits.

    ``cpus`` is a number of CPUs or a list as ``parse_cpus`` reads it, ``memory_bytes`` counts what
    the process can write to, and in a control group what it and its children have, ``gpu`` is the
    number of the only one it sees.
    """

    cpus: str = ""
    memory_bytes: int = 0
    gpu: int | None = None


class Hosting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an endpoint asks for; ``kind`` is auto, shared or dedicated.

    ``background`` is for versions that nobody waits for; people cannot ask for it.
    """

    kind: str = AUTO
    execution: Execution = Execution()
    limits: Limits = Limits()
    background: bool = False


NO_LIMITS = Limits()


class Cpus(NamedTuple):
    """So many CPUs, or exactly these.

    ``share`` is how much of their time together may be used, in CPUs; 0 for all.
    """

    number: int
    listed: frozenset[int] = frozenset()
    share: float = 0.0


def parse_cpus(text: str) -> Cpus:
    """Read ``2`` (two CPUs, whichever), ``1.5`` (two, three quarters of the time), or ``0-3,6``.

    The last are these; ``2-2`` is CPU 2 alone. Raises ``HostingRefused``.
    """
    if len(text) > _MAX_CPUS_TEXT:
        raise _not_cpus(text)
    if "." in text:
        return _part(text)
    if "," not in text and "-" not in text:
        count = _number(text, text)
        if not count:
            raise _not_cpus(text)
        return Cpus(count)
    listed: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _number(first, text)
        stop = _number(last, text) if dash else start
        if stop < start:
            raise _not_cpus(text)
        listed.update(range(start, stop + 1))
    return Cpus(len(listed), frozenset(listed))


def check_hosting(hosting: Hosting, *, is_code: bool, is_stream: bool) -> None:
    """Raise ``HostingRefused`` for what cannot be had, whatever the machine has."""
    execution, limits = hosting.execution, hosting.limits
    if hosting.kind not in KINDS:
        raise HostingRefused(f"hosting is one of {', '.join(KINDS)}")
    if execution.provider not in PROVIDERS:
        raise HostingRefused(f"provider is one of {', '.join(PROVIDERS)}")
    if limits.cpus:
        parse_cpus(limits.cpus)
    if 0 < limits.memory_bytes < MIN_MEMORY_BYTES:
        raise HostingRefused(
            f"a memory limit of {limits.memory_bytes} bytes leaves nothing for the model; give at "
            f"least {MIN_MEMORY_BYTES}"
        )
    if limits.gpu is not None and execution.provider == CPU:
        raise HostingRefused("a GPU was asked for, and to compute without one; leave one out")
    if hosting.kind == SHARED:
        _check_shared(limits, is_code=is_code, is_stream=is_stream)
    if is_stream and execution.instances > 1:
        raise HostingRefused(
            "a model that streams answers many requests at a time already; leave out instances, "
            "or give more replicas"
        )


def _check_shared(limits: Limits, *, is_code: bool, is_stream: bool) -> None:
    if is_code:
        raise HostingRefused(
            "the model runs code, which never shares a process with others; leave out --hosting"
        )
    if is_stream:
        raise HostingRefused("a model that streams gets a worker of its own; leave out --hosting")
    if limits != NO_LIMITS:
        raise HostingRefused(
            "limits of CPUs, memory or GPU hold for a whole process, so they need a worker of the "
            "model's own; leave out --hosting shared"
        )


def _number(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_CPU))):
        raise _not_cpus(text)
    number = int(digits)
    if number > MAX_CPU:
        raise _not_cpus(text)
    return number


def _part(text: str) -> Cpus:
    """Read a number with at most two digits behind the point."""
    whole, _, digits = text.partition(".")
    hundredths = _number(digits.ljust(_DIGITS, "0"), text)
    share = _number(whole, text) + hundredths / 100
    if not digits or len(digits) > _DIGITS or share < _LEAST_SHARE:
        raise _not_cpus(text)
    number = math.ceil(share)
    return Cpus(number, share=share if share < number else 0.0)


def _not_cpus(text: str) -> HostingRefused:
    return HostingRefused(
        f"{text[:40]!r} are no CPUs: give a number such as 2 or 0.5 (at least {_LEAST_SHARE}), or "
        f"a list such as 0-3,6 (2-2 is CPU 2 alone; {MAX_CPU} is the highest)"
    )
