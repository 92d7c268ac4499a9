"""What the catalog gives out."""

import msgspec

from salver.artifact.manifest import Manifest
from salver.core.hosting import Hosting
from salver.core.rollouts import RolloutPolicy
from salver.core.routing import Routing
from salver.core.webhooks import Webhook


class VersionRecord(msgspec.Struct, frozen=True):
    """One immutable version."""

    model: str
    version: int
    digest: str
    manifest: Manifest
    created_unix_ms: int
    created_by: str
    labels: dict[str, str]

    @property
    def id(self) -> str:
        """``MODEL:VERSION``."""
        return f"{self.model}:{self.version}"


class ModelRecord(msgspec.Struct, frozen=True):
    """One model with its versions, oldest first, and its aliases."""

    name: str
    versions: tuple[VersionRecord, ...]
    aliases: dict[str, int]


class EndpointSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody wants an endpoint to be.

    ``version`` is set for a fixed version, ``alias`` for one that follows an alias. ``pinned``
    keeps the model in memory where a budget sends others away. ``min_replicas`` is None for as many
    as ``replicas``; with 0 the model leaves when nobody asked for ``idle_s`` (None: as the settings
    say). ``warm_up`` runs golden examples before a version answers.
    ``batching`` is fixed or adaptive, ``objective_ms`` the time within which adaptive batches
    answer, 0 for none. ``max_padding`` is the share of a batch that may be filling; ``cache`` keeps
    answers for requests that are equal. ``routing`` is about endpoints with several variants,
    ``hosting`` says where they run, and with how much. With ``rollout`` one that follows an alias
    keeps ``version`` until a rollout to the alias's version has ended well. ``managed`` tells that
    files say what it shall be.
    With ``max_replicas`` their number follows ``scale_on`` (concurrency, queue or rate), from
    ``min_replicas`` (None is ``replicas``) on; ``scale_target`` is what one worker takes, for the
    queue milliseconds. ``approvals`` is how many people must approve of a version before it takes
    the place of another; of it and of ``webhooks``, which are told of every rollout of the
    endpoint, None means as they were. None of the others is the server's own choice: of
    ``timeout_s``, which requests have that name none, ``http.request_timeout_s``.
    """

    name: str
    model: str
    version: int | None = None
    alias: str | None = None
    replicas: int = 1
    validation: str = "off"
    timeout_s: float | None = None
    max_batch_size: int | None = None
    max_queue: int | None = None
    generation: int = 0
    max_batch_tokens: int | None = None
    max_queue_delay_ms: float = 0.0
    priorities: bool = False
    batching: str = "fixed"
    objective_ms: float = 0.0
    max_padding: float = 0.1
    cache: bool = False
    pinned: bool = False
    routing: Routing = Routing()
    rollout: RolloutPolicy | None = None
    managed: bool = False
    min_replicas: int | None = None
    max_replicas: int | None = None
    scale_on: str = "concurrency"
    scale_target: float | None = None
    scale_down_delay_s: float | None = None
    hosting: Hosting = Hosting()
    idle_s: float | None = None
    warm_up: bool = True
    approvals: int | None = 0
    webhooks: tuple[Webhook, ...] | None = ()


class EventRecord(msgspec.Struct, frozen=True):
    """One entry of the audit log."""

    unix_ms: int
    actor: str
    action: str
    subject: str
    details: dict[str, str]


class Approval(msgspec.Struct, frozen=True):
    """That somebody approves of a version, ``MODEL:VERSION``, for an endpoint."""

    person: str
    version: str
    comment: str
    unix_ms: int


class Delivery(msgspec.Struct, frozen=True):
    """Something that a webhook is told, and how that goes.

    ``body`` is what is sent, byte for byte, at every attempt. ``number`` is the rollout, 0 for
    none, ``sequence`` its event. ``state`` is waiting, delivered, refused (it said no),
    undelivered (nobody answered within the budget) or withdrawn (nobody asks any more).
    ``spent_s`` is time since the first attempt that counts, ``status`` the last answer's.
    """

    id: str
    endpoint: str
    number: int
    sequence: int
    event: str
    webhook: Webhook
    body: bytes
    state: str = "waiting"
    attempts: int = 0
    spent_s: float = 0.0
    status: int = 0
    reason: str = ""
    unix_ms: int = 0


class RolloutRecord(msgspec.Struct, frozen=True):
    """A stored rollout; ``body`` is JSON, ``sequence`` the number of its newest event."""

    endpoint: str
    number: int
    is_active: bool
    sequence: int
    body: bytes


class RolloutEvent(msgspec.Struct, frozen=True):
    """One entry of a rollout's history; ``body`` is JSON."""

    number: int
    sequence: int
    unix_ms: int
    body: bytes


class Freeze(msgspec.Struct, frozen=True):
    """Why nothing may change an endpoint, who said so, and since when."""

    endpoint: str
    reason: str
    actor: str
    unix_ms: int


class PreviousState(msgspec.Struct, frozen=True):
    """What an endpoint was before it was changed, and how long its version stays in memory."""

    spec: EndpointSpec
    left_s: float
    unix_ms: int


class Ending(msgspec.Struct, frozen=True):
    """What the end of a rollout changes besides.

    ``spec`` is what the endpoint becomes, ``previous`` what it was, whose version is kept for
    ``keep_s``. ``rolled_back`` is the version (``MODEL:VERSION``) that shall be marked.
    """

    spec: EndpointSpec | None = None
    previous: EndpointSpec | None = None
    keep_s: float = 0.0
    rolled_back: str = ""
    reason: str = ""
