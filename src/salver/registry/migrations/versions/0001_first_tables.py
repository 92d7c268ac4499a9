"""The first tables.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NAME = sa.String(128)


def upgrade() -> None:
    """Create the tables."""
    _models()
    _state()


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("newest_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_models"),
    )
    op.create_table(
        "versions",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(
            ["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_models"
        ),
    )
    op.create_index("ix_versions_digest", "versions", ["digest"])
    target = ["versions.tenant", "versions.model", "versions.version"]
    op.create_table(
        "labels",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("key", _NAME, nullable=False),
        sa.Column("value", sa.String(1024), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", "key", name="pk_labels"),
        sa.ForeignKeyConstraint(["tenant", "model", "version"], target, name="fk_labels_versions"),
    )
    op.create_table(
        "aliases",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("alias", _NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("moved_unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["tenant", "model", "version"], target, name="fk_aliases_versions"),
    )


def _state() -> None:
    op.create_table(
        "endpoints",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_endpoints"),
    )
    op.create_table(
        "counters",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "telemetry",
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("snapshot", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("incarnation", name="pk_telemetry"),
    )
    op.create_table(
        "retired_counts",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("labels", sa.String(1024), nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name="pk_retired_counts"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
