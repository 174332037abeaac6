"""``gateway.keys.*``: the SSH public keys that operators log in with at the SSH door, and CAs.

Everybody may look after their own keys; other people's need a role that grants the verb, and so do
the CAs whose certificates let in anybody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import attrs
from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.gateway.chosen import check_named
from rshell.gateway.revocation import CertificateUse
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.identity.ssh_keys import BadSshKey, read_lines
from rshell.store.records import RegisteredSshKey, SshCa, SshKey
from rshell.store.ssh_cas import RevokedBy
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

Name = Annotated[str, Meta(min_length=1, max_length=64)]
#: As roles are called.
_CA_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
#: 64 bits, more than JSON numbers can be trusted with; 0 is what a CA writes that does not count.
SerialText = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,19}\Z")]
KeyId = Annotated[str, Meta(min_length=1, max_length=256)]
#: What fits into an OPEN: a dozen ordinary keys at once.
Lines = Annotated[str, Meta(max_length=12_000)]


class AddKeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose, and the lines of a ``.pub`` file."""

    operator: Name
    keys: Lines


class ListKeysRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose; None for everybody's."""

    operator: Name | None = None


class RemoveKeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose, and the fingerprint, as ``gateway.keys.list`` shows it."""

    operator: Name
    fingerprint: Annotated[str, Meta(max_length=64)]


class AddCaRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What to call it, and the line of its ``.pub`` file."""

    name: Name
    key: Lines


class ListCasRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """All of them."""


class RemoveCaRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which."""

    name: Name


class RevokeCertificatesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose certificates: those of a serial number (in decimal), or those of a key id."""

    name: Name
    serial: SerialText | None = None
    id: KeyId | None = None

    def __post_init__(self) -> None:
        if (self.serial is None) == (self.id is None):
            raise ValueError("give either serial or id")


def _is_own(asker: Asker, request: Any) -> bool:
    return bool(request.operator == asker.name)


def _told(key: SshKey) -> dict[str, Any]:
    return {"operator": key.operator, **_told_key(key)}


def _told_ca(ca: SshCa) -> dict[str, Any]:
    return {"name": ca.name, **_told_key(ca)}


def _told_key(key: RegisteredSshKey) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "type": key.type,
        "comment": printable(key.comment),
        "added_at": rfc3339(key.added_at),
        "last_used": None if key.last_used is None else rfc3339(key.last_used),
    }


@verb("gateway.keys.add", AddKeyRequest, own=_is_own, changes=True)
async def add_key(gateway: Gateway, asker: Asker, request: AddKeyRequest) -> Any:
    """Let an operator log in with an SSH public key."""
    try:
        found = read_lines(request.keys)
    except BadSshKey as error:
        raise BadRequest(str(error)) from None
    keys = [attrs.evolve(key, comment=printable(key.comment or "-")) for key in found]
    return [_told(key) for key in await gateway.store.add_ssh_keys(request.operator, keys)]


@verb("gateway.keys.list", ListKeysRequest, own=_is_own)
async def list_keys(gateway: Gateway, asker: Asker, request: ListKeysRequest) -> Any:
    """List the SSH public keys of an operator, or of all."""
    found = await gateway.store.ssh_keys(request.operator)
    if not found:
        await check_named(gateway, asker.operator, operator=request.operator)
    return [_told(key) for key in found]


@verb("gateway.keys.remove", RemoveKeyRequest, own=_is_own, changes=True)
async def remove_key(gateway: Gateway, asker: Asker, request: RemoveKeyRequest) -> Any:
    """Forget an SSH public key: who is logged in with it is cut off at once."""
    key = await gateway.store.remove_ssh_key(request.operator, request.fingerprint)
    closed = gateway.revocation.key_removed(key.operator, key.fingerprint)
    return {**_told(key), "connections_closed": closed}


# -- CAs -----------------------------------------------------------------------------------------


@verb("gateway.keys.add-ca", AddCaRequest, changes=True)
async def add_ca(gateway: Gateway, asker: Asker, request: AddCaRequest) -> Any:
    """Let in whom SSH certificates of a CA name."""
    if not _CA_NAME.fullmatch(request.name):
        raise BadRequest(
            "a CA's name has 1 to 63 characters of a-z, 0-9 and ._-, beginning with a-z or 0-9"
        )
    try:
        found = read_lines(request.key)
    except BadSshKey as error:
        raise BadRequest(str(error)) from None
    if len(found) != 1:
        raise BadRequest(f"there are {len(found)} keys in it: a CA is one")
    key = found[0]
    comment = printable(key.comment or "-")
    ca = await gateway.store.add_ssh_ca(request.name, key.fingerprint, key.type, key.blob, comment)
    return _told_ca(ca)


@verb("gateway.keys.list-cas", ListCasRequest)
async def list_cas(gateway: Gateway, asker: Asker, request: ListCasRequest) -> Any:
    """List the CAs of SSH certificates, each with what is revoked of it."""
    cas = await gateway.store.ssh_cas()
    revoked: dict[str, list[dict[str, str]]] = {ca.fingerprint: [] for ca in cas}
    for one in await gateway.store.ssh_ca_revocations():
        told = {one.by: printable(one.value), "revoked_at": rfc3339(one.revoked_at)}
        revoked.get(one.ca, []).append(told)
    return [{**_told_ca(ca), "revoked": revoked[ca.fingerprint]} for ca in cas]


@verb("gateway.keys.remove-ca", RemoveCaRequest, changes=True)
async def remove_ca(gateway: Gateway, asker: Asker, request: RemoveCaRequest) -> Any:
    """Forget a CA: who is logged in by its certificates is cut off at once."""
    ca = await gateway.store.remove_ssh_ca(request.name)
    closed = gateway.revocation.certificates_ended(
        lambda used: used.ca == ca.fingerprint, f"the CA {ca.name} was removed"
    )
    return {**_told_ca(ca), "connections_closed": closed}


@verb("gateway.keys.revoke", RevokeCertificatesRequest, changes=True)
async def revoke_certificates(
    gateway: Gateway, asker: Asker, request: RevokeCertificatesRequest
) -> Any:
    """Revoke SSH certificates: who is logged in by them is cut off at once."""
    by: RevokedBy = "id" if request.serial is None else "serial"
    value = request.serial or request.id or ""
    ca = await gateway.store.revoke_ssh_certificates(request.name, by, value)

    def revoked(used: CertificateUse) -> bool:
        return used.ca == ca.fingerprint and value == (
            used.key_id if by == "id" else str(used.serial)
        )

    closed = gateway.revocation.certificates_ended(revoked, "this certificate was revoked")
    return {"name": ca.name, by: value, "connections_closed": closed}
