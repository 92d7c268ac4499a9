"""What is fuzzed: functions that take any bytes and raise when something is wrong with the answer.

They live with the tests of what they try; the inputs that once went wrong lie in a corpus beside
them, which those tests replay without a fuzzer.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

GATEWAY = Path(__file__).parents[1] / "gateway"


class Target(NamedTuple):
    """A function as ``module:name``, its corpus, and a mutator that knows its form, if any."""

    function: str
    corpus: Path
    mutator: str = ""

    def load(self) -> Callable[[bytes], None]:
        """Import the function."""
        function: Callable[[bytes], None] = _attribute(self.function)
        return function

    def load_mutator(self) -> Callable[[bytes, int, int], bytes] | None:
        """Import the mutator."""
        mutator: Callable[[bytes, int, int], bytes] | None = None
        if self.mutator:
            mutator = _attribute(self.mutator)
        return mutator


TARGETS = {
    "http2": Target(
        "tests.gateway.h2.observer:examine",
        GATEWAY / "h2" / "corpus",
        "tests.fuzz.frames:mutate",
    ),
    "headers": Target("tests.gateway.h2.blocks:examine", GATEWAY / "h2" / "corpus-blocks"),
    "grpc": Target("tests.gateway.grpc.messages:examine", GATEWAY / "grpc" / "corpus"),
    "rest": Target("tests.gateway.bodies:examine", GATEWAY / "corpus"),
}


def named(name: str) -> Target | None:
    """Return a target of the table, or one for a function named as ``module:function``."""
    return Target(name, Path.cwd()) if ":" in name else TARGETS.get(name)


def _attribute(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
