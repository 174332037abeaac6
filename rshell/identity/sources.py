"""Ranges of addresses that an invite is limited to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["MAX_SOURCES", "BadSource", "check_source", "host_of", "is_within"]

#: Of one invite: the networks of a site and its ways out; more is another invite.
MAX_SOURCES = 16


class BadSource(ValueError):
    """A range of addresses cannot be used; the message is one line for a person."""


def check_source(text: str) -> str:
    """Return a range in its usual spelling; an address alone is a range of one.

    Raises:
        BadSource: It is none, or has bits beyond its prefix.
    """
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        shown = "".join(c if c.isprintable() else "?" for c in text)[:64]
        raise BadSource(
            f"{shown!r} is no range of addresses: write 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    if network.network_address != ipaddress.ip_address(text.strip().partition("/")[0]):
        raise BadSource(f"{text.strip()} has bits beyond its prefix: write {network}")
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise BadSource(f"{network} is IPv4 within IPv6: write it as IPv4 addresses")
    return str(network)


def host_of(address: str) -> str:
    """Return the host of ``host:port`` or ``[host]:port``; IPv4 within IPv6 as IPv4."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)


def is_within(sources: Iterable[str], host: str) -> bool:
    """Say whether a host is in one of the ranges, or there are none.

    Args:
        sources: As of `check_source`.
        host: As of `host_of`; what is no address is in no range.
    """
    ranges = list(sources)
    if not ranges:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(one) for one in ranges)
