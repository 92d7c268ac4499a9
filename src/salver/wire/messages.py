"""Everything two processes of Salver can say to each other.

A closed union of msgspec structs, sent as MessagePack arrays: fields are only ever added at the
end, with defaults, so that protocol versions N and N-1 understand each other. Tensor bytes follow
a message as raw payload in the order of its tensor headers. No pickle, no class names.

Who says what: everybody opens with ``Hello``. Gateways send ``Infer``, ``InferMany``, ``Cancel``,
``Credit`` and ``Watch`` to workers; workers answer with ``BatchStarted``, ``Chunk``, ``ChunkMany``
and ``Fail``. ``Watch`` and the two ``Many`` came with version 2 and are said only to peers of it.
Control pushes ``PlanPush`` to gateways, workers and the supervisor and gets ``PlanAck`` and
``Snapshot`` back. A gateway asks control for a ``Change``, which control answers with ``Changed``
or ``Fail``; these came with version 3. It passes a ``Report`` on, which control answers with
``ReportTaken`` or ``Fail``; these came with version 4. Workers send a ``Ping`` back, from 5 on.
``Load``, ``Unload`` and ``Drain`` tell a worker what to host; a plan contains the same ``Load``s,
so that a worker can restart while control is away.
"""

import msgspec

from salver.core.feedback import Reported, Taken
from salver.core.hosting import Execution, Limits
from salver.core.routing import SHADOW, Routing
from salver.core.sequences import Sequences
from salver.core.signature import Signature
from salver.core.steps import Steps
from salver.core.timing import Timing
from salver.wire.deaths import Death
from salver.wire.pings import Ping

PROTOCOL_VERSION = 5
OLDEST_PROTOCOL_VERSION = 1
FIRST_COHORT_VERSION = 2
"""From this version on, peers understand ``InferMany``, ``ChunkMany`` and ``Watch``."""
FIRST_CHANGE_VERSION = 3
"""From this version on, control understands ``Change``."""
FIRST_REPORT_VERSION = 4
"""From this version on, control understands ``Report``."""
FIRST_TERSE_VERSION = 3
"""From this version on, peers take one value for a column of equal ones in the two ``Many``, and
an ``InferMany`` without ``request_ids``."""


