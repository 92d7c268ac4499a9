"""Prepares what `salver bench` was asked for, does it, and writes the results."""

import asyncio
import secrets
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import typer
import uvloop

from salver.bench import cold, lookup
from salver.bench.asking import Asker
from salver.bench.figures import Cycle, Format, Report, Settings, document
from salver.bench.plot import latency_plot
from salver.bench.ramp import RampSettings
from salver.bench.session import Job, Session, described
from salver.bench.summary import Objective
from salver.bench.target import Target, find_target
from salver.bench.workload import Body, Workload
from salver.cli.bench_options import RATE_PER_S, Asked, Protocol
from salver.cli.bench_view import View, show
from salver.cli.files import check_writable, read_input
from salver.cli.main import FAILED, INTERRUPTED
from salver.cli.options import Output
from salver.cli.output import emit, note
from salver.client.calls import CONTROL, DATA
from salver.client.connection import Addresses, find_addresses
from salver.client.sync import Client
from salver.client.transport import base_of, context_of
from salver.core.errors import SalverError
from salver.core.names import check_name, parse_reference

Ask = Callable[[str, Body], SalverError | None]


def run(asked: Asked) -> None:
    """Do it; raises ``typer.Exit`` with the command's code, and domain errors."""
    for path in (asked.json_file, asked.plot):
        check_writable(path)
    addresses = find_addresses(asked.home, asked.url, asked.control_url, asked.api_key)
    target = _target(asked, addresses)
    data = None if asked.file is None else read_input(asked.file)
    wanted = lookup.Wanted(data, asked.file or "", asked.rows, asked.seed, _format(asked))
    with Client(
        asked.url,
        control_url=asked.control_url,
        home=asked.home,
        api_key=asked.api_key,
        ca=asked.ca,
        timeout_s=asked.timeout_s,
    ) as client:
        if asked.cold:
            report = _cold(asked, addresses, target, client, wanted)
        else:
            report = _load(asked, target, _workload(asked, target, client, wanted), addresses)
    _write(asked, report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if asked.fail_on_slo and not report.met:
        raise typer.Exit(FAILED)


def _target(asked: Asked, addresses: Addresses) -> Target:
    context = context_of(addresses, asked.ca)
    tls = context if isinstance(context, ssl.SSLContext) else None
    if asked.cold:
        # What is deployed there for the measurement is load as well.
        find_target(base_of(CONTROL, addresses), tls, allow_remote=asked.allow_remote)
    return find_target(
        base_of(DATA, addresses),
        tls,
        allow_remote=asked.allow_remote,
        http2=asked.protocol is Protocol.GRPC,
    )


def _format(asked: Asked) -> Format:
    if asked.protocol is Protocol.GRPC:
        return Format.GRPC
    return Format.BINARY if asked.binary else Format.JSON


def _workload(asked: Asked, target: Target, client: Client, wanted: lookup.Wanted) -> Workload:
    """Find out what to send, and that the server takes it."""
    check_name(asked.endpoint, "endpoint")
    # The control API of another server than the one under load would know another model.
    ask_control = asked.url is None or asked.control_url is not None
    workload, remark = client.run(
        lookup.of_endpoint(asked.endpoint, wanted, ask_control=ask_control)
    )
    if remark:
        note(f"note: inputs are made up; {remark}")
    with _ask(asked, target, client) as ask:
        refused = ask(asked.endpoint, workload.bodies[0])
    if refused is not None:
        raise refused
    return workload


@contextmanager
def _ask(asked: Asked, target: Target, client: Client) -> Iterator[Ask]:
    """Give what asks an endpoint once, over the same protocol as the load."""
    if asked.protocol is Protocol.GRPC:
        with Asker(target, asked.api_key, asked.timeout_s) as asker:
            yield lambda endpoint, body: asker.ask(endpoint, body.content)
    else:
        yield lambda endpoint, body: client.run(lookup.try_once(endpoint, body))


def _load(asked: Asked, target: Target, workload: Workload, addresses: Addresses) -> Report:
    start_per_s = asked.rate_per_s or min(RATE_PER_S, asked.max_rate_per_s)
    job = Job(
        asked.endpoint,
        addresses.data_url,
        target,
        workload,
        Objective(asked.slo_s, asked.quantile, asked.goodput),
        asked.api_key,
        start_per_s,
        asked.duration_s,
        asked.warmup_s,
        asked.arrivals,
        asked.seed,
        asked.connections,
        asked.streams,
        asked.timeout_s,
        asked.precise,
        RampSettings(start_per_s, asked.max_rate_per_s) if asked.ramp else None,
    )
    with View(asked.output) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_interruptible(Session(job, view)))


async def _interruptible(session: Session) -> Report:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, session.interrupt)
    try:
        return await session.run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _cold(
    asked: Asked, addresses: Addresses, target: Target, client: Client, wanted: lookup.Wanted
) -> Report:
    reference = client.run(lookup.resolve(parse_reference(asked.endpoint)))
    workload = client.run(lookup.of_version(reference, wanted))
    endpoint = f"bench-{secrets.token_hex(4)}"
    cycles: list[Cycle] = []
    interrupted = False
    with _ask(asked, target, client) as ask, View(asked.output) as view:

        def answers() -> SalverError | None:
            return ask(endpoint, workload.bodies[0])

        def told(cycle: Cycle) -> None:
            cycles.append(cycle)
            view.told(cycle)

        job = cold.ColdJob(client, reference, endpoint, answers, asked.cycles, asked.timeout_s)
        try:
            cold.measure(job, told)
        except KeyboardInterrupt:
            interrupted = True
    return Report(
        "cold",
        asked.endpoint,
        addresses.data_url,
        described(workload),
        _settings(asked),
        cold=cold.summary(reference, cycles) if cycles else None,
        interrupted=interrupted,
    )


def _settings(asked: Asked) -> Settings:
    return Settings(
        asked.arrivals.value,
        asked.seed,
        1e3 * asked.slo_s,
        100 * asked.quantile,
        100 * asked.goodput,
        0.0,
        1,
        asked.timeout_s,
        "none",
    )


def _write(asked: Asked, report: Report) -> None:
    if asked.json_file is not None:
        data = orjson.dumps(document(report), option=orjson.OPT_INDENT_2)
        _save(asked.json_file, data + b"\n")
    if asked.plot is not None:
        _save(asked.plot, latency_plot(report).encode())
    if asked.output is Output.TABLE:
        show(report)
    else:
        emit(document(report), asked.output)


def _save(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        # The figures are still worth printing.
        note(f"warning: {path} cannot be written: {error.strerror}")
