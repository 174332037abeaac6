"""The work behind the gateway's verbs.  Importing this module fills the registry in verbs.py."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.access.labels import BadLabel, parse_label, parse_label_changes
from rshell.access.names import BadName, check_name
from rshell.access.printable import printable
from rshell.gateway.chosen import chosen, selector_of
from rshell.gateway.device_rows import device_row
from rshell.gateway.joining import issue
from rshell.gateway.switchboard import OpenRefused
from rshell.gateway.verbs import Asker, descriptions, verb
from rshell.handlers import BadRequest
from rshell.identity.join_string import JoinString, new_token, token_hash
from rshell.identity.keys import BadCertificateRequest, read_csr, spki_hash
from rshell.identity.names import BadPeerName, PeerName
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import PolicyState
from rshell.store.records import NewToken
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

#: Devices made in a factory may wait long for their first start.
MAX_TTL_SECONDS = 30 * 86_400
MAX_USES = 100_000

Name = Annotated[str, Meta(max_length=64)]
Short = Annotated[str, Meta(max_length=256)]


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


class DevicesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices: a selector, empty for all; and which facts to tell besides HELLO's few."""

    selector: Annotated[str, Meta(max_length=4096)] = ""
    facts: Annotated[list[Name], Meta(max_length=64)] = msgspec.field(default_factory=list)


class InviteRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to invite, on what terms, for how long."""

    kind: Annotated[str, Meta(pattern=r"^(device|operator)\Z")]
    name: Name | None = None
    roles: Annotated[list[Name], Meta(max_length=64)] = msgspec.field(default_factory=list)
    labels: Annotated[dict[Name, Short], Meta(max_length=64)] = msgspec.field(default_factory=dict)
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TTL_SECONDS)] = 3600
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)] = 1


class LabelRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Labels to set on and to remove from one device."""

    device: Name
    set: Annotated[dict[Name, Short], Meta(max_length=64)] = msgspec.field(default_factory=dict)
    remove: Annotated[list[Name], Meta(max_length=64)] = msgspec.field(default_factory=list)


class RenameRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A device and its new name; its own name accepts a provisional one."""

    device: Name
    name: Name


class RevokeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to revoke."""

    kind: Annotated[str, Meta(pattern=r"^(device|operator)\Z")]
    name: Name


class HandlersRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Of which device; None for the gateway's own verbs."""

    device: Name | None = None


class RenewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate request (DER) with a new key."""

    csr: Annotated[bytes, Meta(max_length=4096)]


class ReportRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device's HELLO would tell now."""

    policy: PolicyState
    catalogue: Name


@verb("gateway.whoami", Nothing, open_to_all=True)
async def whoami(gateway: Gateway, asker: Asker, request: Nothing) -> Any:
    """Tell who the gateway thinks you are."""
    operator = gateway.rights.current(asker.operator)
    return {
        "name": operator.name,
        "roles": list(operator.roles),
        "admin": gateway.rights.is_admin(operator),
        "fleet": gateway.home.keys.fleet,
    }


@verb("gateway.devices", DevicesRequest, open_to_all=True)
async def devices(gateway: Gateway, asker: Asker, request: DevicesRequest) -> Any:
    """List the devices that you may see, their state and what they are."""
    selector = selector_of(request.selector)
    found = await chosen(gateway, asker.operator, selector, request.facts)
    return [device_row(gateway, one.device, one.facts if request.facts else None) for one in found]


@verb("gateway.invite", InviteRequest, changes=True)
async def invite(gateway: Gateway, asker: Asker, request: InviteRequest) -> Any:
    """Make a join string for a device or an operator."""
    if request.kind == "device":
        _check_device_invite(request)
    else:
        _check_operator_invite(gateway, request)
    token_id, secret = new_token()
    expires = gateway.now_us() + request.ttl_s * 1_000_000
    await gateway.store.add_token(
        NewToken(
            id=token_id,
            secret_hash=token_hash(secret),
            kind="device" if request.kind == "device" else "operator",
            expires_at=expires,
            created_by=asker.name,
            uses_max=request.uses,
            name=request.name,
            roles=tuple(request.roles),
            labels=request.labels,
        )
    )
    if request.kind == "operator" and request.name:
        gateway.revocation.readmit("operator", request.name)
    host, port = gateway.dialled_at()
    joining = JoinString(host, port, gateway.home.root_pin, token_id, secret)
    return {"join": joining.encode(), "expires_at": rfc3339(expires), "uses": request.uses}


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
    if request.name is not None and request.uses > 1:
        raise BadRequest("a name is for one device: leave it out or invite once (--uses 1)")


