"""``gateway.doors``: where operators' other programs come in, and by which keys they know it.

What it is not: the addresses of links; a client has those from its join string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Struct

from rshell.gateway.verbs import Asker, verb

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["SshAddress"]


class DoorsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


@attrs.frozen
class SshAddress:
    """Where the SSH door is dialled.

    Attributes:
        host: a DNS name or an address, without brackets.
        port: TCP.
        host_keys: ``TYPE BASE64`` each, as in ``known_hosts`` behind the names.
    """

    host: str
    port: int
    host_keys: tuple[str, ...]


@verb("gateway.doors", DoorsRequest, open_to_all=True)
async def doors(gateway: Gateway, asker: Asker, request: DoorsRequest) -> Any:
    """Tell where the SSH door is, and its host keys."""
    return {"ssh": None if gateway.ssh_door is None else attrs.asdict(gateway.ssh_door)}
