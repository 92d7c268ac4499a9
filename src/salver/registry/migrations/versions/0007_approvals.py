"""Who approves of which version for an endpoint.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NAME = sa.String(128)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "approvals",
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("person", _NAME, nullable=False),
        sa.Column("version", sa.String(300), nullable=False),
        sa.Column("comment", sa.String(1024), nullable=False),
        sa.Column("unix_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "endpoint", "digest", "person", name="pk_approvals"),
    )
