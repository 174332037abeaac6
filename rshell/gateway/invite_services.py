"""``gateway.invite``, ``gateway.invite-keys``, ``gateway.invites``: who may join, on what terms.

An invite is one machine's, or a site's: one that says how many, how names look or where from, but
not who.  Devices that join by a site's wait until an operator accepts them, unless it says
otherwise: a string that many hold gets around.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.access.labels import BadLabel, parse_label
from rshell.access.names import BadName, check_name
from rshell.access.printable import printable
from rshell.gateway.long_answers import LongAnswer, in_slices
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.identity.join_string import JoinString, new_token, token_hash
from rshell.identity.keys import fingerprint, read_fingerprint
from rshell.identity.names import BadPeerName, PeerName
from rshell.identity.sources import MAX_SOURCES, BadSource, check_source
from rshell.store.errors import NotFound
from rshell.store.pending_records import KnownKey
from rshell.store.records import InviteMode, NewToken, Token
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["revoke_invite"]

#: A join string with a secret, or one that strangers may ask by, must not lie about for longer.
MAX_TTL_SECONDS = 30 * 86_400
#: A key of a device that lies in a store is no secret.
MAX_KEYS_TTL_SECONDS = 400 * 86_400
MAX_USES = 100_000
#: Keys of one request: what fits into a control frame.
MAX_KEYS_AT_ONCE = 100

_PATTERN = re.compile(r"[a-z0-9*?\[\]!-]{1,63}", re.ASCII)

Name = Annotated[str, Meta(max_length=64)]
Short = Annotated[str, Meta(max_length=256)]


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A public key by its SHA-256, and what its device will be called."""

    spki: Annotated[bytes, Meta(min_length=32, max_length=32)]
    name: Name | None = None


Keys = Annotated[list[KeyEntry], Meta(max_length=MAX_KEYS_AT_ONCE)]


class InviteRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to invite, on what terms, for how long.

    ``pattern`` is a glob of names; ``sources`` are ranges of addresses; ``keys`` are of devices
    that join by proving that they have one.  ``public``: the join string holds no secret.
    ``wait``: whether devices wait to be accepted; by default those of a site do.
    """

    kind: Annotated[str, Meta(pattern=r"^(device|operator)\Z")]
    name: Name | None = None
    roles: Annotated[list[Name], Meta(max_length=64)] = msgspec.field(default_factory=list)
    labels: Annotated[dict[Name, Short], Meta(max_length=64)] = msgspec.field(default_factory=dict)
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_KEYS_TTL_SECONDS)] = 3600
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)] = 1
    pattern: Name | None = None
    sources: Annotated[list[Name], Meta(max_length=MAX_SOURCES)] = msgspec.field(
        default_factory=list
    )
    keys: Keys = msgspec.field(default_factory=list)
    public: bool = False
    wait: bool | None = None


class InviteKeysRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """More keys for an invite, by its id in hexadecimal."""

    invite: Name
    keys: Keys


class InvitesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which invites: those that still hold, or all; or one with its keys."""

    all: bool = False
    invite: Name | None = None


@verb("gateway.invite", InviteRequest, changes=True)
async def invite(gateway: Gateway, asker: Asker, request: InviteRequest) -> Any:
    """Make a join string for a device or an operator."""
    if request.kind == "device":
        _check_device_invite(request)
    else:
        _check_operator_invite(gateway, request)
    token_id, secret = new_token()
    mode = _mode(request)
    expires = gateway.now_us() + request.ttl_s * 1_000_000
    token = NewToken(
        id=token_id,
        # Of keys the secret is never told: nobody joins by this id.
        secret_hash=token_hash(b"" if request.public else secret),
        kind="device" if request.kind == "device" else "operator",
        expires_at=expires,
        created_by=asker.name,
        uses_max=request.uses,
        name=request.name,
        name_pattern=request.pattern,
        roles=tuple(request.roles),
        labels=request.labels,
        mode=mode,
        sources=_sources(request),
    )
    await gateway.store.add_token(token, _known(request.keys))
    if request.kind == "operator" and request.name:
        gateway.revocation.readmit("operator", request.name)
    host, port = gateway.dialled_at()
    shown_id = b"" if mode == "keys" else token_id
    shown_secret = b"" if mode == "keys" or request.public else secret
    joining = JoinString(host, port, gateway.home.root_pin, shown_id, shown_secret)
    return {
        "join": joining.encode(),
        "expires_at": rfc3339(expires),
        "uses": len(request.keys) if mode == "keys" else request.uses,
        "id": token_id.hex(),
        "mode": mode,
    }


def _mode(request: InviteRequest) -> InviteMode:
    if request.kind == "operator":
        return "join"
    if request.keys:
        return "keys"
    several = request.uses > 1 or bool(request.pattern or request.sources)
    site = request.name is None and several
    wait = (site or request.public) if request.wait is None else request.wait
    return "accept" if wait else "join"


def _sources(request: InviteRequest) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(check_source(one) for one in request.sources))
    except BadSource as error:
        raise BadRequest(str(error)) from None


def _known(keys: list[KeyEntry]) -> list[KnownKey]:
    for one in keys:
        try:
            check_name("device" if one.name is None else one.name)
        except BadName as error:
            raise BadRequest(f"{printable(one.name or '', 64)!r}: {error}") from None
    return [KnownKey(spki=one.spki, name=one.name) for one in keys]


