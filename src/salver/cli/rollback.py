"""`salver rollback`: go back to what an endpoint was before."""

from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    ForceOption,
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
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Undo an endpoint's last change; at once while the version before is still in memory.

    Example: salver rollback churn --reason "scores look wrong"
    """
    with admin_client(home, control_url) as client:
        answer = client.rollback(endpoint, reason, force=force)
    ended = f"; {answer['ended']} has ended" if answer["ended"] else ""
    done = f"{endpoint} serves {answer['version']} again{ended}"
    tell(answer, output, done, "next: salver get endpoints")
