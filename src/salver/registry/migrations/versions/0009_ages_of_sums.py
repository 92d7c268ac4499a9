"""When outcomes were added up last, so that sums which nobody reads can be forgotten.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; sums from before it count as old."""
    op.add_column(
        "feedback_sums",
        sa.Column("reported_unix_ms", sa.BigInteger, nullable=False, server_default="0"),
    )
