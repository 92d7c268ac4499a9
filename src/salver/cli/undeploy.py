"""`salver undeploy`: remove an endpoint."""

from typing import Annotated

import typer

from salver.cli.options import ControlUrlOption, HomeOption, admin_client
from salver.cli.output import say


def command(
    endpoint: Annotated[str, typer.Argument(help="Endpoint to remove.")],
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also when the endpoint demands approvals.")
    ] = False,
) -> None:
    """Remove an endpoint; the model's versions stay.

    Example: salver undeploy churn
    """
    with admin_client(home, control_url) as client:
        client.undeploy(endpoint, force=force)
    say(f"{endpoint} is gone; its versions stay in the registry")
