"""Quarantine, and link generations as the highest that a device presented (rule H4)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what was told in WELCOME becomes what was presented before."""
    op.add_column("devices", sa.Column("quarantined_at", sa.BigInteger))
    op.add_column("devices", sa.Column("quarantine_reason", sa.Text))
    # Until now the number told was kept, one above what the device had presented.
    op.execute("UPDATE devices SET link_generation = link_generation - 1 WHERE link_generation > 0")
