"""Writes the reference pages that follow from the code: metrics, command line, modules, checks.

`python scripts/reference.py` rewrites them; a test fails when a page is not what this prints.
"""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import typer

from salver.cli.main import COMMANDS, build
from salver.conformance import page as conformance
from salver.control.api.specs import EndpointFile
from salver.core.settings import SECTIONS
from salver.gateway.statuses import errors_page
from salver.observe.catalog import METRICS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "salver"

_SETTINGS_HEAD = """# Settings

Settings are read once, where a process starts: from `HOME/salver.yaml`, and from environment
variables named `SALVER_SECTION__NAME`, which win.
An unknown name is an error that names the nearest known one. Where a process cannot begin with a
value, `salver up` ends and says which; one that is restarted with such a value later is tried
again, while the others go on.

```yaml
http:
  max_body_bytes: 67108864
engine:
  threads: 2
```
"""
_MODULES_HEAD = """# Every module in a sentence

The rooms and the life of a request are in [architecture.md](architecture.md).
"""

_METRICS_HEAD = """# Metrics

The control port serves all of them merged at `/metrics`; each gateway serves its own on loopback.
Counters and histograms survive restarts of every process: they never go down and never count twice.
Those of a version that no endpoint has had for seven days, in which control went on, are left out.

| name | kind | labels | meaning |
|---|---|---|---|
"""

_CLI_HEAD = """# Command line

Exit codes: 0 done, 1 refused or failed with a coded error, 2 wrong usage, 130 interrupted.
Errors are one line on standard error: the cause, the fix, and the code in brackets.
"""


def metrics_page() -> str:
    """Return the page of all metrics."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels) or '-'} | {metric.help} |\n"
        for metric in METRICS.values()
    ]
    return _METRICS_HEAD + "".join(rows)


def cli_page() -> str:
    """Return the page of all commands."""
    root = typer.main.get_command(build(list(COMMANDS)))
    parts = [_CLI_HEAD]
    for name, command in _children(root).items():
        parts.extend(_command_parts(f"salver {name}", command))
    return "\n".join(parts)


def _children(command: Any) -> dict[str, Any]:
    children: dict[str, Any] = getattr(command, "commands", {})
    return children


def _command_parts(path: str, command: Any) -> list[str]:
    children = _children(command)
    if children:
        return [
            part
            for name, child in children.items()
            for part in _command_parts(f"{path} {name}", child)
        ]
    context = command.context_class(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {path}\n", f"`{path} {usage}`\n", f"{command.help}\n"]
    options = [parameter.get_help_record(context) for parameter in command.params]
    rows = [
        f"| `{record[0].replace('|', '/')}` | {record[1]} |"
        for record in options
        if record is not None
    ]
    if rows:
        lines.append("\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n")
    return lines


def settings_page() -> str:
    """Return the page of all settings."""
    parts = [_SETTINGS_HEAD]
    for section, kind in SECTIONS.items():
        parts.append(f"## {section}\n")
        rows = [
            f"| `{section}.{item.name}` | {item.default!r} | {item.metadata['help']} |"
            for item in dataclasses.fields(kind)
        ]
        parts.append("\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def modules_page() -> str:
    """Return the page with one sentence for each module: the first of its docstring."""
    parts = [_MODULES_HEAD]
    room = ""
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        sentence = _first_sentence(path)
        folder = relative.parts[0] if len(relative.parts) > 1 else ""
        if folder != room:
            room = folder
            parts.append(f"\n## {room}\n")
        if path.name == "__init__.py":
            if sentence and len(relative.parts) == len(("room", "__init__.py")):
                parts.append(f"{sentence}\n")
        elif sentence:
            parts.append(f"- `{relative}`: {sentence}")
    return "\n".join(parts) + "\n"


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def conformance_page() -> str:
    """Return the page of the conformance suite, with the results of the last `make peers`."""
    results = DOCS / "conformance-results.json"
    return conformance.page(json.loads(results.read_text()) if results.is_file() else {})


def endpoint_schema() -> str:
    """Return the JSON Schema of files that describe endpoints."""
    return json.dumps(EndpointFile.model_json_schema(), indent=2) + "\n"


PAGES = {
    "endpoint.schema.json": endpoint_schema,
    "metrics.md": metrics_page,
    "cli.md": cli_page,
    "modules.md": modules_page,
    "errors.md": errors_page,
    "settings.md": settings_page,
    "conformance.md": conformance_page,
}


def main() -> None:
    """Rewrite the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
