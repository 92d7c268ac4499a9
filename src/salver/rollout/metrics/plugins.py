"""Metrics of other people: found where a process starts, by a setting or an installed package."""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from salver.core.errors import InvalidSettings
from salver.rollout.metrics.base import Metric
from salver.rollout.metrics.table import METRICS

GROUP = "salver.metrics"
"""The group of entry points in which packages name their metrics."""
SETTING = "control.metric_plugins"
MAX_PLUGINS = 64
_KIND = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PLACE = re.compile(r"[A-Za-z0-9_.]{1,200}:[A-Za-z0-9_.]{1,200}")


def load_plugins(setting: str) -> dict[str, Metric]:
    """Return the functions of kinds that a setting and installed packages name.

    The setting is ``KIND=MODULE:FUNCTION``, with commas between; entry points are those of the
    group ``salver.metrics``. Raises ``InvalidSettings`` that names the kind, where it was named
    and the cause, for what cannot be loaded or is named twice.
    """
    found: dict[str, Metric] = {}
    sources: dict[str, str] = dict.fromkeys(METRICS, "Salver itself")
    for kind, place, source in (*_of_setting(setting), *_of_packages()):
        if kind in sources:
            raise InvalidSettings(
                f"{source} has a metric of kind {kind!r}, and so has {sources[kind]}; give it "
                "another name"
            )
        if len(found) >= MAX_PLUGINS:
            raise InvalidSettings(f"{source}: there are at most {MAX_PLUGINS} kinds of metrics")
        sources[kind] = source
        found[kind] = _function(kind, place, source)
    return found


def _of_setting(setting: str) -> Iterator[tuple[str, str, str]]:
    for entry in filter(None, map(str.strip, setting.split(","))):
        kind, _, place = (part.strip() for part in entry.partition("="))
        yield kind, place, SETTING


def _of_packages() -> Iterator[tuple[str, str, str]]:
    for point in sorted(entry_points(group=GROUP)):
        yield point.name, point.value.strip(), _package(point)


def _package(point: EntryPoint) -> str:
    name = point.dist.name if point.dist is not None else "unknown"
    return f"package {name}, entry point group {GROUP!r}"


def _function(kind: str, place: str, source: str) -> Metric:
    if not _KIND.fullmatch(kind) or not _PLACE.fullmatch(place):
        raise InvalidSettings(
            f"{source}: {kind[:80]!r} = {place[:80]!r} is no metric; write "
            "KIND=MODULE:FUNCTION, such as any_of=acme.metrics:any_of"
        )
    module, _, path = place.partition(":")
    try:
        found: object = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:
        # Somebody else's module may raise anything while it is imported.
        raise InvalidSettings(
            f"{source}: the metric {kind!r} cannot be loaded from {place}: "
            f"{type(error).__name__}: {error}; install what it needs, or take it out"
        ) from error
    if not callable(found):
        raise InvalidSettings(
            f"{source}: the metric {kind!r} is {place}, which is no function but a "
            f"{type(found).__name__}"
        )
    function: Metric = found
    return function
