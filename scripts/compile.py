"""Compiles the modules of `compiled.txt` to C: `python scripts/compile.py FOLDER`.

The extensions lie in FOLDER as they lie in site-packages, and the sources stay as they are. Needs
mypy, setuptools, a C compiler and Python's headers (docs/adr/0166-a-compiled-gateway.md).
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "scripts" / "compiled.txt"
_CONFIG = """
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
explicit_package_bases = true
"""


def missing() -> str | None:
    """Say what has to be installed first, None if nothing has."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        return "a C compiler is missing; on Debian 12: apt-get install gcc libc6-dev"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are missing; on Debian 12: apt-get install python3-dev"
    return None


def build(folder: Path, work: Path) -> None:
    """Compile into `folder`, with everything else that is written under `work`."""
    config = work / "mypy.ini"
    config.write_text(_CONFIG)
    os.chdir(ROOT / "src")
    options = [f"--config-file={config}", f"--cache-dir={work / 'cache'}"]
    extensions = mypycify(
        [*options, *MODULES.read_text().split()],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir=str(work / "c"),
        group_name="salver",
    )
    places = [f"--build-lib={folder}", f"--build-temp={work / 'o'}"]
    setup(
        name="salver",
        packages=[],
        ext_modules=extensions,
        script_args=["--quiet", "build_ext", *places],
    )


def main() -> None:
    """Compile into the folder that is named."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python scripts/compile.py FOLDER")
    reason = missing()
    if reason is not None:
        sys.exit(f"error: {reason}")
    folder = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as work:
        build(folder, Path(work))


if __name__ == "__main__":
    main()
