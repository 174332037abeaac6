"""IP addresses as policy sees them: which are the device itself, and which must be named.

Not the standard library's ``ipaddress``: a keeper that judges by a rule or two saves its memory,
and one form of each address is enough here.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

__all__ = ["LINK_LOCAL", "Address", "Network", "is_loopback", "parse_address", "special_range"]


class Address(NamedTuple):
    """An IP address as a number of so many bits, 32 or 128."""

    bits: int
    number: int

    def within(self, network: Network) -> bool:
        """Whether the network holds it."""
        shift = network.address.bits - network.prefix
        same = self.bits == network.address.bits
        return same and self.number >> shift == network.address.number >> shift

    def __str__(self) -> str:
        family = socket.AF_INET if self.bits == 32 else socket.AF_INET6
        return socket.inet_ntop(family, self.number.to_bytes(self.bits // 8, "big"))


class Network(NamedTuple):
    """The addresses that share the first ``prefix`` bits."""

    address: Address
    prefix: int


#: A network in which addresses hold an IPv4 one: how far from the right, and which bits are turned.
_Form = tuple[Network, int, int]
#: IPv4 inside IPv6: mapped (RFC 4291 2.5.5.2).  Others are routes, not other names: see `_WRAPPED`.
_MAPPED: _Form = (Network(Address(128, 0xFFFF << 32), 96), 0, 0)


def parse_address(text: str) -> Address | None:
    """Return the address that a text is, None if it is none.

    IPv4 has four decimal numbers only.  An IPv4 address in IPv6's clothes (``::ffff:10.0.0.1``)
    is the IPv4 address, for that is where a connection would go.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            raw = socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        address = Address(len(raw) * 8, int.from_bytes(raw, "big"))
        return _embedded(address, _MAPPED) or address
    return None


def _embedded(address: Address, form: _Form) -> Address | None:
    network, shift, turned = form
    if not address.within(network):
        return None
    return Address(32, (address.number >> shift) & 0xFFFFFFFF ^ turned)


def _network(text: str) -> Network:
    base, _, prefix = text.partition("/")
    address = parse_address(base)
    assert address is not None  # of the constants below
    return Network(address, int(prefix))


#: Compatible (RFC 4291 2.5.5.1), translated (RFC 2765), NAT64 (RFC 6052, and RFC 8215 with the
#: usual length), 6to4 (RFC 3056), Teredo (RFC 4380): where a gateway may unwrap it.
_WRAPPED: tuple[_Form, ...] = (
    (Network(Address(128, 0), 96), 0, 0),
    (Network(Address(128, 0xFFFF << 48), 96), 0, 0),
    (_network("64:ff9b::/96"), 0, 0),
    (_network("64:ff9b:1::/48"), 0, 0),
    (_network("2002::/16"), 80, 0),
    (_network("2001::/32"), 0, 0xFFFFFFFF),
)
#: Of IPv6: the only addresses that mean nothing without an interface.
LINK_LOCAL = _network("fe80::/10")
_LOOPBACK = (_network("127.0.0.0/8"), _network("::1/128"))
#: What must be named, and what it is.
_SPECIAL = (
    (_network("169.254.0.0/16"), "link-local, where clouds keep their metadata"),
    (LINK_LOCAL, "link-local"),
    (_network("100.100.100.200/32"), "a cloud's metadata"),
    (_network("168.63.129.16/32"), "a cloud's metadata"),
    (_network("192.0.0.192/32"), "a cloud's metadata"),
    (_network("fd00:ec2::254/128"), "a cloud's metadata"),
    (_network("fd20:ce::254/128"), "a cloud's metadata"),
    (_network("0.0.0.0/8"), "unspecified"),
    (_network("::/128"), "unspecified"),
    (_network("224.0.0.0/4"), "multicast"),
    (_network("ff00::/8"), "multicast"),
    (_network("240.0.0.0/4"), "reserved or broadcast"),
)


def is_loopback(address: Address) -> bool:
    """Whether it is the machine itself."""
    return any(address.within(network) for network in _LOOPBACK)


def special_range(address: Address) -> tuple[Network, str] | None:
    """Return what an address is that must be named: its range, and the word for it."""
    for network, word in _SPECIAL:
        if address.within(network):
            return network, word
    if address.bits == 128 and not is_loopback(address):
        for form in _WRAPPED:
            inner = _embedded(address, form)
            if inner is not None and (special_range(inner) or is_loopback(inner)):
                return Network(address, 128), f"{inner} in another form"
    return None
