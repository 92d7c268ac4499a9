"""Every setting of Salver in one table: name, default, unit and help.

Settings come from ``HOME/salver.yaml`` (sections as below) and from the environment
(``SALVER_SECTION__NAME``), which is read once, where a process starts. An unknown key is an error
that names the nearest known one.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

from salver.core.database_url import check_database_url
from salver.core.errors import InvalidSettings
from salver.core.setting import between, one_of, setting

_ENV_PREFIX = "SALVER_"
_ENV_SEPARATOR = "__"
_MIB = 1024 * 1024
_MOST_S = 1e9


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The data port."""

    header_timeout_s: float = setting(10.0, "time to receive a request's headers")
    body_timeout_s: float = setting(60.0, "time to receive a whole body")
    min_body_rate_bytes_s: int = setting(
        1024, "slowest body accepted, averaged after the first 5 seconds"
    )
    idle_timeout_s: float = setting(75.0, "time a keep-alive connection may stay silent")
    request_timeout_s: float = setting(
        30.0,
        "time of requests that name none, at endpoints that do neither (--request-timeout)",
        between("http.request_timeout_s", 0.001, 3600),
    )
    max_request_timeout_s: float = setting(600.0, "longest deadline a caller may ask for")
    drain_timeout_s: float = setting(20.0, "time given to requests in flight when stopping")
    max_header_bytes: int = setting(32 * 1024, "request line and headers together")
    max_header_count: int = setting(100, "header fields in one request")
    max_body_bytes: int = setting(256 * _MIB, "body as sent")
    max_inflated_bytes: int = setting(256 * _MIB, "body after gzip or deflate")
    max_json_bytes: int = setting(64 * _MIB, "JSON part of a body")
    max_tensors: int = setting(256, "inputs in one request")
    max_objects: int = setting(
        1_000_000, "elements of BYTES tensors in one request; texts, lists and objects in its JSON"
    )
    max_dimensions: int = setting(16, "dimensions of one tensor")
    max_pipelined: int = setting(64, "requests in flight on one connection")
    max_connections: int = setting(10_000, "open connections of one gateway")
    remember_heads: bool = setting(
        True, "skip parsing request heads whose bytes were parsed before"
    )
    gather: bool = setting(
        True, "treat usual requests of one loop turn that differ in their values only as one"
    )
    json_mode: str = setting(
        "auto", "auto reads JSON numbers the fast ways, plain in the obvious way"
    )
    write_buffer_bytes: int = setting(
        16 * _MIB, "answers waiting for a slow reader before its connection stops being read"
    )
    unread_bytes: int = setting(
        512 * _MIB,
        "answers waiting for all readers of one gateway; over it, who has read nothing for longest "
        "is cut off; 0 = any",
    )
    repository_changes: bool = setting(
        False, "let callers with an admin's key load and unload models, as Triton's clients do"
    )
    feedback: bool = setting(
        True, "let callers report what became of the answers of endpoints that they may call"
    )
    kept_memory_bytes: int = setting(
        128 * _MIB, "memory of large bodies and answers kept for up to a second for the next ones"
    )
    unresponsive_s: float = setting(
        60.0,
        "time without a sign of life after which a gateway is started again; 0 = never",
        between("http.unresponsive_s", 0, _MOST_S),
    )


