"""A worker process that knows the runtimes of these tests as well."""

from salver.engine import trial
from salver.engine.__main__ import main
from salver.runtimes.table import BATCH_RUNTIMES

BATCH_RUNTIMES.update(
    {
        "affine": "tests.engine.runtimes:Affine",
        "ballast": "tests.engine.runtimes:Ballast",
        "meeting": "tests.engine.runtimes:Meeting",
        "picky": "tests.engine.runtimes:Picky",
        "sparse": "tests.engine.runtimes:Sparse",
        "slow": "tests.engine.runtimes:SlowAffine",
        "very-slow": "tests.engine.runtimes:VerySlowAffine",
    }
)

trial.CHILD = "tests.engine.trial_main"

if __name__ == "__main__":
    main()
