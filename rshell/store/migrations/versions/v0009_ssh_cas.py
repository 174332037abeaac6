"""Certificate authorities for SSH logins, and what was revoked of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "ssh_cas",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("blob", sa.LargeBinary, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger),
    )
    op.create_table(
        "ssh_ca_revocations",
        sa.Column("ca", sa.String(64), primary_key=True),
        sa.Column("by", sa.String(8), primary_key=True),
        sa.Column("value", sa.String(256), primary_key=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
    )