def _check_operator_invite(gateway: Gateway, request: InviteRequest) -> None:
    if request.labels:
        raise BadRequest("an operator has no labels")
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


@verb("gateway.label", LabelRequest, changes=True)
async def label(gateway: Gateway, asker: Asker, request: LabelRequest) -> Any:
    """Set and remove labels of a device."""
    words = [f"{key}={value}" for key, value in request.set.items()]
    try:
        changes = parse_label_changes([*words, *(f"{key}-" for key in request.remove)])
    except BadLabel as error:
        raise BadRequest(str(error)) from None
    device = await gateway.store.set_labels(request.device, changes.put, changes.remove)
    gateway.presence.refresh(device)
    await gateway.rights.device_changed(device)
    return device_row(gateway, device)


@verb("gateway.rename", RenameRequest, changes=True)
async def rename(gateway: Gateway, asker: Asker, request: RenameRequest) -> Any:
    """Rename a device, or accept the name it proposed."""
    try:
        check_name(request.name)
    except BadName as error:
        raise BadRequest(str(error)) from None
    device = await gateway.store.rename(request.device, request.name)
    gateway.presence.refresh(device)
    await gateway.rights.device_changed(device)
    return device_row(gateway, device)


@verb("gateway.revoke", RevokeRequest, changes=True)
async def revoke(gateway: Gateway, asker: Asker, request: RevokeRequest) -> Any:
    """Revoke a device or an operator: links and sessions end at once."""
    if request.kind == "device":
        name, closed = await gateway.revocation.revoke_device(request.name)
    else:
        name, closed = await gateway.revocation.revoke_operator(request.name)
    return {"revoked": name, "links_closed": closed}


@verb("gateway.handlers", HandlersRequest, open_to_all=True)
async def handlers(gateway: Gateway, asker: Asker, request: HandlersRequest) -> Any:
    """List what a device, or the gateway, can do."""
    if request.device is None:
        return [msgspec.to_builtins(entry) for entry in descriptions()]
    device = await gateway.rights.device(asker.operator, request.device)
    live = gateway.presence.find(device.id)
    digest = live.hello.catalogue if live else device.catalogue or ""
    known = gateway.catalogues.get(digest)
    if known is None:
        body = await gateway.store.catalogue(digest) if digest else None
        if body is None:
            raise OpenRefused(ErrorCode.OFFLINE, f"{device.name} has not told its handlers yet")
        known = gateway.catalogues.keep(digest, body)
    return [msgspec.to_builtins(entry) for entry in known]


@verb(
    "gateway.renew",
    RenewRequest,
    peers=("device", "operator"),
    open_to_all=True,
    changes=True,
    throttled=True,
)
async def renew(gateway: Gateway, asker: Asker, request: RenewRequest) -> Any:
    """Issue a certificate for a new key of the device or operator that asks."""
    try:
        public_key = read_csr(request.csr)
    except BadCertificateRequest as error:
        raise BadRequest(str(error)) from None
    kind, owner = asker.peer.name.kind, asker.name
    now = datetime.fromtimestamp(gateway.wall(), UTC)
    chain, not_after = issue(gateway.home, kind, owner, public_key, now)
    await gateway.store.renew_key(asker.peer.spki, spki_hash(public_key), not_after)
    return {"chain": chain, "gateways": gateway.gateways()}


@verb("gateway.report", ReportRequest, peers=("device",))
async def report(gateway: Gateway, asker: Asker, request: ReportRequest) -> Any:
    """Take in that a device's policy or handlers have changed since its HELLO."""
    live = gateway.presence.find(asker.name)
    if live is None or live.link.peer is not asker.peer:
        raise OpenRefused(ErrorCode.OFFLINE, "this link is not the device's current one")
    if not gateway.devices.reported(live, request.policy, request.catalogue):
        raise OpenRefused(ErrorCode.OVERLOAD, "too many reports: try again later")
    return {}