@dataclass(frozen=True, slots=True)
class Http2Settings:
    """HTTP/2 on the data port: REST and gRPC."""

    enabled: bool = setting(True, "speak HTTP/2 to clients that begin with its preface")
    max_streams: int = setting(256, "open requests of one connection")
    stream_window_bytes: int = setting(1 * _MIB, "bytes a client may send ahead on a stream")
    connection_window_bytes: int = setting(
        16 * _MIB, "bytes a client may send ahead on all streams of a connection together"
    )
    large_reads: bool = setting(
        True, "copy the frames of large bodies once, from where the socket writes"
    )
    max_stream_requests: int = setting(256, "open requests of one streaming call")
    stream_idle_timeout_s: float = setting(
        3600.0, "time a streaming call may stay silent in both directions"
    )
    control_frames_burst: int = setting(
        1000, "PING, SETTINGS, PRIORITY, empty and unknown frames of a connection at once"
    )
    control_frames_per_s: int = setting(100, "such frames in the long run")
    resets_burst: int = setting(1000, "streams of a connection that the client gives up at once")
    resets_per_s: int = setting(200, "such streams in the long run")
    window_updates_burst: int = setting(20_000, "WINDOW_UPDATE frames of a connection at once")
    window_updates_per_s: int = setting(10_000, "such frames in the long run")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Workers and the way to them."""

    runner: str = setting(
        "auto",
        "where a batch runs: inline (in the loop), thread, or auto (inline while short)",
        one_of("engine.runner", "inline", "thread", "auto"),
    )
    inline_limit_us: int = setting(2000, "auto: mean run time up to which a batch runs inline")
    coalesce: bool = setting(True, "send what arrives in one loop turn as one write")
    cohorts: bool = setting(
        True, "let requests of one loop turn that differ in their values only travel together"
    )
    lanes: bool = setting(
        True, "let requests of each shape wait by themselves; false: one plain queue by age"
    )
    ledger: bool = setting(
        True, "note running batches in shared memory where both ends of a link are on one machine"
    )
    steps: str = setting(
        "batch",
        "how steps around a model run: batch (all rows at once) or rows (each row alone)",
        one_of("engine.steps", "batch", "rows"),
    )
    tokenize_ahead: bool = setting(
        True, "tokenize texts while they wait, so that they run with those of about their length"
    )
    step_bytes: int = setting(
        256 * _MIB, "memory of a batch's tensors after a step that makes more of them; over it 400"
    )
    cache_bytes: int = setting(
        64 * _MIB, "answers that a gateway keeps for endpoints deployed with --cache"
    )
    threads: int = setting(1, "compute threads of one model")
    max_in_flight: int = setting(4096, "requests one gateway may have open at one variant")
    eject_failures: int = setting(
        5, "failures in a row after which a worker gets no requests for a while; 0 = never"
    )
    eject_latency_ratio: float = setting(
        4.0, "times the median of its peers' times that a worker may take; 0 = any"
    )
    eject_s: float = setting(10.0, "first pause of an ejected worker; it doubles, 5 times at most")
    max_frame_bytes: int = setting(1024 * _MIB, "largest message between processes")
    connect_timeout_s: float = setting(5.0, "time to reach a worker and be greeted")
    quarantine_idle_s: float = setting(30.0, "time an unused model stays in quarantine")
    stuck_s: float = setting(
        15.0, "time a run of a model's code may always take; it may take longer for patient callers"
    )
    silent_s: float = setting(
        3.0, "time without a sign of life after which requests leave a worker for others; 0 = never"
    )
    unresponsive_s: float = setting(
        15.0,
        "time after which a worker that gives no sign of life is ended and started again",
        between("engine.unresponsive_s", 0, _MOST_S),
    )
    load_timeout_s: float = setting(
        120.0, "time a model may take to load", between("engine.load_timeout_s", 0, _MOST_S)
    )
    load_again_s: float = setting(
        60.0, "first pause of a model that ended its own worker twice while it loaded; 0 = for good"
    )
    shared_workers: int = setting(1, "shared workers among which models are spread by their sizes")
    memory_budget_bytes: int = setting(
        0, "memory of one shared worker; models not used lately leave it; 0 = all stay"
    )
    node_memory_budget_bytes: int = setting(
        0, "memory of all shared workers together, each having an equal part; 0 = any"
    )
    gpu_memory_budget_bytes: int = setting(
        0, "GPU memory of one shared worker; models not used lately leave it; 0 = all stay"
    )
    room_wait_s: float = setting(
        10.0, "with a budget: time requests for a model that is out may wait for room"
    )
    worn_slack_bytes: int = setting(
        256 * _MIB, "with a budget: memory a worker may hold besides its models before it is worn"
    )
    worn_after_s: float = setting(60.0, "time after which a worn worker is replaced; 0 = never")
    idle_s: float = setting(
        300.0, "time after which an unused model deployed with --min-replicas 0 leaves"
    )
    warm_up: str = setting(
        "run", "golden examples before a version answers: run, check (compare answers), or off"
    )
    warm_up_s: float = setting(5.0, "time after which no further golden example begins")
    probe_timeout_s: float = setting(120.0, "time the examination of a pushed model may take")
    probe_memory_bytes: int = setting(
        8192 * _MIB, "address space of the process that examines a pushed model"
    )


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """Copies of requests for versions that nobody waits for; of each gateway."""

    max_open: int = setting(64, "copies that may be on their way")
    max_waiting: int = setting(256, "copies that may wait for their turn")
    max_waiting_bytes: int = setting(16 * _MIB, "bytes that waiting copies may keep")
    max_busy: float = setting(
        0.7, "share of a core from which a gateway copies nothing; 1 copies always"
    )
    max_queue_ratio: float = setting(
        1.0, "copy nothing while requests wait this many times as long as they run; 0 copies always"
    )
    quiet: bool = setting(
        True, "send copies one by one, while no request waits for the primary version"
    )
    background: bool = setting(
        True, "let versions that only get copies run while nothing else wants the processor"
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much a caller may ask, and what happens when there is no room."""

    rate_per_s: float = setting(
        0.0, "requests a second of one caller in the long run, over all gateways; 0 = any number"
    )
    burst: int = setting(0, "requests of one caller at once; 0 = what rate_per_s allows a second")
    max_callers: int = setting(10_000, "callers whose requests are counted; then the oldest go")
    address_groups: int = setting(
        1024, "with rate_per_s and without keys: groups of clients' addresses, each one caller"
    )
    breaker: bool = setting(True, "refuse requests for variants that fail everybody")
    breaker_ratio: float = setting(0.5, "part of a variant's requests whose failure opens it")
    breaker_min_requests: int = setting(20, "requests without which that says nothing")
    breaker_window_s: float = setting(10.0, "time over which they are counted")
    breaker_open_s: float = setting(5.0, "first pause of a variant; it doubles while probes fail")
    breaker_max_open_s: float = setting(60.0, "longest pause")
    breaker_probes: int = setting(3, "requests that must end well before all are let through")
    fair: bool = setting(
        True, "at a variant's limit, let requests wait in turns between their callers"
    )
    max_waiting: int = setting(1024, "requests that may wait for room at one variant")
    max_waiting_per_caller: int = setting(256, "of one caller")
    adaptive: bool = setting(
        False, "with fair: learn how many open requests help a variant, and limit them to that"
    )
    adaptive_min: int = setting(2, "least limit that is learned; engine.max_in_flight is the most")
    adaptive_tolerance: float = setting(
        1.5, "how far time in a worker may rise above the usual before the limit falls"
    )
    adaptive_floor_ms: float = setting(5.0, "time in a worker that is never too long")
    max_wait_ms: float = setting(
        200.0, "with adaptive: about how long requests may wait for room; others are refused"
    )
    gateway_memory_bytes: int = setting(
        0, "memory of one gateway; near it it shrinks, then refuses; 0 = any"
    )
    worker_memory_bytes: int = setting(
        0, "memory of one worker; near it it shrinks, lets go of idle models, refuses; 0 = any"
    )
    watch_group: bool = setting(
        True, "do so near the memory limit of the control group (container) as well"
    )


