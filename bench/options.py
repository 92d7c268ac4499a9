"""Command line of the bench."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.servers.table import SERVERS

PARTS = (
    "tabular",
    "grpc",
    "binary",
    "grpc-binary",
    "json-large",
    "startup",
    "cold",
    "rollback",
    "text",
    "image",
    "overload",
    "many",
    "shadow",
    "routing",
)
NAMES = (*SERVERS, "litserve")
"""LitServe is measured with texts only."""
USUAL = tuple(name for name in NAMES if name != "salver-compiled")
"""What is measured unless it is said: the compiled wheel has to be made first."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure and how long; `seconds` is one measurement, `warm_up_s` comes before it."""

    servers: tuple[str, ...]
    parts: tuple[str, ...]
    rounds: int
    seconds: float
    warm_up_s: float
    connections: tuple[int, ...]
    name: str


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; argparse ends the process with 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default=",".join(USUAL), help="servers, comma-separated")
    parser.add_argument("--part", default=",".join(PARTS), help="parts, comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="one measurement (default 6)")
    parser.add_argument("--connections", default="1,16,64", help="default 1,16,64")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds each")
    parser.add_argument("--name", default="run", help="results are <date>-<name>.{json,md}")
    found = parser.parse_args(arguments)
    return Options(
        servers=_choice(parser, "--only", found.only, NAMES),
        parts=_choice(parser, "--part", found.part, PARTS),
        rounds=1 if found.quick else found.rounds,
        seconds=2.0 if found.quick else found.seconds,
        warm_up_s=1.0,
        connections=tuple(int(count) for count in found.connections.split(",")),
        name=found.name,
    )


def _choice(
    parser: argparse.ArgumentParser, option: str, text: str, known: tuple[str, ...]
) -> tuple[str, ...]:
    """The named ones in the order of `known`."""
    wanted = text.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"{option}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(name for name in known if name in wanted)
