"""`salver up`: start everything on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from salver.cli.detach import start_detached
from salver.cli.options import HomeOption
from salver.client.connection import default_home

SUPERVISOR = "salver.scale.local"


def command(
    home: HomeOption = None,
    http_host: Annotated[
        str, typer.Option("--http-host", help="Address of the data port.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65535, help="Data port; 0 = any free one.")
    ] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            "--grpc-port",
            min=0,
            max=65535,
            help="Second data port, customary for gRPC; 0 = any free one.",
            show_default="the one after the data port",
        ),
    ] = None,
    control_port: Annotated[
        int, typer.Option("--control-port", min=0, max=65535, help="Control API; 0 = any free.")
    ] = 8090,
    gateways: Annotated[
        int, typer.Option("--gateways", min=1, max=64, help="Processes that answer clients.")
    ] = 1,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", help="YAML file of hashed keys (salver key new).")
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option("--allow-anonymous", help="Let anybody in on an address others can reach."),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", help="PEM file with the data ports' certificate and its chain."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file with the certificate's key.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-client-ca",
            help="PEM file of who signs clients' certificates; a client shows one, or an API key.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it is up, and keep running.")
    ] = False,
) -> None:
    """Start gateways, workers and control; stays in the foreground unless --detach.

    Example: salver up --http-port 8080 --detach
    """
    folder = (home or default_home()).absolute()
    arguments = [
        sys.executable, "-m", SUPERVISOR,
        "--home", str(folder),
        "--http-host", http_host,
        "--http-port", str(http_port),
        "--control-port", str(control_port),
        "--gateways", str(gateways),
    ]  # fmt: skip
    if grpc_port is not None:
        arguments += ["--grpc-port", str(grpc_port)]
    files = {
        "--api-keys": api_keys,
        "--tls-cert": tls_cert,
        "--tls-key": tls_key,
        "--tls-client-ca": tls_client_ca,
    }
    for option, file in files.items():
        if file is not None:
            arguments += [option, str(file.absolute())]
    if allow_anonymous:
        arguments.append("--allow-anonymous")
    if detach:
        start_detached(arguments, folder)
    else:
        # Replacing this process gives back the memory of the command line's libraries.
        os.execv(sys.executable, arguments)  # noqa: S606 - the program and its words are ours
