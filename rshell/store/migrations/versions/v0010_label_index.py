"""Devices are found by their labels' values."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("device_labels_value", "device_labels", ["key", "value", "device_id"])
