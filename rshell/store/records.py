"""The records callers exchange with the store; frozen, and free of SQL.

Times are microseconds since 1970 UTC.  ``None`` means "not known" or "never".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

import attrs

__all__ = [
    "AuditEnd",
    "AuditFilter",
    "AuditRecord",
    "AuditRow",
    "AuditVerdict",
    "Device",
    "DeviceKey",
    "Grant",
    "InviteMode",
    "Key",
    "NewToken",
    "Operator",
    "OperatorKey",
    "OwnerKind",
    "Refusal",
    "RegisteredSshKey",
    "Role",
    "SshCa",
    "SshKey",
    "Token",
    "TokenGrant",
    "TokenRefused",
]

OwnerKind = Literal["device", "operator"]
#: What a use of an invite leads to: a device at once, one that waits for an operator to accept it;
#: or the invite has no secret, and names keys.
InviteMode = Literal["join", "accept", "keys"]


@attrs.frozen(kw_only=True)
class Device:
    """One managed machine, as last recorded.

    Attributes:
        id: UUID text, given by the gateway, never reused.
        name_provisional: the device proposed the name outside its invite's pattern; no
            role may match it until an operator accepts it by ``rename``.
        status: ``active`` or ``revoked``; a revoked device's name is free again.
        facts: what the device says of itself; never used in a policy.
        epoch: of the newest link that was recorded.
        instance, dial: of that link's HELLO.
        link_generation: the highest one the device has presented (rule H4).
        catalogue: digest of its handlers' catalogue.
        quarantined_at: since when it is refused, as a suspected clone, until it is released.
    """

    id: str
    name: str
    name_provisional: bool
    status: str
    labels: Mapping[str, str]
    created_at: int
    epoch: int = 0
    last_seen: int | None = None
    last_address: str | None = None
    agent_version: str | None = None
    catalogue: str | None = None
    boot_id: str | None = None
    instance: str | None = None
    dial: int = 0
    link_generation: int = 0
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    quarantined_at: int | None = None
    quarantine_reason: str | None = None

    @property
    def active(self) -> bool:
        """Whether the device may connect at all."""
        return self.status == "active"


@attrs.frozen(kw_only=True)
class Operator:
    """A person or program allowed in.

    Attributes:
        roles: names, sorted; what they grant adds up.
    """

    name: str
    roles: tuple[str, ...]
    status: str
    created_at: int

    @property
    def active(self) -> bool:
        """Whether the operator may do anything at all."""
        return self.status == "active"


@attrs.frozen(kw_only=True)
class Grant:
    """A part of a role: on these devices, these handlers, as these logins.

    Attributes:
        select: a selector of names and labels; ``*`` is every device.
        handlers: names; ``*`` is every handler but ``forward``.
        logins: accounts on the device besides its default login; ``*`` is any.
        forward: targets that ``forward`` may connect to.
        forward_back: places where ``forward`` may listen on the device.
        watch: looking on at other operators' sessions there.
        idle_limit: seconds after which a terminal that nobody types at ends; 0 is no limit.
        time_limit: seconds after which any session ends; 0 is no limit.
        record: how much of its sessions is recorded, ``output``, ``input`` or ``off``; None is what
            the gateway's configuration says.
        admin: everything but the console, whatever else the grant says.
        console: everything.
    """

    select: str = "*"
    handlers: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    forward_back: tuple[str, ...] = ()
    watch: bool = False
    idle_limit: int = 0
    time_limit: int = 0
    record: str | None = None
    admin: bool = False
    console: bool = False


@attrs.frozen(kw_only=True)
class Role:
    """A named set of grants, which add up.

    Attributes:
        changed_by: an operator's name.
    """

    name: str
    grants: tuple[Grant, ...]
    changed_at: int
    changed_by: str


@attrs.frozen(kw_only=True)
class Key:
    """A registered public key; *spki* is the SHA-256 of its SubjectPublicKeyInfo.

    Attributes:
        status: ``active``; ``retired`` (renewed, good until *accepted_until*); ``revoked``.
        not_after: end of the newest certificate for it, if known.
    """

    spki: bytes
    kind: OwnerKind
    owner: str
    status: str
    created_at: int
    not_after: int | None = None
    accepted_until: int | None = None
    comment: str = ""

    def refusal(self, now: int) -> str | None:
        """Return why this key may not be used at *now*: ``revoked``, ``retired`` or None."""
        if self.status == "active":
            return None
        if self.status != "retired":
            return "revoked"
        return None if now < (self.accepted_until or 0) else "retired"


@attrs.frozen(kw_only=True)
class DeviceKey:
    """What admission needs to know about a device's key."""

    key: Key
    device: Device

    def refusal(self, now: int) -> str | None:
        """Return why the device may not connect: ``revoked``, ``retired`` or None."""
        return self.key.refusal(now) if self.device.active else "revoked"


@attrs.frozen(kw_only=True)
class OperatorKey:
    """What a door needs to know about an operator's key."""

    key: Key
    operator: Operator

    def refusal(self, now: int) -> str | None:
        """Return why the operator may not enter: ``revoked``, ``retired`` or None."""
        return self.key.refusal(now) if self.operator.active else "revoked"


@attrs.frozen(kw_only=True)
class RegisteredSshKey:
    """An SSH public key that was registered.

    Attributes:
        fingerprint: ``SHA256:...``, as ``ssh-keygen -l`` shows it.
        blob: the key as it is on the wire.
        comment: what its file said; not to be trusted.
        added_at, last_used: microseconds UTC.
    """

    fingerprint: str
    type: str
    blob: bytes
    comment: str
    added_at: int
    last_used: int | None = None


