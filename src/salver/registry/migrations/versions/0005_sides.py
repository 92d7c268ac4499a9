"""Shadows and experiments.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_NAME = sa.String(128)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "sides",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "number", name="pk_sides"),
    )
    op.create_index("ix_sides_is_active", "sides", ["is_active"])
