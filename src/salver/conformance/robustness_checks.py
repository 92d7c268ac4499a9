"""Checks that a weak server does not survive; they come last, after all others were asked."""

from salver.conformance.base import OIP, Level, NotApplicable, Section
from salver.conformance.demands import refused
from salver.conformance.subject import Subject

SECTION = Section("robustness", "Robustness")

_SIZES = (2**40, 2**63, 2**64 + 1)


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "Request Input",
    "must be an integer representable as an unsigned 64-bit integer value",
)
def huge_shape(subject: Subject) -> None:
    """A shape of far more elements than the data has is refused, also when its product wraps."""
    for size in _SIZES:
        document = subject.good_request()
        if not document["inputs"] or not document["inputs"][0]["shape"]:
            raise NotApplicable("the first input has no dimension")
        document["inputs"][0]["shape"][0] = size
        refused(subject.infer(document))
