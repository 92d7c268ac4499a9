"""What callers report of answers.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NAME = sa.String(128)
_SHORT = sa.String(64)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "feedback",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("request_id", _SHORT, nullable=False),
        sa.Column("metric", _SHORT, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("weight_epoch", sa.BigInteger, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("answered_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("received_unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "request_id", "metric", name="pk_feedback"),
    )
    op.create_index("ix_feedback_answered_unix_ms", "feedback", ["answered_unix_ms"])
    op.create_table(
        "feedback_sums",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("metric", _SHORT, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("weight_epoch", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("outcomes", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.Column("squares", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant",
            "endpoint",
            "metric",
            "version",
            "weight_epoch",
            "place",
            name="pk_feedback_sums",
        ),
    )
