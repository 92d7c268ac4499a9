"""Rollouts, what they need, and who is in charge.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NAME = sa.String(128)
_ROLLOUT = ["tenant", "endpoint", "number"]
_TARGET = ["rollouts.tenant", "rollouts.endpoint", "rollouts.number"]


def upgrade() -> None:
    """Create the tables."""
    _rollouts()
    _endpoints()
    op.create_table(
        "leases",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("holder", sa.String(256), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("renewals", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(*_ROLLOUT, name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_is_active", "rollouts", ["is_active"])
    op.create_table(
        "rollout_events",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(*_ROLLOUT, "sequence", name="pk_rollout_events"),
        sa.ForeignKeyConstraint(_ROLLOUT, _TARGET, name="fk_rollout_events_rollouts"),
    )
    op.create_table(
        "rollout_evidence",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(*_ROLLOUT, "name", name="pk_rollout_evidence"),
        sa.ForeignKeyConstraint(_ROLLOUT, _TARGET, name="fk_rollout_evidence_rollouts"),
    )


def _endpoints() -> None:
    op.create_table(
        "freezes",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", name="pk_freezes"),
    )
    op.create_table(
        "rolled_back_versions",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", name="pk_rolled_back_versions"),
    )
    op.create_table(
        "previous_states",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("left_s", sa.Float, nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", name="pk_previous_states"),
    )
