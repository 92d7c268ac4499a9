"""What versions took in memory when they were loaded.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAME = sa.String(128)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "measured_sizes",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", name="pk_measured_sizes"),
        sa.ForeignKeyConstraint(
            ["tenant", "model", "version"],
            ["versions.tenant", "versions.model", "versions.version"],
            name="fk_measured_sizes_versions",
        ),
    )
