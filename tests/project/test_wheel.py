"""The wheel whose gateway is compiled does what the plain sources do."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = (ROOT / "scripts" / "compiled.txt").read_text().split()
SAME_TESTS = (
    "tests/engine/client/test_cohort.py",
    "tests/gateway/grpc/test_calls.py",
    "tests/gateway/grpc/test_gather.py",
    "tests/gateway/h2/test_headers.py",
    "tests/gateway/limits/test_circuits.py",
    "tests/gateway/test_gather.py",
    "tests/gateway/test_http.py",
    "tests/gateway/test_http_bad.py",
    "tests/traffic/test_router.py",
    "tests/wire/test_connection.py",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the wheel of `make wheel` holds, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(ROOT)],
        env={**os.environ, "HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"},
        check=False,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    assert "-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def python(package: Path, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run Python where the package comes before the checkout, also in processes it starts."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package)},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_each_listed_module_is_compiled(package: Path) -> None:
    """What the list names is machine code in the wheel, and the rest is the same Python."""
    names = [module.removesuffix(".py").replace("/", ".") for module in MODULES]
    script = f"import importlib; [print(importlib.import_module(n).__file__) for n in {names}]"
    done = python(package, "-c", script, timeout_s=60)
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) == len(MODULES)
    assert all(file.is_relative_to(package) and file.suffix == ".so" for file in files), files
    for source in (ROOT / "src" / "salver").rglob("*.py"):
        copy = package / source.relative_to(ROOT / "src")
        assert copy.read_bytes() == source.read_bytes()


@pytest.mark.timeout(1800)
def test_the_same_tests_pass(package: Path, tmp_path: Path) -> None:
    """Nothing that the tests of the compiled rooms look at differs."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tmp_path / "t")]
    done = python(package, "-m", "pytest", *options, *SAME_TESTS, timeout_s=1700)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("module", MODULES)
def test_a_listed_module_can_be_compiled_faithfully(module: str) -> None:
    """None has a class whose keywords or fields the compiler would lose without a word."""
    for node in ast.walk(ast.parse((ROOT / "src" / module).read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.keywords, f"{module}: {node.name}"
            assert "Struct" not in " ".join(ast.unparse(base) for base in node.bases), node.name


@pytest.mark.parametrize("module", MODULES)
def test_no_class_has_none_for_a_default(module: str) -> None:
    """Compiled it would be no default where the type is a protocol or a callable."""
    for node in ast.walk(ast.parse((ROOT / "src" / module).read_text())):
        if isinstance(node, ast.ClassDef) and "NamedTuple" not in map(ast.unparse, node.bases):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and field.value is not None:
                    assert ast.unparse(field.value) != "None", f"{module}:{field.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_no_generator_is_asked_for_its_first_element_alone(module: str) -> None:
    """Compiled it is a list, made whole before that."""
    tree = ast.parse((ROOT / "src" / module).read_text())
    named = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.GeneratorExp)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "next":
            first = node.args[0]
            assert not isinstance(first, ast.GeneratorExp), f"{module}:{node.lineno}"
            assert not (isinstance(first, ast.Name) and first.id in named), (
                f"{module}:{node.lineno}"
            )


def test_no_plain_class_is_derived_from_a_compiled_one() -> None:
    """Python refuses that when it is imported."""
    listed = {module.removesuffix(".py").replace("/", ".") for module in MODULES}
    for source in (ROOT / "src").rglob("*.py"):
        if str(source.relative_to(ROOT / "src")) in MODULES:
            continue
        tree = ast.parse(source.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {
            a.asname or a.name for node in imports if node.module in listed for a in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split("[")[0] for base in node.bases}
                assert not bases & names, f"{source}: {node.name}"


def test_the_list_is_sorted() -> None:
    """Each module stands there once, where one looks for it."""
    assert sorted(set(MODULES)) == MODULES
