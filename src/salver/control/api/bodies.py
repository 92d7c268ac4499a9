"""What the API takes; unknown fields are refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_DIGEST = Field(pattern="^[0-9a-f]{64}$")


class Body(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FileBody(Body):
    """One uploaded file of an artifact."""

    path: str = Field(max_length=4096)
    sha256: str = _DIGEST
    size_bytes: int = Field(ge=0)


class DocumentBody(Body):
    """An uploaded example or golden file."""

    name: str = Field(max_length=255)
    sha256: str = _DIGEST


class ColumnBody(Body):
    """What holds for one input column."""

    minimum: float | None = None
    maximum: float | None = None
    categories: list[str | int | float | bool] | None = Field(default=None, max_length=10_000)
    sensitive: bool = False


class SequenceInputBody(Body):
    """How one input is filled up."""

    axis: int = Field(default=1, ge=1, le=32)
    pad: float = 0


class SequencesBody(Body):
    """How rows of unlike lengths may run together."""

    inputs: dict[str, SequenceInputBody] = Field(min_length=1, max_length=64)
    mask: str = Field(default="", max_length=256)


class PushBody(Body):
    """A new version of a model."""

    files: list[FileBody] = Field(max_length=1000)
    runtime: str | None = Field(default=None, max_length=64)
    example: DocumentBody | None = None
    golden: DocumentBody | None = None
    alias: str | None = Field(default=None, max_length=128)
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    trust_pickle: bool = False
    trust_code: bool = False
    columns: dict[str, ColumnBody] = Field(default_factory=dict, max_length=10_000)
    steps: dict[str, Any] | None = None
    provenance: dict[str, str] = Field(default_factory=dict, max_length=64)
    sequences: SequencesBody | None = None


class AliasBody(Body):
    """Where an alias shall point."""

    version: int = Field(ge=1)


class EndpointBody(Body):
    """What an endpoint shall serve, and how."""

    model: str = Field(max_length=300)
    replicas: int = Field(default=1, ge=1, le=64)
    validation: str = "off"
    timeout_s: float = Field(default=30.0, gt=0, le=3600)
    max_batch_size: int | None = Field(default=None, ge=1, le=65536)
    max_queue: int | None = Field(default=None, ge=1, le=1_000_000)
    max_batch_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_queue_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    priorities: bool = False
    batching: str = Field(default="fixed", max_length=16)
    objective_ms: float = Field(default=0.0, ge=0, le=3_600_000)
    max_padding: float = Field(default=0.1, ge=0, lt=1)
    cache: bool = False
    pinned: bool = False
    routing: dict[str, Any] | None = None


class ReportBody(Body):
    """What became of one answer."""

    request_id: str = Field(max_length=256)
    value: float | bool
    metric: str = Field(default="outcome", max_length=128)


class FeedbackBody(Body):
    """Reports of several answers."""

    reports: list[ReportBody] = Field(min_length=1, max_length=10_000)
