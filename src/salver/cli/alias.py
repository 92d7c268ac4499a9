"""`salver alias`: point an alias to a version."""

from typing import Annotated

import typer

from salver.cli.options import (
    ControlUrlOption,
    ForceOption,
    HomeOption,
    Output,
    OutputOption,
    admin_client,
)
from salver.cli.output import emit, say
from salver.core.names import parse_reference


def command(
    alias: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias to set or move.")],
    version: Annotated[int, typer.Argument(min=1, help="The version it shall point to.")],
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Point an alias to a version; endpoints that follow it change over, or begin a rollout.

    Example: salver alias churn@champion 3
    """
    if parse_reference(alias).alias is None:
        raise typer.BadParameter(f"{alias!r} is not NAME@ALIAS", param_hint="NAME@ALIAS")
    with admin_client(home, control_url) as client:
        answer = client.set_alias(alias, version, force=force)
    if output is not Output.TABLE:
        emit(answer, output)
        return
    say(f"{alias} is version {version}")
    for line in answer.get("stay", ()):
        say(line)