def _check_device_invite(request: InviteRequest) -> None:
    if request.roles:
        raise BadRequest("a device has no role")
    try:
        if request.name is not None:
            check_name(request.name)
        for key, value in request.labels.items():
            parse_label(f"{key}={value}")
    except (BadName, BadLabel) as error:
        raise BadRequest(str(error)) from None
    if request.pattern is not None and not _PATTERN.fullmatch(request.pattern):
        raise BadRequest("a pattern of names has a-z, 0-9, '-' and * ? [...] only")
    if request.name is not None and request.pattern is not None:
        raise BadRequest("give either a name or a pattern of names")
    if request.name is not None and request.uses > 1:
        raise BadRequest("a name is for one device: leave it out or invite once (--uses 1)")
    if not request.keys and request.ttl_s > MAX_TTL_SECONDS:
        raise BadRequest(f"a join string holds for {MAX_TTL_SECONDS // 86_400} days at most")
    if request.name is not None and (request.public or request.wait):
        raise BadRequest("who waits is named when it is accepted: rshell accept --name")
    if request.public and request.wait is False:
        raise BadRequest("a public join string gives no right: its devices wait to be accepted")
    if request.keys and (request.public or request.wait or request.name or request.uses > 1):
        raise BadRequest("with keys each device is known: no name, uses or waiting besides")


def _check_operator_invite(gateway: Gateway, request: InviteRequest) -> None:
    if request.labels:
        raise BadRequest("an operator has no labels")
    if request.pattern or request.sources or request.keys or request.public or request.wait:
        raise BadRequest("patterns, ranges, keys and waiting are for devices")
    if request.ttl_s > MAX_TTL_SECONDS:
        raise BadRequest(f"a join string holds for {MAX_TTL_SECONDS // 86_400} days at most")
    if not request.name or not request.roles:
        raise BadRequest("an operator needs a name and a role")
    for role in request.roles:
        if not gateway.rights.knows(role):
            raise BadRequest(
                f"there is no role {printable(role, 64)!r}: make it with rshell roles set"
            )
    try:
        PeerName("operator", gateway.home.keys.fleet, request.name)
    except BadPeerName as error:
        raise BadRequest(str(error)) from None


@verb("gateway.invite-keys", InviteKeysRequest, changes=True)
async def invite_keys(gateway: Gateway, asker: Asker, request: InviteKeysRequest) -> Any:
    """Add more devices' keys to an invite that is for keys."""
    token_id = _token_id(request.invite)
    total = await gateway.store.add_token_keys(token_id, _known(request.keys))
    return {"id": token_id.hex(), "uses": total}


@verb("gateway.invites", InvitesRequest)
async def invites(gateway: Gateway, asker: Asker, request: InvitesRequest) -> Any:
    """List the invites that hold, or all; never their secrets."""
    if request.invite is not None:
        token_id = _token_id(request.invite)
        token = await gateway.store.token(token_id)
        keys = await gateway.store.token_keys(token_id)
        told = [{"fingerprint": fingerprint(key.spki), "name": key.name} for key in keys]
        return [_told(token, gateway.now_us()) | {"keys": told}]
    now = gateway.now_us()
    tokens = await gateway.store.tokens()
    wanted = (token for token in tokens if request.all or _state(token, now) == "open")
    return LongAnswer(in_slices(gateway.slices, wanted, lambda token: _told(token, now)))


async def revoke_invite(gateway: Gateway, name: str) -> str:
    """Void an invite, by its id, or forget one key of one, by its fingerprint; return that.

    Raises:
        NotFound: There is none.
        BadRequest: It is neither.
    """
    prefix = read_fingerprint(name)
    if prefix is not None and not await _is_invite(gateway, name):
        return fingerprint((await gateway.store.remove_token_key(prefix)).spki)
    token_id = _token_id(name)
    await gateway.store.revoke_token(token_id)
    await gateway.pending.sweep()
    return token_id.hex()


async def _is_invite(gateway: Gateway, name: str) -> bool:
    """Whether an invite has this id: one of a hundred ids can be read as a fingerprint, too.

    Nobody chooses an id, so that a fingerprint is also that of an invite happens to nobody.
    """
    try:
        await gateway.store.token(_token_id(name))
    except (BadRequest, NotFound):
        return False
    return True


def _token_id(text: str) -> bytes:
    try:
        token_id = bytes.fromhex(text)
    except ValueError:
        token_id = b""
    if len(token_id) != 8:
        raise BadRequest("an invite's id has 16 hexadecimal digits (see: rshell invites)")
    return token_id


def _state(token: Token, now: int) -> str:
    if token.revoked:
        return "revoked"
    if token.uses >= token.uses_max:
        return "spent"
    return "expired" if token.expires_at <= now and not token.waiting else "open"


def _told(token: Token, now: int) -> dict[str, Any]:
    return {
        "id": token.id.hex(),
        "kind": token.kind,
        "mode": token.mode,
        "state": _state(token, now),
        "public": token.public,
        "name": token.name,
        "pattern": token.name_pattern,
        "labels": dict(token.labels),
        "roles": list(token.roles),
        "sources": list(token.sources),
        "uses": token.uses,
        "uses_max": token.uses_max,
        "waiting": token.waiting,
        "created_by": token.created_by,
        "created_at": rfc3339(token.created_at),
        "expires_at": rfc3339(token.expires_at),
    }
