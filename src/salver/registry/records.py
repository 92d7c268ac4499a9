"""What the catalog gives out."""

import msgspec

from salver.artifact.manifest import Manifest
from salver.core.routing import Routing


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
    keeps the model in memory where a budget sends others away.
    ``batching`` is fixed or adaptive, ``objective_ms`` the time within which adaptive batches
    answer, 0 for none. ``max_padding`` is the share of a batch that may be filling; ``cache`` keeps
    answers for requests that are equal. ``routing`` is about endpoints with several variants.
    ``managed`` tells that files say what it shall be.
    """

    name: str
    model: str
    version: int | None = None
    alias: str | None = None
    replicas: int = 1
    validation: str = "off"
    timeout_s: float = 30.0
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
    managed: bool = False


class EventRecord(msgspec.Struct, frozen=True):
    """One entry of the audit log."""

    unix_ms: int
    actor: str
    action: str
    subject: str
    details: dict[str, str]