@attrs.frozen(kw_only=True)
class SshKey(RegisteredSshKey):
    """A public key that an operator logs in with at the SSH door."""

    operator: str


@attrs.frozen(kw_only=True)
class SshCa(RegisteredSshKey):
    """A key whose certificates let operators in there."""

    name: str


@attrs.frozen(kw_only=True)
class NewToken:
    """An invite to be kept: the secret itself is never given to the store.

    Attributes:
        id: 8 random bytes.
        secret_hash: SHA-256 of the secret.
        name: the device's name, fixed by the invite, or the operator's name.
        name_pattern: glob of the names a device may choose for itself.
        labels: set on every device that joins with it.
        mode: what a use leads to.
        sources: ranges of addresses that it may be used from; none: any.
    """

    id: bytes
    secret_hash: bytes = attrs.field(repr=False)
    kind: OwnerKind
    expires_at: int
    created_by: str
    uses_max: int = 1
    name: str | None = None
    name_pattern: str | None = None
    roles: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    mode: InviteMode = "join"
    sources: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Token:
    """An invite as listings show it.

    Attributes:
        public: its join string holds no secret.
        waiting: how many devices wait to be accepted.
    """

    id: bytes
    kind: OwnerKind
    expires_at: int
    created_by: str
    created_at: int
    uses_max: int
    uses: int
    revoked: bool
    name: str | None
    name_pattern: str | None
    roles: tuple[str, ...]
    labels: Mapping[str, str]
    mode: InviteMode
    sources: tuple[str, ...]
    public: bool
    waiting: int


@attrs.frozen(kw_only=True)
class TokenGrant:
    """A use of an invite, bound to one key.

    Attributes:
        spki: the key it was granted to.
        owner: the device id or operator name already enrolled by this very use, if any.
        certificate: the PEM already issued by this very use, if any: answer with it.
        bound: an operator named this very key, by accepting it or before.
    """

    token_id: bytes
    spki: bytes
    kind: OwnerKind
    created_by: str
    name: str | None = None
    name_pattern: str | None = None
    roles: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    owner: str | None = None
    certificate: str | None = None
    bound: bool = False


class Refusal(StrEnum):
    """Why an invite was refused: for the audit only, the peer gets one text for all."""

    UNKNOWN = "unknown"
    MISMATCH = "wrong-secret"
    WRONG_KIND = "wrong-kind"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLAY = "replay"  # used up, and by another key
    TOO_LATE = "too-late"  # the same key, but after the window for lost replies
    KEY_KNOWN = "key-known"  # the key is registered already, by another invite
    WRONG_SOURCE = "wrong-source"  # the address is in none of the invite's ranges
    REJECTED = "rejected"  # an operator rejected this key a while ago
    FULL = "full"  # too many wait: in all, of this invite, or from this address


@attrs.frozen(kw_only=True)
class TokenRefused:
    """The invite does not hold; *reason* never leaves the gateway."""

    reason: Refusal


@attrs.frozen(kw_only=True)
class AuditRecord:
    """Something that happens or is about to happen, to be written to the audit log.

    Attributes:
        kind: dotted name, ``session``, ``device.enrol``, ``token.replay``, ...
        opens: an end will be written for it (``Store.finish_audit``); without one it is
            found by ``Store.unfinished_audit``.
        device: the device's id; *device_name* is its name at that time.
        session: hex of the session's 16 bytes.
        status, exit_code, code, message: the outcome, where it is known at once.
        details: anything else, as JSON; at most 64 KiB.
        once: left out if the log has a row with the same session, kind and code: whoever tells it
            may not know that it was told.
    """

    kind: str
    opens: bool = False
    operator: str | None = None
    device: str | None = None
    device_name: str | None = None
    handler: str | None = None
    login: str | None = None
    session: str | None = None
    attempt: int | None = None
    door: str | None = None
    address: str | None = None
    status: str | None = None
    exit_code: int | None = None
    code: str | None = None
    message: str | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict)
    once: bool = False


@attrs.frozen(kw_only=True)
class AuditEnd:
    """The end of what the row *refers* opened."""

    refers: int
    status: str
    exit_code: int | None = None
    code: str | None = None
    message: str | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AuditRow:
    """A committed row.  A row with *refers* is the end of that row, and repeats its who."""

    seq: int
    at: int
    record: AuditRecord
    refers: int | None
    hash: bytes
    previous_hash: bytes = bytes(32)


@attrs.frozen(kw_only=True)
class AuditFilter:
    """Which rows of the audit log; None is any.

    Attributes:
        device: id, or name as it was at the time.
        kind: itself and what is below it: ``device`` is also ``device.enrol``.
        since: microseconds UTC, inclusive; *until* is exclusive.
        session: hex.
        file: a pattern as in a shell: only rows that tell of a file with such a path; ``*`` also
            matches slashes.
    """

    operator: str | None = None
    device: str | None = None
    handler: str | None = None
    kind: str | None = None
    status: str | None = None
    session: str | None = None
    since: int | None = None
    until: int | None = None
    file: str | None = None


@attrs.frozen(kw_only=True)
class AuditVerdict:
    """What checking the chain found.

    Attributes:
        rows: how many rows were sound, counted from the first.
        broken_at: the first sequence number that is not, or None.
        reason: one line, empty if all is sound.
        checkpoints: how many signatures hold.
        signed: the number of the last row that one of them covers.
        head: hash of the last sound row.
    """

    rows: int
    broken_at: int | None = None
    reason: str = ""
    checkpoints: int = 0
    signed: int = 0
    head: bytes = bytes(32)

    @property
    def sound(self) -> bool:
        """Whether no edit, removal or insertion was found."""
        return self.broken_at is None
