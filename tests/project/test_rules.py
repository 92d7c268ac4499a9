"""The project keeps its own rules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = (
    "onnxruntime", "onnx", "sklearn", "skops", "joblib", "xgboost", "lightgbm", "pandas",
    "tokenizers",
    "httptools", "simdjson", "prometheus_client",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_is_imported_in_one_file(library: str) -> None:
    """What may break with a library is in one place of its room."""
    users = [path for path in SOURCES if library in imports(path)]
    rooms = [path.relative_to(ROOT / "src" / "salver").parts[0] for path in users]
    assert len(rooms) == len(set(rooms)), users


def test_importing_salver_loads_nothing_heavy() -> None:
    """The package itself costs nothing."""
    heavy = (*HEAVY, "numpy", "fastapi")
    script = f"import sys, salver; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_the_supervisor_loads_nothing_heavy() -> None:
    """What must not die is small."""
    heavy = ("numpy", "sqlalchemy", "fastapi", "onnxruntime", "uvicorn", "httptools")
    script = (
        f"import sys, salver.scale.local.__main__; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_says_what_must_hold(path: Path) -> None:
    """Each test function has a docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


def test_every_module_says_what_it_is() -> None:
    """Each module has a docstring."""
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def tracked() -> list[Path]:
    """Return the text files under version control."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_package_index_or_a_folder_of_some_machine() -> None:
    """Locks are pinned by hash alone, and nothing depends on where it was written."""
    forbidden = re.compile(
        rb"--(extra-)?index-url|/simple/?$|files\.pythonhosted|file:///", re.MULTILINE
    )
    for path in tracked():
        if path != Path(__file__):
            assert not forbidden.search(path.read_bytes()), path


@pytest.mark.parametrize("name", ["serve", "test", "clients", "mlserver", "models", "torch"])
def test_locks_are_pinned_by_hash(name: str) -> None:
    """Every line of a lock names an exact version, and every package has hashes."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    packages = [line for line in lines if line and line[0].isalnum()]
    assert packages
    assert all("==" in line and line.endswith("\\") for line in packages)


def test_no_pickle_between_processes() -> None:
    """pickle is imported nowhere, joblib only where somebody trusted a file."""
    for path in SOURCES:
        assert not imports(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
        if "joblib" in imports(path):
            assert path.name == "sklearn.py"