@dataclass(frozen=True, slots=True)
class AutoscaleSettings:
    """How the replicas of endpoints with `--max-replicas` follow what is asked."""

    interval_s: float = setting(2.0, "pause between two decisions")
    stable_window_s: float = setting(60.0, "time over which what is asked is averaged")
    panic_window_ratio: float = setting(
        0.1, "part of that over which it is averaged to notice a burst"
    )
    panic_threshold: float = setting(
        2.0, "times the ready workers that a burst asks for, to be answered as one"
    )
    max_scale_up_rate: float = setting(1000.0, "times the ready workers that one decision makes")
    max_scale_down_rate: float = setting(2.0, "times fewer than the ready workers that one makes")
    scale_down_delay_s: float = setting(
        60.0, "time for which fewer must have been enough, where a deploy does not say"
    )
    target_utilisation: float = setting(
        0.7, "part of its concurrency or rate that a worker is meant to have"
    )
    concurrency: float = setting(10.0, "open requests that a worker takes, unless a deploy says")
    rate_per_s: float = setting(
        200.0, "requests a second that a worker takes, unless a deploy says"
    )
    queue_ms: float = setting(20.0, "time that requests may wait, unless a deploy says")
    max_workers: int = setting(
        32, "workers up to which autoscaling adds some; least and fixed replicas are always there"
    )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control process."""

    database_url: str = setting(
        "", "SQL database; empty = SQLite in the home folder", check_database_url
    )
    reconcile_interval_s: float = setting(1.0, "longest pause between two reconcile runs")
    deploy_timeout_s: float = setting(120.0, "time a deploy waits for the endpoint to answer")
    max_upload_bytes: int = setting(16_384 * _MIB, "largest file of a pushed model")
    max_files: int = setting(1000, "files of one pushed model; at most 1000 come from the client")
    snapshot_interval_s: float = setting(1.0, "pause between two telemetry snapshots")
    rollout_interval_s: float = setting(1.0, "pause between two looks at rollouts and aliases")
    analysis_timeout_s: float = setting(
        30.0, "time after which a rollout's analysis is given up, and the rollout pauses"
    )
    keep_previous_s: float = setting(
        3600.0, "time a version that a deploy has replaced stays in memory, to go back to at once"
    )
    experiment_interval_s: float = setting(
        60.0,
        "pause between two splits of an experiment that follows success; it grows",
    )
    metric_plugins: str = setting(
        "",
        "kinds of metrics of your own by which rollouts are judged: KIND=MODULE:FUNCTION, with "
        "commas between; the modules run in control",
    )
    feedback_days: float = setting(30.0, "age of answers of which outcomes can be reported")
    audit_days: float = setting(400.0, "age at which lines of the audit log go; 0 = never")
    webhook_hosts: str = setting(
        "",
        "hosts that webhooks may call, with commas between: NAME, or NAME:PORT for another port "
        "than 443 (http: 80); empty = none",
    )
    webhook_networks: str = setting(
        "", "networks that are not public and that these hosts may lead to, such as 10.0.0.0/8"
    )
    webhook_ca: str = setting(
        "", "PEM file of whom to trust when webhooks speak TLS; empty = whom this machine trusts"
    )
    webhook_queue: int = setting(1000, "deliveries to webhooks that may wait")
    unresponsive_s: float = setting(
        30.0,
        "time without a sign of life after which control is started again; 0 = never",
        between("control.unresponsive_s", 0, _MOST_S),
    )


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """The process that keeps the others alive."""

    backoff_initial_s: float = setting(0.05, "pause before the first restart")
    backoff_max_s: float = setting(10.0, "longest pause between restarts")
    backoff_reset_s: float = setting(3.0, "healthy time after which the pause starts over")
    stop_timeout_s: float = setting(25.0, "time a process gets to stop before it is killed")
    warm_processes: int = setting(
        1, "processes kept ready for workers that start on demand; 0 = each is started anew"
    )
    warm_runtimes: str = setting(
        "onnx,python,python-stream", "runtimes that these have imported, with commas between"
    )
    worker_limits: str = setting(
        "auto",
        "what keeps workers to memory limits and parts of CPUs: cgroup (control groups besides), "
        "rlimit (each process itself), or auto (cgroup where a group may be divided)",
    )
    cgroup_root: str = setting(
        "", "group beneath which workers get theirs, such as /salver; empty = that of 'salver up'"
    )


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """Metrics and logs."""

    log_level: str = setting(
        "info",
        "debug, info, warning or error",
        one_of("observe.log_level", "debug", "info", "warning", "error", any_case=True),
    )
    exchange_ring_bytes: int = setting(32 * _MIB, "finished exchanges waiting for observers")
    drain_interval_s: float = setting(0.1, "pause between two drains of the exchange ring")


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections."""

    http: HttpSettings = HttpSettings()
    http2: Http2Settings = Http2Settings()
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()
    shadow: ShadowSettings = ShadowSettings()
    autoscale: AutoscaleSettings = AutoscaleSettings()
    control: ControlSettings = ControlSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    observe: ObserveSettings = ObserveSettings()


