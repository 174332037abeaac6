"""The work behind the gateway's verbs.  Importing this module fills the registry in verbs.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.access.labels import BadLabel, parse_label_changes
from rshell.access.names import BadName, check_name
from rshell.gateway.chosen import Chosen, chosen, selector_of
from rshell.gateway.device_rows import device_row, row_of
from rshell.gateway.invite_services import revoke_invite
from rshell.gateway.joining import issue
from rshell.gateway.long_answers import LongAnswer
from rshell.gateway.switchboard import OpenRefused
from rshell.gateway.verbs import Asker, descriptions, verb
from rshell.handlers import BadRequest
from rshell.identity.keys import BadCertificateRequest, read_csr, spki_hash
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import PolicyState

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

Name = Annotated[str, Meta(max_length=64)]
Short = Annotated[str, Meta(max_length=256)]


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


class DevicesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices: a selector, empty for all; and which facts to tell besides HELLO's few."""

    selector: Annotated[str, Meta(max_length=4096)] = ""
    facts: Annotated[list[Name], Meta(max_length=64)] = msgspec.field(default_factory=list)


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
    """Whom to revoke; of an invite its id, or the fingerprint of a key in it."""

    kind: Annotated[str, Meta(pattern=r"^(device|operator|invite)\Z")]
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
    pages = chosen(gateway, asker.operator, selector, request.facts)
    return LongAnswer(_rows(gateway, pages, with_facts=bool(request.facts)))


async def _rows(
    gateway: Gateway, pages: AsyncGenerator[list[Chosen], None], *, with_facts: bool
) -> AsyncGenerator[list[Any], None]:
    async with aclosing(pages):
        async for page in pages:
            yield [
                row_of(gateway, one.device, one.live, one.facts if with_facts else None)
                for one in page
            ]


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
    """Revoke a device or an operator: links and sessions end at once; or an invite."""
    if request.kind == "invite":
        return {"revoked": await revoke_invite(gateway, request.name), "links_closed": 0}
    if request.kind == "device":
        name, closed = await gateway.revocation.revoke_device(request.name)
    else:
        name, closed = await gateway.revocation.revoke_operator(request.name)
        await gateway.pending.sweep()  # who waits by invites of that operator waits in vain
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
