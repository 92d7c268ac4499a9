"""The tables. Every key begins with the tenant, which is ``default`` until tenants exist."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_NAME = String(128)
_DIGEST = String(64)


def _key(name: str, kind: object = _NAME) -> Column[object]:
    return Column(name, kind, primary_key=True, nullable=False)  # type: ignore[arg-type]


models = Table(
    "models",
    metadata,
    _key("tenant"),
    _key("name"),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("newest_version", Integer, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    _key("tenant"),
    _key("model"),
    Column("version", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("digest", _DIGEST, nullable=False, index=True),
    Column("manifest", Text, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", String(256), nullable=False),
    ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"]),
)

labels = Table(
    "labels",
    metadata,
    _key("tenant"),
    _key("model"),
    Column("version", Integer, primary_key=True, autoincrement=False, nullable=False),
    _key("key"),
    Column("value", String(1024), nullable=False),
    ForeignKeyConstraint(
        ["tenant", "model", "version"], ["versions.tenant", "versions.model", "versions.version"]
    ),
)

aliases = Table(
    "aliases",
    metadata,
    _key("tenant"),
    _key("model"),
    _key("alias"),
    Column("version", Integer, nullable=False),
    Column("moved_unix_ms", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "model", "version"], ["versions.tenant", "versions.model", "versions.version"]
    ),
)

measured_sizes = Table(
    "measured_sizes",
    metadata,
    _key("tenant"),
    _key("model"),
    Column("version", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "model", "version"], ["versions.tenant", "versions.model", "versions.version"]
    ),
)

endpoints = Table(
    "endpoints",
    metadata,
    _key("tenant"),
    _key("name"),
    Column("spec", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    _key("name"),
    Column("value", BigInteger, nullable=False),
)

telemetry = Table(
    "telemetry",
    metadata,
    _key("incarnation", String(64)),
    Column("snapshot", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
)

retired_counts = Table(
    "retired_counts",
    metadata,
    _key("name"),
    _key("labels", String(1024)),
    Column("counts", Text, nullable=False),
    Column("total", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("tenant", _NAME, nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("details", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("is_active", Boolean, nullable=False, index=True),
    Column("sequence", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "endpoint", "number"],
        ["rollouts.tenant", "rollouts.endpoint", "rollouts.number"],
    ),
)

rollout_evidence = Table(
    "rollout_evidence",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    _key("name"),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "endpoint", "number"],
        ["rollouts.tenant", "rollouts.endpoint", "rollouts.number"],
    ),
)

freezes = Table(
    "freezes",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("reason", String(1024), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
)

rolled_back_versions = Table(
    "rolled_back_versions",
    metadata,
    _key("tenant"),
    _key("model"),
    Column("version", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("endpoint", _NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
)

previous_states = Table(
    "previous_states",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("spec", Text, nullable=False),
    Column("left_s", Float, nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    _key("tenant"),
    _key("id", String(64)),
    Column("endpoint", _NAME, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("event", String(16), nullable=False),
    Column("webhook", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("spent_s", Float, nullable=False),
    Column("status", Integer, nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    _key("digest", _DIGEST),
    _key("person"),
    Column("version", String(300), nullable=False),
    Column("comment", String(1024), nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    _key("name"),
    Column("holder", String(256), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("renewals", BigInteger, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    _key("request_id", String(64)),
    _key("metric", String(64)),
    Column("value", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("weight_epoch", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("answered_unix_ms", BigInteger, nullable=False, index=True),
    Column("received_unix_ms", BigInteger, nullable=False),
)

feedback_sums = Table(
    "feedback_sums",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    _key("metric", String(64)),
    Column("version", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("weight_epoch", BigInteger, primary_key=True, autoincrement=False, nullable=False),
    Column("place", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("outcomes", BigInteger, nullable=False),
    Column("total", Float, nullable=False),
    Column("squares", Float, nullable=False),
    Column("reported_unix_ms", BigInteger, nullable=False, server_default="0"),
)

sides = Table(
    "sides",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("is_active", Boolean, nullable=False, index=True),
    Column("body", Text, nullable=False),
)

side_events = Table(
    "side_events",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("unix_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

side_evidence = Table(
    "side_evidence",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    _key("name"),
    Column("body", Text, nullable=False),
)

side_covariates = Table(
    "side_covariates",
    metadata,
    _key("tenant"),
    _key("endpoint"),
    Column("number", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("place", Integer, primary_key=True, autoincrement=False, nullable=False),
    Column("callers", BigInteger, nullable=False),
    Column("total", Float, nullable=False),
)
