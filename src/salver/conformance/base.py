"""What a check is: the sentence it stands for, what it demands, and how it came out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from salver.conformance.exchange import Exchange

if TYPE_CHECKING:
    from salver.conformance.subject import Subject

OIP = "Open Inference Protocol, inference_rest.md"
OIP_SCHEMA = "Open Inference Protocol, open_inference_rest.yaml"
V2 = "Predict Protocol Version 2, required_api.md"
HTTP = "RFC 9112"


class Level(StrEnum):
    """How much a check weighs."""

    REQUIRED = "required"
    """The protocol says so; a server that fails it does not conform."""
    RECOMMENDED = "recommended"
    """The protocol leaves it open, but clients rely on it."""
    EXTENSION = "extension"
    """Part of an extension; only asked where the server names that extension."""


class Verdict(StrEnum):
    """How a check came out."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


class Failed(Exception):
    """The server did something else than the check demands; the message says what."""


class NotApplicable(Exception):
    """The check cannot be asked of this server or model; the message says why."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a check comes from: a document, a heading in it, and a short quote."""

    document: str
    heading: str
    quote: str


@dataclass(frozen=True, slots=True)
class Check:
    """One demand; ``run`` returns, or raises ``Failed`` or ``NotApplicable``."""

    name: str
    demand: str
    level: Level
    reference: Reference
    run: Callable[["Subject"], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check came out, with everything that was sent and received for it."""

    check: Check
    verdict: Verdict
    reason: str
    exchanges: tuple[Exchange, ...]

    @property
    def breaks_conformance(self) -> bool:
        """Whether it makes the server one that does not conform.

        A named extension is a promise, so its checks count like required ones.
        """
        return self.verdict is Verdict.FAILED and self.check.level is not Level.RECOMMENDED


@dataclass(slots=True)
class Section:
    """The checks of one part of the protocol; ``checks`` grows while its file is imported."""

    name: str
    title: str
    checks: list[Check] = field(default_factory=list)

    def check(
        self, level: Level, document: str, heading: str, quote: str
    ) -> Callable[[Callable[["Subject"], None]], Callable[["Subject"], None]]:
        """Add the decorated function as a check.

        Its name is the section's and the function's; its docstring is the demand.
        """

        def add(run: Callable[["Subject"], None]) -> Callable[["Subject"], None]:
            demand = " ".join((run.__doc__ or "").split())
            self.add(run.__name__, demand, level, Reference(document, heading, quote), run)
            return run

        return add

    def add(
        self,
        name: str,
        demand: str,
        level: Level,
        reference: Reference,
        run: Callable[["Subject"], None],
    ) -> None:
        """Add a check that has no function of its own."""
        self.checks.append(Check(f"{self.name}.{name}", demand, level, reference, run))
