"""All sections in the order in which they run and are shown."""

from salver.conformance import (
    binary_checks,
    datatype_checks,
    extension_checks,
    grpc_checks,
    infer_checks,
    model_checks,
    refusal_checks,
    robustness_checks,
    server_checks,
)
from salver.conformance.base import Check

SECTIONS = (
    server_checks.SECTION,
    model_checks.SECTION,
    infer_checks.SECTION,
    datatype_checks.SECTION,
    refusal_checks.SECTION,
    binary_checks.SECTION,
    extension_checks.SECTION,
    grpc_checks.SECTION,
    robustness_checks.SECTION,
)


def checks(*, grpc: bool) -> list[Check]:
    """Return every check in order, those of gRPC only where it is asked."""
    return [
        check
        for section in SECTIONS
        if grpc or section is not grpc_checks.SECTION
        for check in section.checks
    ]
