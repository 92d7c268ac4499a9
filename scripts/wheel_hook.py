"""Puts the compiled modules into a wheel: `make wheel`.

Hatchling calls this only where HATCH_BUILD_HOOK_ENABLE_CUSTOM is set; without it a wheel is plain
Python.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledModules(BuildHookInterface[Any]):
    """Compiles, and adds what came of it to the wheel, which is then one for this platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is put together."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        script = Path(self.root) / "scripts" / "compile.py"
        if subprocess.run([sys.executable, str(script), str(root)], check=False).returncode:
            sys.exit("error: the gateway could not be compiled; the reason stands above")
        found = {str(file): str(file.relative_to(root)) for file in root.rglob("*.so")}
        build_data["force_include"].update(found)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: it is in the wheel."""
        del build_data, artifact_path
        if version != "editable":
            self._folder.cleanup()
