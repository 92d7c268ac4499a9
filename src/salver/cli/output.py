"""Results as a table for people, or as JSON or YAML for programs."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import orjson
import typer
import yaml

from salver.cli.options import Output

_MAX_CELL = 60


def emit(result: Any, output: Output, columns: Sequence[str] = ()) -> None:
    """Print a result; ``columns`` picks and orders what a table shows."""
    if output is Output.JSON:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    elif output is Output.YAML:
        typer.echo(yaml.safe_dump(result, sort_keys=False, allow_unicode=True).rstrip())
    elif isinstance(result, list):
        _table(result, columns)
    else:
        _pairs(result, columns)


def say(text: str, output: Output = Output.TABLE) -> None:
    """Tell a person what happened or what to do next; silent where a program reads along."""
    if output is Output.TABLE:
        typer.echo(text)


def tell(result: Any, output: Output, *lines: str) -> None:
    """Print a result for programs, or for people in lines what it means and what comes next."""
    if output is not Output.TABLE:
        emit(result, output)
        return
    for line in lines:
        typer.echo(line)


def note(text: str) -> None:
    """Tell a person something that is not a result; goes to standard error."""
    typer.echo(text, err=True)


def interactive() -> bool:
    """Tell whether a person watches standard error."""
    return sys.stderr.isatty()


def _table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    if not rows:
        typer.echo("(none)")
        return
    names = list(columns) or list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [
        max(len(name), *(len(line[index]) for line in cells)) for index, name in enumerate(names)
    ]
    limit = shutil.get_terminal_size((10_000, 24)).columns if sys.stdout.isatty() else 10_000
    for line in ([name.upper().replace("_", " ") for name in names], *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo(text.rstrip()[:limit])


def _pairs(result: dict[str, Any], columns: Sequence[str]) -> None:
    names = list(columns) or list(result)
    width = max((len(name) for name in names), default=0)
    for name in names:
        typer.echo(f"{name.replace('_', ' ').ljust(width)}  {_cell(result.get(name))}")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        value = [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list):
        value = ",".join(str(item) for item in value) or "-"
    text = str(value)
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
