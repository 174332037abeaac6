"""The typed JSON payloads of control frames (sections 4 to 11 of docs/protocol.md).

`decode` is the only way from bytes to a message: it checks size, types, ranges and, outside HELLO
and WELCOME, that no key is unknown (rule W7).  Byte fields are base64 in JSON.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from rshell.link.core.constants import MAX_DEPTH, MAX_OFFSET, MAX_PAYLOAD
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

__all__ = [
    "Advice",
    "Clock",
    "Event",
    "GoAway",
    "Hello",
    "Join",
    "Joined",
    "Notice",
    "Open",
    "Opened",
    "Outcome",
    "PolicyState",
    "Positions",
    "Refused",
    "Reset",
    "RevokedGateways",
    "SessionReport",
    "Sessions",
    "VersionRange",
    "Welcome",
    "decode",
    "decode_event",
    "encode",
    "encode_event",
]

Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, le=2**31)]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Sixteen = Annotated[bytes, Meta(min_length=16, max_length=16)]
HandlerName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9.-]{0,63}\Z")]
Address = Annotated[str, Meta(max_length=270)]


class VersionRange(Struct, frozen=True):
    """Protocol versions spoken, both ends included."""

    min: Annotated[int, Meta(ge=1, le=65535)]
    max: Annotated[int, Meta(ge=1, le=65535)]


class Clock(Struct, frozen=True):
    """A dialler's clocks, in milliseconds; for display, never for decisions."""

    wall_ms: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    monotonic_ms: Offset
    trusted: bool = True


class PolicyState(Struct, frozen=True):
    """The state of a device's local policy: its digest, and what is wrong with it."""

    digest: Word = ""
    error: Text | None = None


class Hello(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The dialler's first frame (section 4)."""

    protocol: VersionRange
    software: Word
    instance: Sixteen
    dial: Annotated[int, Meta(ge=1, le=MAX_OFFSET)]
    features: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=64)]
    max_streams: Count
    window: Count
    clock: Clock | None = None
    boot_id: Word = ""
    link_generation: Offset = 0
    catalogue: Word = ""
    policy: PolicyState | None = None
    facts: Annotated[dict[Word, Text], Meta(max_length=32)] = msgspec.field(default_factory=dict)
    problems: Annotated[list[Text], Meta(max_length=16)] = msgspec.field(default_factory=list)


class RevokedGateways(Struct, frozen=True):
    """Gateway keys that no dialler may trust any more, signed by the fleet's root."""

    number: Offset
    keys: Annotated[list[Word], Meta(max_length=100)]
    signature: Annotated[bytes, Meta(max_length=600)]


class Welcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The gateway's first frame (section 4)."""

    protocol: Annotated[int, Meta(ge=1, le=65535)]
    software: Word
    features: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=64)]
    name: Word
    time_ms: Offset
    heartbeat_ms: Annotated[int, Meta(ge=1000, le=3_600_000)]
    max_streams: Count
    window: Count
    epoch: Offset = 0
    retry_spread_ms: Count = 0
    link_generation: Offset = 0
    renew_only: bool = False
    revoked_gateways: RevokedGateways | None = None


