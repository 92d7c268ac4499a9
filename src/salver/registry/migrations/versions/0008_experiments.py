"""What experiments count, how their weights changed, and what was known before them.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_NAME = sa.String(128)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "side_events",
        *_side(),
        sa.Column("sequence", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "number", "sequence", name="pk_side_events"),
    )
    op.create_table(
        "side_evidence",
        *_side(),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "number", "name", name="pk_side_evidence"),
    )
    op.create_table(
        "side_covariates",
        *_side(),
        sa.Column("place", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("callers", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "number", "place", name="pk_side_covariates"),
    )


def _side() -> tuple[sa.Column[str], sa.Column[str], sa.Column[int]]:
    return (
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
    )