SECTIONS: dict[str, type[Any]] = {
    "http": HttpSettings,
    "http2": Http2Settings,
    "engine": EngineSettings,
    "limits": LimitSettings,
    "shadow": ShadowSettings,
    "autoscale": AutoscaleSettings,
    "control": ControlSettings,
    "supervisor": SupervisorSettings,
    "observe": ObserveSettings,
}

Section = TypeVar("Section")


def load_settings(
    document: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Build the settings from a parsed file and the environment, which wins.

    Raises ``InvalidSettings`` for an unknown section or key, for a value of the wrong type, and for
    one that nothing could be started with.
    """
    values = {name: dict(_section(name, part)) for name, part in (document or {}).items()}
    for variable, text in (environ or {}).items():
        section, separator, key = variable.removeprefix(_ENV_PREFIX).partition(_ENV_SEPARATOR)
        if variable.startswith(_ENV_PREFIX) and separator:
            values.setdefault(section.lower(), {})[key.lower()] = text
    built = {name: _build(name, part) for name, part in values.items()}
    return Settings(**built)


def _section(name: str, part: object) -> Mapping[str, object]:
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise InvalidSettings(f"settings section {name!r} must hold keys and values")
    return part


def _build(name: str, values: Mapping[str, object]) -> Any:
    section = SECTIONS.get(name)
    if section is None:
        raise InvalidSettings(f"unknown settings section {name!r}{_hint(name, SECTIONS)}")
    fields = {item.name: item for item in dataclasses.fields(section)}
    converted: dict[str, object] = {}
    for key, value in values.items():
        item = fields.get(key)
        if item is None:
            raise InvalidSettings(f"unknown setting {name}.{key}{_hint(key, fields)}")
        converted[key] = _convert(f"{name}.{key}", value, type(item.default))
        if (check := item.metadata["check"]) is not None:
            check(converted[key])
    return section(**converted)


def _convert(name: str, value: object, kind: type[object]) -> object:
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
            return value.lower() in ("true", "1")
    elif kind is str and isinstance(value, str):
        return value
    elif kind in (int, float) and _is_number(value, kind):
        try:
            number = int(value) if kind is int else float(value)
        except (ValueError, OverflowError):
            pass
        else:
            # What is no number compares with nothing, and what has no end is no number of
            # nanoseconds; whole numbers may be too large to be looked at as floats.
            if isinstance(number, int) or math.isfinite(number):
                return number
    raise InvalidSettings(f"setting {name} must be {wanted}, not {value!r}")


def _is_number(value: object, kind: type[object]) -> TypeGuard[int | float | str]:
    """Tell whether a value may become a number of a kind without loss."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    return kind is float or not isinstance(value, float)


def _hint(name: object, known: Mapping[str, object]) -> str:
    # A key of YAML may be a number, or true where "on" was written.
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
