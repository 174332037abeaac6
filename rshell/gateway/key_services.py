"""``gateway.keys.*``: the SSH public keys that operators log in with at the SSH door.

Everybody may look after their own keys; other people's need a role that grants the verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.identity.ssh_keys import BadSshKey, read_lines
from rshell.store.records import SshKey
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

Name = Annotated[str, Meta(min_length=1, max_length=64)]
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


def _is_own(asker: Asker, request: Any) -> bool:
    return bool(request.operator == asker.name)


def _told(key: SshKey) -> dict[str, Any]:
    return {
        "operator": key.operator,
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
    added = [
        await gateway.store.add_ssh_key(
            request.operator, key.fingerprint, key.type, key.blob, printable(key.comment or "-")
        )
        for key in found
    ]
    return [_told(key) for key in added]


@verb("gateway.keys.list", ListKeysRequest, own=_is_own)
async def list_keys(gateway: Gateway, asker: Asker, request: ListKeysRequest) -> Any:
    """List the SSH public keys of an operator, or of all."""
    return [_told(key) for key in await gateway.store.ssh_keys(request.operator)]


@verb("gateway.keys.remove", RemoveKeyRequest, own=_is_own, changes=True)
async def remove_key(gateway: Gateway, asker: Asker, request: RemoveKeyRequest) -> Any:
    """Forget an SSH public key: who is logged in with it is cut off at once."""
    key = await gateway.store.remove_ssh_key(request.operator, request.fingerprint)
    closed = gateway.revocation.key_removed(key.operator, key.fingerprint)
    return {**_told(key), "connections_closed": closed}
