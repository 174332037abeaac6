"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ACTIVE = sa.text("status = 'active'")


def upgrade() -> None:
    """Create every table, the audit's triggers and the chain's first link."""
    _people_and_devices()
    _tokens()
    _audit()


def _people_and_devices() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.bulk_insert(meta, [{"key": "starts", "value": "0"}])
    op.bulk_insert(meta, [{"key": "audit_head", "value": "0:" + "00" * 32}])
    op.create_table(
        "devices",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("name_provisional", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger),
        sa.Column("last_address", sa.Text),
        sa.Column("agent_version", sa.Text),
        sa.Column("catalogue", sa.Text),
        sa.Column("boot_id", sa.Text),
        sa.Column("instance", sa.Text),
        sa.Column("dial", sa.BigInteger, nullable=False),
        sa.Column("link_generation", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.CheckConstraint(
            "length(name) BETWEEN 1 AND 63 AND name = lower(name) AND name <> 'console'",
            name="devices_name_rule",
        ),
        sa.CheckConstraint("status IN ('active', 'revoked')", name="devices_status"),
    )
    op.create_index(
        "devices_active_name",
        "devices",
        ["name"],
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    )
    op.create_table(
        "device_labels",
        sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(253), nullable=False),
    )
    op.create_table(
        "operators",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("role", sa.String(63), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("status IN ('active', 'revoked')", name="operators_status"),
    )
    op.create_table(
        "keys",
        sa.Column("spki", sa.LargeBinary(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger),
        sa.Column("accepted_until", sa.BigInteger),
        sa.Column("comment", sa.Text, nullable=False),
        sa.CheckConstraint("length(spki) = 32", name="keys_spki_length"),
        sa.CheckConstraint("kind IN ('device', 'operator')", name="keys_kind"),
        sa.CheckConstraint("status IN ('active', 'retired', 'revoked')", name="keys_status"),
    )
    op.create_index("keys_owner", "keys", ["kind", "owner"])
    op.create_table(
        "catalogues",
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.LargeBinary(8), primary_key=True),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("uses_max", sa.Integer, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(63)),
        sa.Column("name_pattern", sa.String(63)),
        sa.Column("role", sa.String(63)),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("created_by", sa.String(63), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.CheckConstraint("uses BETWEEN 0 AND uses_max", name="tokens_uses"),
        sa.CheckConstraint("kind IN ('device', 'operator')", name="tokens_kind"),
    )
    op.create_table(
        "token_uses",
        sa.Column("token_id", sa.LargeBinary(8), sa.ForeignKey("tokens.id"), primary_key=True),
        sa.Column("spki", sa.LargeBinary(32), primary_key=True),
        sa.Column("owner", sa.String(63)),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.Column("certificate", sa.Text),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("opens", sa.Integer, nullable=False),
        sa.Column("refers", sa.BigInteger, sa.ForeignKey("audit.seq")),
        sa.Column("operator", sa.Text),
        sa.Column("device", sa.Text),
        sa.Column("device_name", sa.Text),
        sa.Column("handler", sa.Text),
        sa.Column("login", sa.Text),
        sa.Column("session", sa.Text),
        sa.Column("attempt", sa.BigInteger),
        sa.Column("door", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("status", sa.Text),
        sa.Column("exit_code", sa.BigInteger),
        sa.Column("code", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_index("audit_refers", "audit", ["refers"], unique=True)
    for column in ("device", "device_name", "operator", "session", "at"):
        op.create_index(f"audit_{column}", "audit", [column])
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
