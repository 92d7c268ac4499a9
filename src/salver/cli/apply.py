"""`salver apply`: make endpoints what files say."""

from pathlib import Path
from typing import Annotated, Any

import typer

from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit, say
from salver.core.errors import from_code

FilesOption = Annotated[
    list[Path], typer.Option("--file", "-f", help="YAML or JSON file, or a folder of them.")
]
PruneOption = Annotated[
    bool,
    typer.Option("--prune", help="Remove endpoints that came from files and are in none now."),
]
_DONE = {"create": "created", "change": "changed", "remove": "removed", "unchanged": "unchanged"}


def command(
    files: FilesOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    prune: PruneOption = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when all of it answers.")
    ] = True,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait for each endpoint.")
    ] = 120.0,
    force: Annotated[
        list[str] | None,
        typer.Option(
            "--force",
            metavar="ENDPOINT",
            help="Change or remove this one as deploy and undeploy do with --force; repeatable.",
        ),
    ] = None,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make endpoints what files say; an error in one file changes nothing.

    Example: salver apply -f endpoints/ --dry-run
    """
    with admin_client(home, control_url) as client:
        answer = client.apply(
            *files,
            dry_run=dry_run,
            prune=prune,
            wait=wait,
            timeout_s=timeout_s,
            force=force or (),
        )
    if answer["refused"]:
        raise from_code(answer["refused"]["code"], answer["refused"]["error"])
    if output is not Output.TABLE:
        emit(answer, output)
        return
    show(answer["changes"], dry_run=dry_run)
    if dry_run and any(change["action"] != "unchanged" for change in answer["changes"]):
        say("nothing was changed; next: the same without --dry-run")


def show(changes: list[dict[str, Any]], *, dry_run: bool) -> None:
    """Print what changed, or what would."""
    if not changes:
        say("no endpoints in these files")
    for change in changes:
        action = change["action"]
        word = action if dry_run and action != "unchanged" else _DONE[action]
        say(f"{change['name']}: {word}")
        for field in change["fields"]:
            say(f"  {field['field']}: {_text(field['before'])} -> {_text(field['after'])}")


def _text(value: Any) -> str:
    return "none" if value is None or value in ("", {}) else str(value)
