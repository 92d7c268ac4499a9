"""Fuzzes one target with atheris: ``python -m tests.fuzz TARGET [OPTIONS OF LIBFUZZER]``.

An input that goes wrong is written into the target's corpus, where plain tests replay it. Inputs
that reach new code are kept in ``.fuzz``, so the next run goes on from there.
"""

import logging
import sys
from pathlib import Path

import atheris

from tests.fuzz.targets import TARGETS, named

KEPT = Path(".fuzz")
DEFAULTS = ("-max_len=65536", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1")


def main(arguments: list[str]) -> int:
    """Run until libFuzzer ends the process; 2 for a target that there is not."""
    name = arguments[1] if len(arguments) > 1 else ""
    target = named(name)
    if target is None:
        print(f"fuzz: name one of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["salver", "hpack"]):
        function = target.load()
    # What is refused is logged in service; here it would drown what went wrong.
    logging.disable(logging.CRITICAL)
    kept = KEPT / name.replace(":", ".")
    kept.mkdir(parents=True, exist_ok=True)
    options = [*DEFAULTS, f"-artifact_prefix={target.corpus}/", *arguments[2:]]
    atheris.Setup(
        [arguments[0], *options, str(kept), str(target.corpus)],
        function,
        custom_mutator=target.load_mutator(),
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
