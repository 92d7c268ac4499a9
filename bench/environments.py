"""Environments under `bench/.envs/`, one for each lock in `bench/peers/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.failure import BenchError

BENCH = Path(__file__).resolve().parent
ENVS = BENCH / ".envs"


def environment(name: str) -> Path:
    """Return the folder of environment `name`, made from `peers/<name>.lock` when that changed."""
    lock = BENCH / "peers" / f"{name}.lock"
    return _made(name, lock, [["--no-deps", "--require-hashes", "-r", str(lock)]])


def wheel_environment(name: str) -> Path:
    """Return environment `name` with the wheel of `make wheel`, made when the wheel changed."""
    wheels = sorted((BENCH.parent / "dist").glob("salver-*.whl"))
    compiled = [wheel for wheel in wheels if "-none-any" not in wheel.name]
    if not compiled:
        raise BenchError("dist holds no compiled wheel; run: make wheel")
    wheel, lock = compiled[-1], BENCH.parent / "requirements" / "serve.lock"
    return _made(name, wheel, [["--require-hashes", "-r", str(lock)], ["--no-deps", str(wheel)]])


def _made(name: str, source: Path, installs: list[list[str]]) -> Path:
    """Return a folder with what `pip install` was asked for, made anew when `source` changed."""
    folder = ENVS / name
    stamp = folder / f"{source.suffix[1:]}.sha256"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return folder
    print(f"making bench/.envs/{name} from {source.relative_to(BENCH.parent)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    checked([sys.executable, "-m", "venv", str(folder)])
    for arguments in installs:
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        checked([*pip, *arguments])
    stamp.write_text(digest)
    return folder


def site_packages(folder: Path) -> Path:
    """The site-packages folder of an environment."""
    return next((folder / "lib").glob("python3*/site-packages"))


def debian_tool(path: str, package: str) -> None:
    """Make sure that file `path` exists, from Debian's `package`.

    Raises `BenchError` with the command to run where this user may not install packages.
    """
    if Path(path).exists():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchError(f"{path} is missing; run: sudo apt-get install {package}")
    print(f"installing {package}", flush=True)
    checked(["apt-get", "update", "-q"])
    checked(["apt-get", "install", "-y", "-q", "--no-install-recommends", package])


def checked(command: list[str]) -> None:
    """Run a command; raise `BenchError` with its output if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        output = (done.stdout + done.stderr)[-3000:]
        raise BenchError(f"{' '.join(command)} failed ({done.returncode}):\n{output}")
