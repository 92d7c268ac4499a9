"""`python -m bench.rollouts`: false alarms and detection, as the tables of `docs/rollouts.md`.

With `--experiments N` only the coverage of experiments, as the table of `docs/experiments.md`.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from bench.rollouts import detection, experiments, null
from bench.rollouts.watch import POLICY, STRICT, World

SEED = 20_261
_CHUNK = 4


def alarms(runs: int, each: null.Each = map) -> bool:
    """Print the table of false alarms; False when one is above what chance allows."""
    print("| versions | runs | rolled back | allowed | because of |\n|---|--:|--:|--:|---|")
    within = True
    for name, policy, world, share in (
        ("equal, 5 % throughout", POLICY, World(null.STEADY), 1),
        ("equal, 5, 25, 50 %", POLICY, World(null.STEPS), 1),
        ("equal, 5 %, no margins", STRICT, World(null.STEADY), 2),
        ("equal, 5, 25, 50 %, no margins", STRICT, World(null.STEPS), 4),
        ("equal, callers alike, no margins", STRICT, World(null.STEADY, alike=True), 4),
        ("worse as tolerated", POLICY, World(null.STEADY, harm=null.TOLERATED), 4),
    ):
        found = null.false_alarms(runs // share, policy, world, SEED, each)
        rate = found.alarms / found.runs
        within = within and rate <= found.allowed
        causes = ", ".join(f"{metric} {n}" for metric, n in sorted(found.metrics.items()))
        print(
            f"| {name} | {found.runs} | {rate:.2%} | {found.allowed:.2%} | {causes or '-'} |",
            flush=True,
        )
    return within


def harms(runs: int) -> bool:
    """Print the table of detection; False when a median is above what is allowed."""
    print("\n| harm | median | middle half | Wald | 2 × Wald + 5 events | sticky callers |")
    print("|---|--:|--:|--:|--:|--:|")
    within = True
    for case in detection.cases():
        found = detection.independent(case, runs, SEED)
        stuck = detection.sticky(case, max(runs // 5, 20), SEED)
        within = within and found.median <= found.allowed
        print(
            f"| {case.name} | {found.median:.0f} | {found.quarter:.0f}-{found.three_quarters:.0f} "
            f"| {found.wald:.0f} | {found.allowed:.0f} | {stuck.median:.0f} |",
            flush=True,
        )
    return within


def intervals(runs: int) -> bool:
    """Print how often intervals of experiments miss the truth; False when it is too often."""
    print("| experiment | runs | missed | width | second arm's traffic at the end |")
    print("|---|--:|--:|--:|--:|")
    within = True
    for world in experiments.WORLDS:
        found = experiments.coverage(world, runs, SEED)
        rate = found.missed / found.runs
        within = within and (world.naive or rate <= found.allowed)
        print(
            f"| {world.name} | {found.runs} | {rate:.1%} | {found.width:.3g} "
            f"| {found.second:.0%} |",
            flush=True,
        )
    return within


def main() -> int:
    """Run both; 1 when a number is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="rollouts of equal versions")
    parser.add_argument("--detections", type=int, default=500, help="rollouts with each harm")
    parser.add_argument("--jobs", type=int, default=1, help="processes among which runs are shared")
    parser.add_argument("--experiments", type=int, default=0, help="experiments of each sort")
    options = parser.parse_args()
    began = time.monotonic()
    if options.experiments:
        results = [intervals(options.experiments)]
    else:
        with ProcessPoolExecutor(options.jobs) as pool:
            each = partial(pool.map, chunksize=_CHUNK) if options.jobs > 1 else map
            results = [alarms(options.runs, each)]
        results.append(harms(options.detections) if options.detections else True)
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
