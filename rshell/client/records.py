"""What the gateway's own verbs answer, typed.

Unknown keys are ignored, so a newer gateway may say more than this client knows.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from rshell.handlers import Outcome

__all__ = [
    "AuditRow",
    "AuditVerdict",
    "Device",
    "DeviceFacts",
    "Doors",
    "Grant",
    "GrantCheck",
    "Handler",
    "LinkRecord",
    "OperatorInfo",
    "Probe",
    "Recording",
    "Role",
    "RoleCheck",
    "SessionInfo",
    "SshDoor",
    "SshKey",
    "Whoami",
    "WholeAuditRow",
]


class Device(Struct, frozen=True, kw_only=True):
    """A device as listings show it; times are RFC 3339, UTC.

    Names, facts and errors come from the device: show them through
    `rshell.access.printable.printable` only.

    ``name_provisional``: the device proposed its name, and no operator accepted it yet.
    ``silent_ms``: how long nothing has come from it, while it has a link.
    ``quarantined``: since when it is kept out, as a suspected clone.  ``alerts``: what is suspected
    of it, a line each.  ``problems``: plug-ins on it that cannot be used, a line each.
    """

    id: str
    name: str
    name_provisional: bool = False
    state: str = "never"
    labels: dict[str, str] = field(default_factory=dict)
    gateway: str | None = None
    epoch: int | None = None
    address: str | None = None
    connected_at: str | None = None
    last_seen: str | None = None
    agent_version: str | None = None
    handlers: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    policy_error: str | None = None
    problems: list[str] = field(default_factory=list)
    silent_ms: int | None = None
    revoked: bool = False
    quarantined: str | None = None
    alerts: list[str] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Whether a session can be opened: ``suspect`` still has its link."""
        return self.state in ("live", "suspect")


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """What a device says of itself (docs/facts.md); ``received_at`` is when the gateway got it.

    All of it is the device's word: show it through `rshell.access.printable.printable` only, and
    decide nothing by it.
    """

    device: str
    state: str = "never"
    received_at: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Handler(Struct, frozen=True, kw_only=True):
    """A handler as the catalogue describes it.

    ``schema``, ``result`` and ``events`` (by kind) are JSON schemas, of the request and of what is
    answered.  ``allowed`` is false for one that the device has and its policy does not name.
    """

    name: str
    summary: str = ""
    schema: dict[str, Any] = field(default_factory=dict)
    priority: str = "normal"
    allowed: bool = True
    result: dict[str, Any] | None = None
    events: dict[str, dict[str, Any]] = field(default_factory=dict)


class AuditRow(Struct, frozen=True, kw_only=True):
    """One row of the audit log.

    ``refers`` is the ``seq`` of the row whose end this one tells.  ``summary`` is what was asked
    for: a command line, the target of a revocation.  ``rule`` is what granted it: ``ROLE/NUMBER``.
    ``files`` are what the device says that the session touched, if they were asked for, and
    ``left_out`` how many more, by operation.
    """

    seq: int
    at: str
    kind: str
    operator: str | None = None
    device: str | None = None
    handler: str | None = None
    login: str | None = None
    session: str | None = None
    status: str | None = None
    exit_code: int | None = None
    code: str | None = None
    message: str | None = None
    door: str | None = None
    address: str | None = None
    refers: int | None = None
    attempt: int | None = None
    device_id: str | None = None
    summary: str | None = None
    rule: str | None = None
    files: list[dict[str, Any]] | None = None
    left_out: dict[str, int] | None = None


class WholeAuditRow(AuditRow, frozen=True, kw_only=True):
    """A row with all that its hash covers: enough to check the chain without a gateway.

    ``hash`` is SHA-256 of ``previous_hash`` and the JSON array of: seq, at_us, kind, opens (0 or
    1), refers, operator, device_id, device_name, handler, login, session, attempt, door, address,
    status, exit_code, code, message, and details as compact JSON text with sorted keys.
    """

    at_us: int
    opens: bool
    previous_hash: str
    hash: str
    device_name: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


class AuditVerdict(Struct, frozen=True, kw_only=True):
    """What checking the audit log found.

    ``rows`` were sound, counted from the first; ``broken_at`` is the first that is not, and
    ``reason`` why.  ``checkpoints`` signatures hold, and cover all up to the row ``signed``.
    ``head`` names the last sound row, to be noted and compared with later.
    """

    sound: bool
    rows: int
    broken_at: int | None = None
    reason: str = ""
    checkpoints: int = 0
    signed: int = 0
    head: str = ""


class Recording(Struct, frozen=True, kw_only=True):
    """A recorded terminal session.

    ``session`` names it.  ``mode`` is ``output`` or ``input`` (what was typed too); ``size`` is of
    the recording as text, ``stored`` of its file, in bytes; ``status`` is ``open`` (it may still
    grow), ``complete``, ``interrupted`` (how the session ended was never told) or ``failed``
    (something is missing, and a marker in it says where).
    """

    session: str
    device: str
    operator: str
    handler: str
    mode: str
    started_at: str
    status: str
    duration_ms: int = 0
    size: int = 0
    stored: int = 0
    device_id: str | None = None
    login: str | None = None
    ended_at: str | None = None


