"""Invites by which devices wait to be accepted, keys that are known before, ranges of addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, with what invites meant until now, and the tables."""
    op.add_column("tokens", sa.Column("mode", sa.String(8), nullable=False, server_default="join"))
    op.add_column("tokens", sa.Column("sources", sa.Text, nullable=False, server_default="[]"))
    op.add_column(
        "token_uses", sa.Column("bound", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.create_index("token_uses_spki", "token_uses", ["spki"])
    op.create_table(
        "token_keys",
        sa.Column("spki", sa.LargeBinary(32), primary_key=True),
        sa.Column("token_id", sa.LargeBinary(8), sa.ForeignKey("tokens.id"), nullable=False),
        sa.Column("name", sa.String(63)),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
    )
    op.create_index("token_keys_token", "token_keys", ["token_id"])
    op.create_table(
        "pending_devices",
        sa.Column("spki", sa.LargeBinary(32), primary_key=True),
        sa.Column("token_id", sa.LargeBinary(8), sa.ForeignKey("tokens.id"), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("rejected_at", sa.BigInteger),
        sa.CheckConstraint("status IN ('waiting', 'rejected')", name="pending_devices_status"),
    )
    for name, column in (("token", "token_id"), ("source", "source"), ("seen", "last_seen")):
        op.create_index(f"pending_devices_{name}", "pending_devices", [column])
