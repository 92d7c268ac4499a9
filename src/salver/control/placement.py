"""Which shared worker hosts a version, and which of several wishes for one version holds. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from salver.core.hosting import (
    AUTO,
    CUDA,
    DEDICATED,
    NO_LIMITS,
    SHARED,
    Execution,
    Hosting,
    Limits,
)
from salver.registry.records import EndpointSpec, VersionRecord
from salver.runtimes.table import ON_GPUS, is_code, is_stream
from salver.wire.messages import Plan

_DEFAULT = Hosting()
_SUCCESSOR = "."
_LONG_NAME, _KEPT_NAME, _DIGEST, _TAG = 32, 15, 16, 8


class Place(msgspec.Struct, frozen=True):
    """How a version is hosted, and the number of the first shared worker that has it.

    There are ``shared_workers``.
    """

    hosting: Hosting
    home: int = 0
    shared_workers: int = 1

    def start(self, replicas: int) -> int:
        """Return the first of so many neighbouring workers, the home among them if it can be."""
        return min(self.home, max(0, self.shared_workers - replicas))


class Wish(NamedTuple):
    """A version that an endpoint wants, and its measured size, 0 for none."""

    version: VersionRecord
    spec: EndpointSpec
    size_bytes: int


def places_of(wishes: Sequence[Wish], previous: Plan, shared_workers: int) -> dict[str, Place]:
    """Return the place of each version, by its id; see ``homes`` and ``agreed``."""
    hostings = agreed((wish.version.id, wish.spec.hosting) for wish in wishes)
    sizes: dict[str, int] = {}
    replicas: dict[str, int] = {}
    for version, spec, size_bytes in wishes:
        if not has_own(version, hostings[version.id]):
            sizes[version.id] = size_bytes or version.manifest.size_bytes
            replicas[version.id] = max(spec.replicas, replicas.get(version.id, 0))
    numbers = homes(sizes, replicas, previous, shared_workers)
    return {
        variant: Place(found, numbers.get(variant, 0), shared_workers)
        for variant, found in hostings.items()
    }


def has_own(version: VersionRecord, hosting: Hosting) -> bool:
    """Tell whether a version has workers of its own; limits hold for whole processes."""
    runtime = version.manifest.runtime
    asked = hosting.kind == DEDICATED or hosting.limits != NO_LIMITS
    return asked or runs_code(version) or is_stream(runtime)


def runs_code(version: VersionRecord) -> bool:
    """Tell whether a version executes what came with it, which never shares a process."""
    return version.manifest.trust_pickle or is_code(version.manifest.runtime)


def execution(version: VersionRecord, hosting: Hosting) -> Execution:
    """Return how a version is run; what can compute on the GPU that it gets has to."""
    asked = hosting.execution
    has_choice = version.manifest.runtime in ON_GPUS
    if asked.provider == AUTO and hosting.limits.gpu is not None and has_choice:
        return msgspec.structs.replace(asked, provider=CUDA)
    return asked


def tag(limits: Limits, run: Execution, *, background: bool = False) -> str:
    """Return what tells workers of other limits apart, since a process keeps its own for ever.

    Nothing for the defaults. A letter is in it, so that it cannot be taken for a version. It is
    short, as the path of a socket has little room.
    """
    if (limits, run) == (NO_LIMITS, Execution()):
        return "-c" if background else ""
    own = (limits, run, background) if background else (limits, run)
    return f"-x{sha256(msgspec.msgpack.encode(own)).hexdigest()[:_TAG]}"


def own_name(version: VersionRecord) -> str:
    """Return what the names of a version's own workers have in common, short enough for a socket.

    The path of a Unix socket has room for about a hundred characters. A name as long as shortened
    ones are is shortened too, so that none can look like another's.
    """
    model = version.model
    if len(model) >= _LONG_NAME:
        model = f"{model[:_KEPT_NAME]}.{sha256(model.encode()).hexdigest()[:_DIGEST]}"
    return f"{model}-{version.version}"


def homes(sizes: Mapping[str, int], replicas: Mapping[str, int], previous: Plan, count: int) -> (
    dict[str, int]
):  # fmt: skip
    """Return for each version the number of the shared worker that hosts it first.

    ``sizes`` are in bytes, measured where that was done, ``replicas`` how many workers each has;
    there are ``count`` workers. A version stays where ``previous`` has it; what is new, or was on a
    worker that is no more, goes to where the least is, the largest first. Versions of several
    replicas are on neighbours, the first workers unless they were elsewhere, whatever their sizes.
    """
    present = _present(previous, count)
    placed: dict[str, int] = {}
    loads = [0] * count
    for variant, size_bytes in sizes.items():
        copies = replicas[variant]
        if copies > 1:
            placed[variant] = min(present.get(variant, 0), max(0, count - copies))
        elif variant in present:
            placed[variant] = present[variant]
        if variant in placed:
            for index in range(placed[variant], min(placed[variant] + copies, count)):
                loads[index] += size_bytes
    for variant in sorted(sizes.keys() - placed.keys(), key=lambda name: (-sizes[name], name)):
        placed[variant] = min(range(count), key=lambda index: (loads[index], index))
        # One byte at least, so that versions of no known size are spread too.
        loads[placed[variant]] += max(1, sizes[variant])
    return placed


def agreed(wishes: Iterable[tuple[str, Hosting]]) -> dict[str, Hosting]:
    """Return how each version is hosted: as the first says who has a wish of its own.

    It is in the background only if it is there for all.
    """
    found: dict[str, Hosting] = {}
    awaited: set[str] = set()
    for variant, hosting in wishes:
        if not hosting.background:
            awaited.add(variant)
        if found.get(variant, _DEFAULT) == _DEFAULT:
            found[variant] = hosting
    for variant in awaited:
        found[variant] = msgspec.structs.replace(found[variant], background=False)
    return found


def _present(previous: Plan, count: int) -> dict[str, int]:
    """Return the lowest shared worker that has each version, of those that are asked if some are.

    One that is only kept until every gateway knows that it is not asked any more does not count,
    nor does one that shall not be there: its versions have a new place already.
    """
    routed = {
        (worker.partition(_SUCCESSOR)[0], variant.id)
        for endpoint in previous.endpoints
        for variant in endpoint.variants
        for worker in variant.workers
    }
    asked: dict[str, int] = {}
    hosted: dict[str, int] = {}
    for worker in previous.workers:
        if worker.kind != SHARED:
            continue
        name = worker.id.partition(_SUCCESSOR)[0]
        number = int(name.rpartition("-")[2])
        if number >= count:
            continue
        for load in worker.loads:
            known = asked if (name, load.variant) in routed else hosted
            known[load.variant] = min(number, known.get(load.variant, number))
    return hosted | asked
