"""Entry point: finds the command, runs it, turns domain errors into exit codes.

Exit codes: 0 done, 1 refused or failed with a coded error, 2 wrong usage, 130 interrupted.
"""

import errno
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import typer

from salver.core.errors import InvalidSettings, SalverError, StorageFull

FAILED = 1
INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

COMMANDS: dict[str, str] = {
    "up": "salver.cli.up",
    "stop": "salver.cli.stop",
    "status": "salver.cli.status",
    "logs": "salver.cli.logs",
    "push": "salver.cli.push",
    "deploy": "salver.cli.deploy",
    "undeploy": "salver.cli.undeploy",
    "rollout": "salver.cli.rollout",
    "shadow": "salver.cli.shadow",
    "experiment": "salver.cli.experiment",
    "rollback": "salver.cli.rollback",
    "freeze": "salver.cli.freeze",
    "unfreeze": "salver.cli.unfreeze",
    "apply": "salver.cli.apply",
    "diff": "salver.cli.diff",
    "predict": "salver.cli.predict",
    "feedback": "salver.cli.feedback",
    "get": "salver.cli.get",
    "alias": "salver.cli.alias",
    "key": "salver.cli.key",
    "conformance": "salver.cli.conformance",
    "bench": "salver.cli.bench",
}

_HELP = """Serve trained models: push, deploy, predict, watch.

Begin with: salver up --detach; salver push model.onnx --name churn; salver deploy churn;
salver predict churn rows.json
"""


def build(names: list[str]) -> typer.Typer:
    """Return the application with only these commands, so that one command starts quickly."""
    app = typer.Typer(
        help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback()
    def root() -> None:
        """Hold the commands; without a callback a single command would lose its name."""

    root.__doc__ = _HELP
    for name in names:
        _register(app, name, import_module(COMMANDS[name]))
    return app


def _register(app: typer.Typer, name: str, module: ModuleType) -> None:
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.command)


def _fail(error: SalverError) -> NoReturn:
    typer.echo(f"error: {error.message} [{error.code}]", err=True)
    sys.exit(FAILED)


def _coded(error: OSError) -> SalverError:
    """Return what a file or folder that a command cannot use is told as."""
    place = "" if error.filename is None else f"{error.filename}: "
    text = f"{place}{error.strerror or error}"
    if error.errno in _NO_ROOM:
        return StorageFull(f"{text}; free space there and try again")
    if not place:
        return InvalidSettings(text)
    return InvalidSettings(f"{text}; name another place, or let this user read and write there")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never returns."""
    words = sys.argv[1:] if arguments is None else arguments
    wanted = [words[0]] if words and words[0] in COMMANDS else list(COMMANDS)
    try:
        if words[:1] == ["--version"]:
            typer.echo(f"salver {import_module('salver').__version__}")
            sys.exit(0)
        build(wanted)(args=words, prog_name="salver")
    except SalverError as error:
        _fail(error)
    except OSError as error:  # a reader that is gone has been dealt with before
        _fail(_coded(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)
