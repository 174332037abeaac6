"""The tables.  ``migrations/`` creates them; a test holds the two together.

Portable to PostgreSQL on purpose: no JSON type (the audit hashes the exact text), no
booleans in index conditions, 64-bit times and epochs, partial indexes both engines have.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

__all__ = [
    "audit",
    "catalogues",
    "device_facts",
    "device_labels",
    "devices",
    "flight",
    "keys",
    "meta",
    "metadata",
    "operator_keys",
    "operators",
    "pending_devices",
    "recordings",
    "role_grants",
    "roles",
    "ssh_ca_revocations",
    "ssh_cas",
    "token_keys",
    "token_uses",
    "tokens",
]

metadata = MetaData()

# An alias of SQLite's rowid: appending is then appending to the table's own tree.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

_ACTIVE = text("status = 'active'")

meta = Table(
    "meta",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("value", Text, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("name_provisional", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("last_seen", BigInteger),
    Column("last_address", Text),
    Column("agent_version", Text),
    Column("catalogue", Text),
    Column("boot_id", Text),
    Column("instance", Text),
    Column("dial", BigInteger, nullable=False),
    Column("link_generation", BigInteger, nullable=False),
    Column("facts", Text, nullable=False),
    Column("quarantined_at", BigInteger),
    Column("quarantine_reason", Text),
    # The full rule is access.names; this is the last line against a caller who forgot it.
    CheckConstraint(
        "length(name) BETWEEN 1 AND 63 AND name = lower(name) AND name <> 'console'",
        name="devices_name_rule",
    ),
    CheckConstraint("status IN ('active', 'revoked')", name="devices_status"),
    # Only active devices hold their names: a replaced device's name is used again.
    Index(
        "devices_active_name", "name", unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE
    ),
)

device_labels = Table(
    "device_labels",
    metadata,
    Column("device_id", String(36), ForeignKey("devices.id"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(253), nullable=False),
    # A selector's question is answered from it alone: which devices have that value.
    Index("device_labels_value", "key", "value", "device_id"),
)

operators = Table(
    "operators",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # A JSON array of names, sorted.
    Column("roles", Text, nullable=False, server_default="[]"),
    CheckConstraint("status IN ('active', 'revoked')", name="operators_status"),
)

# The built-in role admin has no row.
roles = Table(
    "roles",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String(63), nullable=False),
)

role_grants = Table(
    "role_grants",
    metadata,
    Column("role", String(63), ForeignKey("roles.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # A `Grant` as JSON: what it holds is asked for as a whole, never searched.
    Column("body", Text, nullable=False),
)

# What operators log in with at the SSH door; an operator who is revoked loses them.
operator_keys = Table(
    "operator_keys",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("operator", String(63), ForeignKey("operators.name"), nullable=False),
    Column("type", String(64), nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("comment", Text, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("last_used", BigInteger),
    Index("operator_keys_operator", "operator"),
)

# Whose certificates let operators in at the SSH door.
ssh_cas = Table(
    "ssh_cas",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("type", String(64), nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("comment", Text, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("last_used", BigInteger),
)

# By the CA's fingerprint and no foreign key: they outlive its row.
ssh_ca_revocations = Table(
    "ssh_ca_revocations",
    metadata,
    Column("ca", String(64), primary_key=True),
    Column("by", String(8), primary_key=True),
    Column("value", String(256), primary_key=True),
    Column("revoked_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("spki", LargeBinary(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("owner", String(63), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("not_after", BigInteger),
    Column("accepted_until", BigInteger),
    Column("comment", Text, nullable=False),
    CheckConstraint("length(spki) = 32", name="keys_spki_length"),
    CheckConstraint("kind IN ('device', 'operator')", name="keys_kind"),
    CheckConstraint("status IN ('active', 'retired', 'revoked')", name="keys_status"),
    Index("keys_owner", "kind", "owner"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", LargeBinary(8), primary_key=True),
    Column("secret_hash", LargeBinary(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("uses_max", Integer, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("name", String(63)),
    Column("name_pattern", String(63)),
    Column("labels", Text, nullable=False),
    Column("created_by", String(63), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("roles", Text, nullable=False, server_default="[]"),
    # What a use leads to: ``join`` at once, ``accept`` by an operator; or ``keys`` are known.
    Column("mode", String(8), nullable=False, server_default="join"),
    # A JSON array of ranges of addresses; empty: from anywhere.
    Column("sources", Text, nullable=False, server_default="[]"),
    CheckConstraint("uses BETWEEN 0 AND uses_max", name="tokens_uses"),
    CheckConstraint("kind IN ('device', 'operator')", name="tokens_kind"),
)

token_uses = Table(
    "token_uses",
    metadata,
    Column("token_id", LargeBinary(8), ForeignKey("tokens.id"), primary_key=True),
    Column("spki", LargeBinary(32), primary_key=True),
    Column("owner", String(63)),
    Column("used_at", BigInteger, nullable=False),
    Column("certificate", Text),
    # An operator named this very key, so the answer is repeated until the device was seen.
    Column("bound", Boolean, nullable=False, server_default=false()),
    Index("token_uses_spki", "spki"),
)

# Public keys of devices that may join by proving that they have them.
token_keys = Table(
    "token_keys",
    metadata,
    Column("spki", LargeBinary(32), primary_key=True),
    Column("token_id", LargeBinary(8), ForeignKey("tokens.id"), nullable=False),
    Column("name", String(63)),
    Column("added_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Index("token_keys_token", "token_id"),
)

# Devices that asked to join, until an operator decides; bounded by ``pending.py``.
pending_devices = Table(
    "pending_devices",
    metadata,
    Column("spki", LargeBinary(32), primary_key=True),
    Column("token_id", LargeBinary(8), ForeignKey("tokens.id"), nullable=False),
    Column("status", String(16), nullable=False),
    Column("name", String(63), nullable=False),
    Column("source", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("rejected_at", BigInteger),
    CheckConstraint("status IN ('waiting', 'rejected')", name="pending_devices_status"),
    Index("pending_devices_token", "token_id"),
    Index("pending_devices_source", "source"),
    Index("pending_devices_seen", "last_seen"),
)

catalogues = Table(
    "catalogues",
    metadata,
    Column("digest", String(128), primary_key=True),
    Column("body", Text, nullable=False),
)

# Append-only: triggers (see the migration) abort UPDATE and DELETE.
audit = Table(
    "audit",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(63), nullable=False),
    Column("opens", Integer, nullable=False),
    Column("refers", BigInteger, ForeignKey("audit.seq")),
    Column("operator", Text),
    Column("device", Text),
    Column("device_name", Text),
    Column("handler", Text),
    Column("login", Text),
    Column("session", Text),
    Column("attempt", BigInteger),
    Column("door", Text),
    Column("address", Text),
    Column("status", Text),
    Column("exit_code", BigInteger),
    Column("code", Text),
    Column("message", Text),
    Column("details", Text, nullable=False),
    Column("previous_hash", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    # One end for each opening row, whoever reports it and however often.
    Index("audit_refers", "refers", unique=True),
    Index("audit_device", "device"),
    Index("audit_device_name", "device_name"),
    Index("audit_operator", "operator"),
    Index("audit_session", "session"),
    Index("audit_at", "at"),
)

# What devices told of their links; bounded for each by ``flight.py``.
flight = Table(
    "flight",
    metadata,
    Column("device_id", String(36), ForeignKey("devices.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("placed", String(16), nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("target", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("seconds", Float),
    Column("details", Text, nullable=False),
)

# Recordings of terminals; the bytes are files.
recordings = Table(
    "recordings",
    metadata,
    Column("session", String(32), primary_key=True),
    Column("device", String(36), nullable=False),
    Column("device_name", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("handler", Text, nullable=False),
    Column("login", Text),
    Column("mode", String(8), nullable=False),
    Column("path", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("duration_ms", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Index("recordings_started", "started_at"),
    Index("recordings_device", "device"),
    Index("recordings_operator", "operator"),
)

# What devices told of themselves, bounded by ``facts.py``.
device_facts = Table(
    "device_facts",
    metadata,
    Column("device_id", String(36), ForeignKey("devices.id"), primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
