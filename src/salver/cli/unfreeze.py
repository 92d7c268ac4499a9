"""`salver unfreeze`: let an endpoint be changed again."""

from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    HomeOption,
    Output,
    OutputOption,
    admin_client,
)
from salver.cli.output import tell


def command(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let an endpoint be changed again; its rollout stays paused until it is resumed.

    Example: salver unfreeze churn
    """
    with admin_client(home, control_url) as client:
        answer = client.unfreeze(endpoint)
    tell(
        answer,
        output,
        f"{endpoint} may be changed again",
        f"next: salver rollout status {endpoint}",
    )
