"""The reference pages are what the code says."""

import importlib.util
import json
from pathlib import Path

import pytest

from salver.conformance.base import Verdict
from salver.conformance.catalog import checks

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
assert SPEC is not None
assert SPEC.loader is not None
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


@pytest.mark.parametrize(
    "name",
    ["metrics.md", "cli.md", "modules.md", "errors.md", "settings.md", "conformance.md"],
)
def test_a_page_is_up_to_date(name: str) -> None:
    """Every metric, command, module, code, setting and check is documented as it is (make docs)."""
    assert (ROOT / "docs" / name).read_text() == reference.PAGES[name]()


def test_every_server_was_asked_over_grpc_too() -> None:
    """The results of the last `make peers` hold verdicts about gRPC of each server."""
    results = json.loads((ROOT / "docs" / "conformance-results.json").read_text())
    over_grpc = {check.name for check in checks(grpc=True)} - {
        check.name for check in checks(grpc=False)
    }
    for server in results["servers"]:
        verdicts = {server["checks"][name]["verdict"] for name in over_grpc & set(server["checks"])}
        assert Verdict.PASSED in verdicts, server["name"]