class TensorHeader(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One tensor of the payload; ``size_bytes`` is its share of the raw bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size_bytes: int


class FileRef(msgspec.Struct, frozen=True, array_like=True):
    """One file of an artifact: path inside it, digest (``sha256`` hex) and size."""

    path: str
    sha256: str
    size_bytes: int


class BatchPolicy(msgspec.Struct, frozen=True, array_like=True):
    """How a variant may be batched and how much may wait for it.

    ``max_batch_size`` counts rows, 1 switches batching off; ``max_queue`` counts requests.
    ``max_batch_tokens`` counts the tokens of all rows with their filling, 0 is any number.
    ``priorities`` lets requests say how urgent they are. ``batching`` is fixed or adaptive; the
    latter keeps answers within ``objective_ms``, 0 for none. With ``sequences`` rows of unlike
    lengths run together as long as at most the share ``max_padding`` of a batch is filling.
    """

    max_batch_size: int = 64
    max_queue_delay_ms: float = 0.0
    max_queue: int = 1024
    max_batch_tokens: int = 0
    priorities: bool = False
    batching: str = "fixed"
    objective_ms: float = 0.0
    sequences: Sequences | None = None
    max_padding: float = 0.1


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message in both directions.

    ``role`` is gateway, worker, control or supervisor; ``incarnation`` is unique per process
    start; ``token`` is the shared secret where the link is not a private socket.
    """

    version: int
    role: str
    identity: str
    incarnation: str
    token: str = ""


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Host one version.

    ``variant`` is ``MODEL:VERSION``; ``digest`` is the artifact's; ``source`` names a blob source
    that the worker's own settings resolve, never a path. ``lazy`` waits for the first request.
    With ``steps``, ``runtime`` is as ``core.steps.stepped`` names it: a worker of version 2 would
    leave the steps out, and refuses the name.
    In a worker with a memory budget ``pinned`` stays in memory, and ``size_hint_bytes`` is what an
    earlier load took: 0 for a version that nobody has loaded yet. A worker that does not know
    ``execution`` runs one instance, on the CPU. ``golden`` is the digest of examples that run
    before the version is ready. With ``idle_s`` it leaves memory when nobody asked for so long.
    """

    variant: str
    digest: str
    runtime: str
    files: tuple[FileRef, ...]
    source: str
    signature: Signature
    policy: BatchPolicy = BatchPolicy()
    lazy: bool = False
    trust_pickle: bool = False
    trust_code: bool = False
    steps: Steps | None = None
    pinned: bool = False
    size_hint_bytes: int = 0
    execution: Execution = Execution()
    golden: str = ""
    idle_s: float = 0.0


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Stop hosting a version once its accepted work is done."""

    variant: str


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Run a request. ``id`` is unique on the link; the deadline travels as remaining time.

    ``stream`` asks for chunks, of which the worker may send ``credit`` before it is granted more.
    """

    id: int
    variant: str
    inputs: tuple[TensorHeader, ...]
    remaining_us: int
    request_id: str
    outputs: tuple[str, ...] | None = None
    parameters: dict[str, bool | int | float | str | None] | None = None
    priority: int = 0
    stream: bool = False
    credit: int = 0
    traceparent: str | None = None


class InferMany(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Run several requests that differ in their values only.

    ``inputs`` describe each of them; the payload is theirs one after the other, in the order of
    ``ids``. ``remaining_us`` has one value where all have the same, and ``request_ids`` none where
    nobody needs them, both to peers of ``FIRST_TERSE_VERSION`` only. ``traceparents`` is empty when
    nobody sent one.
    """

    ids: tuple[int, ...]
    variant: str
    inputs: tuple[TensorHeader, ...]
    remaining_us: tuple[int, ...]
    request_ids: tuple[str, ...]
    outputs: tuple[str, ...] | None = None
    priority: int = 0
    traceparents: tuple[str | None, ...] = ()


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Nobody waits for this request any more."""

    id: int


class BatchStarted(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """These requests are about to run; if the worker dies now, one of them may be why."""

    ids: tuple[int, ...]


class Watch(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The sender reads the ledger of this name beside the worker's socket.

    Batches that are noted there need no ``BatchStarted``.
    """

    ledger: str


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """An answer or a part of one; a unary answer is chunk 0 and final."""

    id: int
    sequence: int
    final: bool
    outputs: tuple[TensorHeader, ...]
    timing: Timing | None = None
    parameters: dict[str, bool | int | float | str | None] | None = None


class ChunkMany(msgspec.Struct, frozen=True, array_like=True, tag=15, gc=False):
    """The unary answers to several requests that ran together.

    ``outputs`` describe each of them; the payload holds the first output of all in the order of
    ``ids``, then the second of all, and so on. ``timing`` is common but for the time in the queue;
    ``queue_ns`` has one value where all waited equally long, to peers of ``FIRST_TERSE_VERSION``
    only.
    """

    ids: tuple[int, ...]
    outputs: tuple[TensorHeader, ...]
    queue_ns: tuple[int, ...]
    timing: Timing


class Fail(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A request, change or report ended in a domain error; ``code`` is one of ``core.errors``."""

    id: int
    code: str
    message: str
    retry_after_s: float | None = None


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """The receiver of a stream takes ``chunks`` more."""

    id: int
    chunks: int


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Finish what was accepted and take nothing new, then say so in a ``Snapshot``.

    A worker that nobody needs says it to its gateways. They close the link once they have all
    answers, and what they send before that is answered.
    """

    reason: str = ""


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One counter or gauge; labels are in the catalogue's order. Thousands need no collector."""

    name: str
    labels: tuple[str, ...]
    value: float


class HistogramSample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One histogram: a count per bucket (the last is +Inf, not cumulative) and the sum."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total: float


class VariantState(msgspec.Struct, frozen=True, array_like=True):
    """How far a worker is with one of its variants.

    ``state`` is pending, loading, ready, failed, draining or lazy; with a memory budget also
    evicted (out of memory, comes back for the next request) or reloading (on its way). ``code``
    and ``error`` say why it failed, or why a ready one did not take over a changed execution.
    ``size_bytes`` is what loading it took, also while it is out. ``execution`` is the one in force
    (None from workers that know none), ``provider`` what it computes with ("" for code).
    """

    variant: str
    state: str
    code: str = ""
    error: str = ""
    resident_bytes: int = 0
    size_bytes: int = 0
    execution: Execution | None = None
    provider: str = ""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """What a process knows about itself, numbers only.

    ``state`` of a worker is starting, ready, draining, or worn: it answers, but holds memory that
    its models do not account for.

    Counters and histograms are cumulative since the process started, so a lost or repeated
    snapshot does no harm: the one with the highest ``number`` of an incarnation stands for it.
    """

    number: int
    plan: int
    pid: int
    state: str
    resident_bytes: int
    variants: tuple[VariantState, ...] = ()
    counters: tuple[Sample, ...] = ()
    gauges: tuple[Sample, ...] = ()
    histograms: tuple[HistogramSample, ...] = ()
    deaths: tuple[Death, ...] = ()


ANSWERING_STATES = frozenset(("ready", "evicted", "reloading"))
"""Variants in these states can be asked; those that are out of memory come back for it."""


class VariantPlan(msgspec.Struct, frozen=True):
    """One version behind an endpoint.

    ``weight`` is its part of the traffic, ``sample`` the part of which it gets a copy whose answer
    nobody waits for; both in basis points (10,000 = all traffic). ``role`` is primary, canary,
    shadow, arm, or previous: kept, so that going back to it takes no time.
    """

    id: str
    role: str
    model: str
    version: str
    digest: str
    runtime: str
    weight: int
    weight_epoch: int
    signature: Signature
    workers: tuple[str, ...]
    policy: BatchPolicy = BatchPolicy()
    quarantine: str | None = None
    idempotent: bool = True
    sample: int = 0


class EndpointPlan(msgspec.Struct, frozen=True):
    """What a gateway must know of one endpoint.

    ``validation`` of declared ranges and categories is off, warn or reject. ``reason`` says why
    there is no ready variant, if there is none. ``cache`` lets gateways answer equal
    requests alike. ``variants`` has the primary one first. ``headers`` are the names of the
    header fields that ``routing`` looks at; ``salt`` makes each rollout begin with other callers.
    ``evidence`` says what gateways count for a rollout, as its room writes it down; empty for none.
    ``captures`` tells that answers have to be looked at for it.
    ``replicas`` is how many workers control wants for it; 0 in plans of older ones. ``floor`` is
    what each weighted variant has at the lower end of the ring, see ``core.routing``.
    """

    name: str
    variants: tuple[VariantPlan, ...]
    tenant: str = "default"
    validation: str = "off"
    timeout_s: float = 30.0
    reason: str = ""
    cache: bool = False
    routing: Routing = Routing()
    headers: tuple[str, ...] = ()
    salt: str = ""
    evidence: bytes = b""
    captures: bool = False
    replicas: int = 0
    floor: int = 0

    @property
    def answering(self) -> tuple[VariantPlan, ...]:
        """The variants that a caller may ask for: a shadow's answers are for nobody."""
        return tuple([variant for variant in self.variants if variant.role != SHADOW])


class WorkerPlan(msgspec.Struct, frozen=True):
    """One worker process: where it listens and what it hosts.

    ``address`` is ``unix:PATH`` or ``tcp://HOST:PORT``; ``kind`` is shared, dedicated or
    quarantine. ``limits`` hold for the whole process from its start; ``threads`` are those of
    libraries that are told once, 0 for what ``engine.threads`` says. One that is ``on_demand`` runs
    only while somebody asks it: whoever connects to its address has it started, and it leaves when
    it was idle for long. One in the ``background`` answers nobody who waits, and lets all other
    processes go first from when it has loaded to its end.
    """

    id: str
    kind: str
    address: str
    loads: tuple[Load, ...] = ()
    limits: Limits = Limits()
    threads: int = 0
    on_demand: bool = False
    background: bool = False


class Plan(msgspec.Struct, frozen=True):
    """The numbered snapshot of what every gateway and worker must do.

    ``unloaded`` are models that an admin may load at the data port: none where that is off.
    """

    number: int
    created_unix_ms: int
    endpoints: tuple[EndpointPlan, ...] = ()
    workers: tuple[WorkerPlan, ...] = ()
    unloaded: tuple[str, ...] = ()


def routes(plan: Plan) -> set[tuple[str, str]]:
    """Return which workers gateways may ask for which versions, quarantines included."""
    variants = [variant for endpoint in plan.endpoints for variant in endpoint.variants]
    asked = {(worker, variant.id) for variant in variants for worker in variant.workers}
    return asked | {(v.quarantine, v.id) for v in variants if v.quarantine is not None}


class PlanPush(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Control's newest plan."""

    plan: Plan


class PlanAck(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The sender acts on this plan from now on."""

    number: int


class Change(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """A caller of the data port wants an endpoint served (``load``) or not (``unload``).

    The gateway has found out that ``principal`` of ``tenant`` may ask for it. ``id`` is unique on
    the link; ``remaining_us`` is how long somebody waits for the answer.
    """

    id: int
    action: str
    endpoint: str
    principal: str
    tenant: str
    request_id: str
    remaining_us: int


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """A change is in force at every live gateway."""

    id: int


class Evidence(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """What the sender has counted of one arm of an endpoint in one weight epoch.

    Cumulative: the one with the highest ``number`` stands for all before. ``rows`` and ``bins`` are
    ``width`` columns, packed as the room of rollouts does it. Sent only where a plan asks for it.
    """

    endpoint: str
    epoch: int
    arm: str
    number: int
    width: int
    rows: bytes
    bins: bytes


class Report(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """A caller of the data port says what became of answers of an endpoint.

    The gateway has found out that ``principal`` of ``tenant`` may call it. ``id`` is unique on the
    link; ``request_id`` is that of the call that reports. At most ``core.feedback.MAX_RELAYED``.
    """

    id: int
    endpoint: str
    principal: str
    tenant: str
    request_id: str
    reports: tuple[Reported, ...]


class ReportTaken(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """What came of a report; what it says is taken is stored."""

    id: int
    taken: Taken


Message = (
    Hello
    | Load
    | Unload
    | Infer
    | InferMany
    | Cancel
    | BatchStarted
    | Watch
    | Chunk
    | ChunkMany
    | Fail
    | Credit
    | Drain
    | Snapshot
    | PlanPush
    | PlanAck
    | Change
    | Changed
    | Evidence
    | Ping
    | Report
    | ReportTaken
)
