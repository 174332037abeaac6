"""``gateway.ca``: what certificates there are, for administrators elsewhere.

Nothing is changed over a link: who may change authorities has the home, or the bundle.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rshell.gateway.ca_report import report
from rshell.gateway.services import Nothing
from rshell.gateway.switchboard import OpenRefused
from rshell.gateway.verbs import Asker, verb
from rshell.identity.fleet_home import DamagedHome, FleetHome
from rshell.link.core.errors import ErrorCode

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []


@verb("gateway.ca", Nothing)
async def ca(gateway: Gateway, asker: Asker, request: Nothing) -> Any:
    """Tell what authorities and gateway certificates there are, and when they end."""
    hosts = [host for host, _ in gateway.advertised]
    now = datetime.fromtimestamp(gateway.wall(), UTC)
    try:
        return msgspec.to_builtins(report(FleetHome(gateway.home.path), now, hosts))
    except (DamagedHome, OSError) as error:
        raise OpenRefused(ErrorCode.INTERNAL, f"the gateway's home: {error}") from None
