"""Which sources wait before they may try again, as OpenSSH's PerSourcePenalties.

A whole site may sit behind one address, so a single mistake costs nobody anything: time adds up
with each failure, and only a source that owes more than `REFUSED_ABOVE_SECONDS` is turned away.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["FAILED_SECONDS", "GRACE_SECONDS", "NOTHING_SECONDS", "Penalties"]

#: For six keys that were not the right ones, or one that was revoked.
FAILED_SECONDS = 5.0
#: For a connection that kept us waiting until the login grace was over.
GRACE_SECONDS = 10.0
#: For one that went without trying to log in: a port scanner, or a health check.
NOTHING_SECONDS = 1.0
REFUSED_ABOVE_SECONDS = 15.0
MAX_SECONDS = 600.0
#: About 200 bytes each; the ones that owed first go.
MAX_SOURCES = 16_384


class Penalties:
    """What each source owes.

    Args:
        seconds: A clock that never goes back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return how many owe time now; who owes none any more is forgotten."""
        now = self._seconds()
        for source in [source for source, until in self._until.items() if until <= now]:
            del self._until[source]
        return len(self._until)

    def add(self, address: str, penalty_seconds: float) -> None:
        """Let a source wait longer."""
        now, source = self._seconds(), source_of(address)
        until = max(now, self._until.get(source, now)) + penalty_seconds
        self._until[source] = min(until, now + MAX_SECONDS)
        self._until.move_to_end(source)
        while len(self._until) > MAX_SOURCES:
            self._until.popitem(last=False)

    def refuses(self, address: str) -> bool:
        """Whether a source has to wait."""
        source = source_of(address)
        until = self._until.get(source)
        if until is None:
            return False
        left = until - self._seconds()
        if left <= 0:
            del self._until[source]
        return left > REFUSED_ABOVE_SECONDS


def source_of(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
