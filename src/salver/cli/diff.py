"""`salver diff`: what applying files would change."""

import typer

from salver.cli.apply import FilesOption, PruneOption, show
from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit

_DIFFERS = 1


def command(
    files: FilesOption,
    prune: PruneOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say how endpoints differ from files; exit code 1 if they do, so that scripts can ask.

    Example: salver diff -f endpoints/
    """
    with admin_client(home, control_url) as client:
        answer = client.apply(*files, dry_run=True, prune=prune)
    changes = [change for change in answer["changes"] if change["action"] != "unchanged"]
    if output is Output.TABLE:
        if changes:
            show(changes, dry_run=True)
    else:
        emit(changes, output)
    if changes:
        raise typer.Exit(_DIFFERS)
