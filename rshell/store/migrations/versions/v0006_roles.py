"""Roles with grants, and operators (and invites) with several of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; the one role that somebody had becomes a list of one."""
    op.create_table(
        "roles",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String(63), nullable=False),
    )
    op.create_table(
        "role_grants",
        sa.Column("role", sa.String(63), sa.ForeignKey("roles.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    for table in ("operators", "tokens"):
        op.add_column(table, sa.Column("roles", sa.Text, nullable=False, server_default="[]"))
        # Names of roles need no escaping in JSON.
        op.execute(f"UPDATE {table} SET roles = '[\"' || role || '\"]' WHERE role IS NOT NULL")
        op.drop_column(table, "role")
