"""`salver get`: list what is there."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit


class What(StrEnum):
    """What can be listed."""

    MODELS = "models"
    ENDPOINTS = "endpoints"
    WORKERS = "workers"


_COLUMNS: dict[What, tuple[str, ...]] = {
    What.MODELS: ("name", "versions", "newest", "runtime", "memory_bytes", "aliases"),
    What.ENDPOINTS: (
        "name", "model", "version", "state", "ready_replicas", "replicas", "in_memory", "pinned",
        "resident_bytes", "hosting", "provider", "reason",
    ),
    What.WORKERS: (
        "id", "kind", "pid", "state", "models", "in_memory", "resident_bytes", "budget_bytes",
        "providers", "restarts", "last_end", "wanted", "why",
    ),
}  # fmt: skip


def command(
    what: Annotated[What, typer.Argument(help="What to list.")],
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List models, endpoints or workers.

    Example: salver get endpoints -o json
    """
    with admin_client(home, control_url) as client:
        rows = {
            What.MODELS: client.models,
            What.ENDPOINTS: client.endpoints,
            What.WORKERS: client.workers,
        }[what]()
    if output is Output.TABLE and what is What.MODELS:
        rows = [_summary(row) for row in rows]
    emit(rows, output, _COLUMNS[what])


def _summary(model: dict[str, Any]) -> dict[str, Any]:
    versions = model["versions"]
    newest = max(versions, key=lambda version: version["version"], default=None)
    return {
        "name": model["name"],
        "versions": len(versions),
        "newest": newest and newest["version"],
        "runtime": newest and newest["runtime"],
        "memory_bytes": newest and newest["memory_bytes"],
        "aliases": model["aliases"],
    }
