"""The reference pages are what the code says."""

import importlib.util
from pathlib import Path

import pytest

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