class GoAway(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The end of a link, with what to do next."""

    code: Word
    message: Text = ""
    last_stream: Count = 0
    retry_min_ms: Count = 0
    retry_spread_ms: Count = 0
    alternatives: Annotated[list[Address], Meta(max_length=16)] = msgspec.field(
        default_factory=list
    )


class Advice(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a WELCOME told, as it is now (rule L4); the list only to a peer that has its feature."""

    retry_spread_ms: Count
    revoked_gateways: RevokedGateways | None = None


class Positions(Struct, frozen=True, forbid_unknown_fields=True):
    """What one end of a stream has taken: offsets in bytes, and the last event seen (rule R2)."""

    consumed: Offset
    limit: Offset
    events: Offset


class Open(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request for a stream (section 5)."""

    handler: HandlerName
    session: Sixteen
    attempt: Annotated[int, Meta(ge=1, le=2**31)] = 1
    age_ms: Offset = 0
    device: Word | None = None
    login: Word | None = None
    operator: Word | None = None
    request: dict[str, Any] = msgspec.field(default_factory=dict)
    limit: Offset = 0
    resume: Positions | None = None
    view: bool = False
    timeout_ms: Annotated[int, Meta(ge=1, le=2**40)] | None = None

    @property
    def start(self) -> Positions:
        """The opener's positions, whether it resumes or begins."""
        return self.resume or Positions(0, self.limit, 0)

    def starting(self, start: Positions, *, resuming: bool) -> Open:
        """Return this request with other positions."""
        if resuming:
            return msgspec.structs.replace(self, resume=start, limit=0)
        return msgspec.structs.replace(self, limit=start.limit, resume=None)


class Opened(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The answering end's positions, and what its ring lost or repeats (rules R5 and R8)."""

    consumed: Offset
    limit: Offset
    events: Offset
    gap: Offset = 0
    replay: Offset = 0


class Refused(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a stream was not opened."""

    code: Word
    message: Text = ""


class Reset(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a stream ended at once, in both directions."""

    code: Word
    message: Text = ""


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a handler ended (rule E2).

    ``ok`` is success; ``exit`` a process's status other than 0; ``signal`` its end by a signal.
    """

    status: Word
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    signal: Word | None = None
    code: Word | None = None
    message: Annotated[str, Meta(max_length=1024)] | None = None
    result: Any = None


class SessionReport(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One session that lives, or ended unheard, on a device (rule S1)."""

    session: Sixteen
    operator: Word
    handler: Word
    login: Word = ""
    state: Word = "running"
    age_ms: Offset = 0
    ended_ms: Offset = 0
    attached: bool = False
    attempt: Annotated[int, Meta(ge=0, le=2**31)] = 0
    detached_ms: Offset = 0
    outcome: Outcome | None = None


class Notice(Struct, frozen=True, forbid_unknown_fields=True):
    """What the gateway tells the operator's end of a session, for a person to read (rule S4)."""

    session: Sixteen
    code: Word
    message: Text


class Sessions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The agent's list (``sessions``), or the gateway's answer (``end``, ``acknowledged``).

    ``notices`` go to operators whose HELLO has the feature of that name, and to nobody else.
    """

    sessions: list[SessionReport] = msgspec.field(default_factory=list)
    more: bool = False
    end: list[Sixteen] = msgspec.field(default_factory=list)
    acknowledged: list[Sixteen] = msgspec.field(default_factory=list)
    notices: Annotated[list[Notice], Meta(max_length=16)] = msgspec.field(default_factory=list)


#: Of id and secret, in bytes: of a join string with a secret, and of the two public ones.
_JOIN_LENGTHS: Final = ((8, 20), (8, 0), (0, 0))


class Join(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A joiner's one request (rule J2).  Its repr shows no secret.

    With a public join string the secret is empty, and perhaps the id too (rule J1).
    """

    kind: Word
    id: Annotated[bytes, Meta(max_length=8)]
    secret: Annotated[bytes, Meta(max_length=20)]
    csr: Annotated[bytes, Meta(max_length=4096)]
    name: Word | None = None
    facts: Annotated[dict[Word, Text], Meta(max_length=32)] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (len(self.id), len(self.secret)) not in _JOIN_LENGTHS:
            raise ValueError("a JOIN has an id of 8 bytes and a secret of 20, or none")

    def __repr__(self) -> str:
        return f"Join(kind={self.kind!r}, id={self.id.hex()}, name={self.name!r})"


class Joined(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to a join: certificates as PEM, and where to dial from now on (rule J3)."""

    chain: Annotated[str, Meta(max_length=12_000)]
    root: Annotated[str, Meta(max_length=4_000)]
    fleet: Word
    id: Word
    name: Word
    gateways: Annotated[list[Address], Meta(max_length=16)]
    time_ms: Offset


class Event(Struct, frozen=True):
    """A numbered event of a stream; ``body`` holds the keys that its kind brings (section 7)."""

    seq: int
    at: int
    kind: str
    body: dict[str, Any] = msgspec.field(default_factory=dict)


Message = TypeVar("Message", bound=Struct)
_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[type[Struct], msgspec.json.Decoder[Any]]] = {}
#: Strings are matched whole, so that a bracket in one does not count.
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]')
_ANY_MAP: Final = msgspec.json.Decoder(dict[str, Any])


def encode(message: Struct) -> bytes:
    """Return the JSON payload of a control message.

    Raises:
        LocalProtocolError: It does not fit into one frame; the text is fit for a user.
    """
    payload = _ENCODER.encode(message)
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(
            f"{type(message).__name__.lower()} is {len(payload):,} bytes long; "
            f"a control message holds at most {MAX_PAYLOAD:,}"
        )
    return payload


def decode(payload: bytes, kind: type[Message]) -> Message:
    """Return the message that ``payload`` holds.

    Raises:
        RemoteProtocolError: It is not JSON, or not of that shape.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    _check_depth(payload)
    try:
        message: Message = decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RemoteProtocolError(
            ErrorCode.PROTOCOL, f"{kind.__name__.upper()} is malformed: {_reason(error)}"
        ) from None
    return message


def encode_event(seq: int, at: int, kind: str, body: dict[str, Any]) -> bytes:
    """Return the payload of an EVENT frame.

    Raises:
        LocalProtocolError: It does not fit into one frame.
    """
    payload = _ENCODER.encode({"seq": seq, "at": at, "kind": kind, **body})
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"an event of {len(payload):,} bytes; at most {MAX_PAYLOAD:,}")
    return payload


def decode_event(payload: bytes) -> Event:
    """Return the event in an EVENT payload; its body is not judged here (rule E1).

    Raises:
        RemoteProtocolError: It is no map with a sane ``seq``, ``at`` and ``kind``.
    """
    _check_depth(payload)
    try:
        body = _ANY_MAP.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RemoteProtocolError(
            ErrorCode.PROTOCOL, f"EVENT is malformed: {_reason(error)}"
        ) from None
    seq, at, kind = body.pop("seq", None), body.pop("at", None), body.pop("kind", None)
    if (
        type(seq) is not int
        or type(at) is not int
        or not isinstance(kind, str)
        or not 1 <= seq <= MAX_OFFSET
        or not 0 <= at <= MAX_OFFSET
        or len(kind) > 64
    ):
        raise RemoteProtocolError(ErrorCode.PROTOCOL, "EVENT without a proper seq, at and kind")
    return Event(seq, at, kind, body)


def _check_depth(payload: bytes) -> None:
    """Refuse what is nested too deep (rule W6), before anything recurses into it."""
    if payload.count(b"{") + payload.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for token in _BRACKETS.finditer(payload):
        mark = token[0]
        depth += (mark in b"{[") - (mark in b"}]")
        if depth > MAX_DEPTH:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"JSON nested more than {MAX_DEPTH} deep")


def _reason(error: Exception) -> str:
    """Describe a decoding error in one short line that quotes nothing of the payload."""
    text = str(error) if isinstance(error, msgspec.ValidationError) else "not valid JSON"
    if "unknown field" in text:
        text = "an unknown field"
    return "".join(c if c.isprintable() else "?" for c in text)[:160]
