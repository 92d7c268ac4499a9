"""`salver status`: what runs, in one look."""

import typer

from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit


def command(
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show addresses, processes and how much is deployed.

    Example: salver status -o yaml
    """
    with admin_client(home, control_url) as client:
        state = client.status()
    if output is not Output.TABLE:
        emit(state, output)
        return
    processes = state.pop("processes", [])
    emit(state, output)
    typer.echo("")
    emit(processes, output, ("identity", "role", "pid", "state", "restarts", "resident_bytes"))
