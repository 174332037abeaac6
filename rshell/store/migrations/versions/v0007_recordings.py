"""The index of recordings of terminals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "recordings",
        sa.Column("session", sa.String(32), primary_key=True),
        sa.Column("device", sa.String(36), nullable=False),
        sa.Column("device_name", sa.Text, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("handler", sa.Text, nullable=False),
        sa.Column("login", sa.Text),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("stored", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
    )
    op.create_index("recordings_started", "recordings", ["started_at"])
    op.create_index("recordings_device", "recordings", ["device"])
    op.create_index("recordings_operator", "recordings", ["operator"])