class Whoami(Struct, frozen=True, kw_only=True):
    """An operator as the gateway knows it; ``admin``: may everything."""

    name: str
    roles: list[str] = field(default_factory=list)
    admin: bool = False


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a role grants: on devices, handlers, as logins; or everything.

    ``select`` is a selector of names and labels.  ``handlers`` and ``logins`` may be ``*``;
    without ``logins`` only a device's default login may be used.  ``forward`` and ``forward_back``
    are targets as in a device's policy, ``*`` for whatever that allows.  ``watch``: looking on at
    others' sessions.  ``idle_limit`` and ``time_limit`` are seconds, 0 for none; ``record`` is
    ``output``, ``input``, ``off``, or None for what the gateway's configuration says.
    """

    select: str = "*"
    handlers: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    forward_back: list[str] = field(default_factory=list)
    watch: bool = False
    idle_limit: int = 0
    time_limit: int = 0
    record: str | None = None
    admin: bool = False
    console: bool = False


class Role(Struct, frozen=True, kw_only=True):
    """A role: its grants add up.  ``operators`` is how many have it.

    ``unknown_handlers``: named in a grant just made, but no device has told of them.
    """

    name: str
    grants: list[Grant] = field(default_factory=list)
    built_in: bool = False
    operators: int = 0
    changed_at: str | None = None
    changed_by: str | None = None
    unknown_handlers: list[str] = field(default_factory=list)


class GrantCheck(Struct, frozen=True, kw_only=True):
    """A grant beside what was asked; ``missing`` is empty if it grants that."""

    rule: str
    grant: str
    missing: list[str] = field(default_factory=list)


class SessionTerms(Struct, frozen=True, kw_only=True):
    """What holds for a session that roles grant.

    Limits are seconds, 0 for none; ``recorded`` is ``output``, ``input`` or ``off`` and concerns
    what has a terminal.  Each ``…_rule`` is the grant it comes from, None for the configuration.
    """

    idle_limit: int = 0
    time_limit: int = 0
    recorded: str = "off"
    idle_rule: str | None = None
    time_rule: str | None = None
    record_rule: str | None = None


class RoleCheck(Struct, frozen=True, kw_only=True):
    """Whether an operator may do something, by which rule, and every grant that was looked at.

    ``terms`` is what holds for such a session, None if it is not allowed; ``watch_rule`` is what
    lets the operator look on at others' sessions on the device, if anything does.
    """

    operator: str
    device: str
    handler: str
    allowed: bool
    reason: str
    login: str | None = None
    rule: str | None = None
    roles: list[str] = field(default_factory=list)
    grants: list[GrantCheck] = field(default_factory=list)
    terms: SessionTerms | None = None
    watch_rule: str | None = None


class OperatorInfo(Struct, frozen=True, kw_only=True):
    """An operator as listings show it; ``links`` is how many there are now."""

    name: str
    status: str = "active"
    roles: list[str] = field(default_factory=list)
    admin: bool = False
    links: int = 0
    last_seen: str | None = None
    created_at: str | None = None


class Watcher(Struct, frozen=True, kw_only=True):
    """Somebody who looks on at a session, and through which door, from where."""

    operator: str
    door: str = ""
    address: str = ""


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A session that lives on a device, or ended there unheard.

    ``session`` is its id in hexadecimal.  ``state`` is ``attached``, ``parked`` (somebody waits for
    its device), ``detached`` (nobody drives it) or ``finished``; ``device_state`` tells whether the
    device is there: as of ``lost`` ones, this is what was known last.  ``attempt`` is how often it
    was opened, ``outcome`` how it ended.

    ``door`` and ``address`` are those of who drives it, or did last; ``driver`` who that is now,
    which may be another than ``operator``, whose session it is.  ``idle_ms`` is for how long nobody
    typed, or nothing passed where there is nothing to type at; None if nobody is attached.
    ``terminal``: whether it has one, None if that is not known.  ``bytes_in`` came from the
    operator.  ``recorded`` is ``output`` or ``input`` while it is.  ``watchers`` look on.
    """

    session: str
    device: str
    handler: str
    state: str
    device_id: str | None = None
    device_state: str = "live"
    operator: str = ""
    login: str | None = None
    started_at: str | None = None
    age_ms: int = 0
    detached_ms: int = 0
    attempt: int = 1
    viewers: int = 0
    outcome: Outcome | None = None
    door: str | None = None
    address: str | None = None
    driver: str | None = None
    terminal: bool | None = None
    idle_ms: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    recorded: str | None = None
    watchers: list[Watcher] = field(default_factory=list)


class Probe(Struct, frozen=True, kw_only=True):
    """A device's answer, or silence, when it was asked for a sign of life.

    ``silent_ms`` is how long nothing had come from it before, ``waited_ms`` how long the gateway
    waited; ``message`` says what is known if it did not answer.
    """

    device: str
    state: str
    alive: bool
    rtt_ms: float | None = None
    silent_ms: int | None = None
    epoch: int | None = None
    address: str | None = None
    waited_ms: int = 0
    message: str | None = None


class LinkRecord(Struct, frozen=True, kw_only=True):
    """One thing that happened to a device's link.

    ``source`` is who tells: ``agent`` or ``gateway``; ``seconds`` how long it lasted.
    """

    at: str
    source: str
    kind: str
    message: str = ""
    seconds: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


class SshKey(Struct, frozen=True, kw_only=True):
    """A public key that an operator logs in with at the SSH door; times are RFC 3339, UTC."""

    operator: str
    fingerprint: str
    type: str = ""
    comment: str = ""
    added_at: str = ""
    last_used: str | None = None


class SshDoor(Struct, frozen=True, kw_only=True):
    """Where the gateway's SSH door is dialled, and by which host keys it is known.

    ``host_keys`` are ``TYPE BASE64`` each, as in ``known_hosts`` behind the names.
    """

    host: str
    port: int
    host_keys: list[str] = field(default_factory=list)


class Doors(Struct, frozen=True, kw_only=True):
    """The gateway's doors that other programs of an operator use; None for one that is closed."""

    ssh: SshDoor | None = None
