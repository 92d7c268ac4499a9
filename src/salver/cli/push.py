"""`salver push`: store a model as an immutable version."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit, interactive, note, say


def command(
    path: Annotated[Path, typer.Argument(help="Model file, or folder of one model.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model in the registry.")],
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="onnx, sklearn, xgboost, lightgbm, torch, python; seen."),
    ] = None,
    example: Annotated[
        Path | None, typer.Option("--example", help="Rows to try it with: JSON, CSV, OIP body.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option("--golden", help="JSON lines of {inputs, outputs, rtol, atol} it must meet."),
    ] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias to move to it.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="key=value; may be repeated.")
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option("--columns", help="YAML: per column minimum, maximum, categories, sensitive."),
    ] = None,
    steps: Annotated[
        Path | None,
        typer.Option("--steps", help="YAML or JSON: what is done before and after the model."),
    ] = None,
    sequence: Annotated[
        Path | None,
        typer.Option("--sequence", help="YAML: inputs as long as a text, their axis, pad, mask."),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Accept a file that runs code when loaded.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Let model.py, or what is in a PyTorch file, run.")
    ] = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Store a model file or folder as a new version; the same bytes give the same version.

    Example: salver push model.onnx --name churn --example rows.json --label team=risk

    With encoding and labels: salver push model.onnx --name credit --steps steps.yaml

    Code, a folder with model.py: salver push FOLDER --name rank --example rows.json --trust-code
    """
    with admin_client(home, control_url) as client, _progress() as progress:
        task = progress.add_task(f"uploading {path}", total=None)

        def uploaded(file: str, size_bytes: int) -> None:
            progress.update(task, description=f"stored {file} ({size_bytes:,} bytes); examining")

        version = client.push(
            path,
            name,
            uploaded,
            runtime=runtime,
            example=example,
            golden=golden,
            alias=alias,
            labels=_labels(label or []),
            columns=columns,
            steps=steps,
            sequence=sequence,
            trust_pickle=trust_pickle,
            trust_code=trust_code,
        )
    for warning in version.get("warnings", []):
        note(f"warning: {warning}")
    if output is not Output.TABLE:
        emit(version, output)
        return
    known = " (these bytes were already stored)" if version.get("existing") else ""
    say(f"{version['name']}:{version['version']}  {version['runtime']}  {version['digest']}{known}")
    say(f"next: salver deploy {version['name']}:{version['version']}")


def _labels(pairs: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="--label")
        labels[key] = value
    return labels


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not interactive(),
    )
