"""`salver freeze`: let nothing change an endpoint."""

from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    HomeOption,
    Output,
    OutputOption,
    ReasonOption,
    admin_client,
)
from salver.cli.output import tell


def command(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Refuse every change of an endpoint, as in an incident; a rollout that runs is paused.

    Example: salver freeze churn --reason "payments are down"
    """
    with admin_client(home, control_url) as client:
        answer = client.freeze(endpoint, reason)
    tell(
        answer,
        output,
        f"{endpoint} is frozen; it goes on answering",
        f"next: salver unfreeze {endpoint}",
    )
