"""Which targets of ``forward`` a role grants: rules as in a device's policy, judged here.

The language is that of ``[policy] forward`` on devices (docs/policy.md)::

    localhost:*          10.0.0.0/8:443      [2001:db8::/32]:443      db.example:5432
    *.example:80         *:443               unix:/run/x.sock         unix:/run/app/*.sock

and ``*`` alone: whatever the device allows.  A golden list in the tests holds both ends to one
meaning.  One thing differs, for want of the device's resolver: a network's rule grants addresses
only, while on the device it also admits a name that leads there.  Where a name leads to is the
device's to judge: a grant never widens its policy.

What it is not: the device's own check, which comes after, and which the device alone can make.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

from rshell.access.printable import printable

__all__ = ["ANY", "BadRule", "ForwardRule", "Place", "admitted", "parse_rule", "place_of"]

#: The rule that grants whatever the device allows.
ANY = "*"
#: sun_path of a unix socket has 108 bytes, one for the zero.
MAX_SOCKET_PATH = 107
_MAX_NAME = 253
_MAX_SHOWN = 80

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# A name that ends so would be an address to some resolvers (0x7f.1) and a name to others.
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_ALL_PORTS = (1, 65535)
_WILD = "*?["

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
#: Not granted but by a rule for that address or a part of that range: link-local, the clouds'
#: metadata, unspecified, multicast, reserved.
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
        "240.0.0.0/4",
    )
)
#: IPv4 addresses in another form, by how many bits they are shifted there, and which are turned:
#: compatible, translated, NAT64 twice, 6to4, Teredo.
_WRAPPED = (
    (IPv6Network("::/96"), 0, 0),
    (IPv6Network("::ffff:0:0:0/96"), 0, 0),
    (IPv6Network("64:ff9b::/96"), 0, 0),
    (IPv6Network("64:ff9b:1::/48"), 0, 0),
    (IPv6Network("2002::/16"), 80, 0),
    (IPv6Network("2001::/32"), 0, 0xFFFFFFFF),
)


class BadRule(ValueError):
    """A text that is no rule, or a target that is none; one line."""


@attrs.frozen
class Place:
    """Where somebody wants to connect, or listen.

    Attributes:
        host: lower case, without the final dot; "" for a socket.
        port: 0, to listen only: any.
        path: of a unix socket; "".
        address: if the host is one, or is the device itself by name.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    address: Address | None = None
    is_localhost: bool = False


def place_of(
    host: str | None, port: int | None, path: str | None, *, listen: bool = False
) -> Place:
    """Return what a request names.

    Raises:
        BadRule: It names nothing that a device would take.
    """
    if path is not None:
        return Place(path=_socket_path(path))
    text, number = host or "", port or 0
    if not (0 if listen else 1) <= number <= 65535:
        raise BadRule(f"{number} is no port: it is 1 to 65535")
    if listen and text == "*":
        return Place("*", number)
    name, address = _host(text)
    local = name == "localhost" or name.endswith(".localhost")
    return Place(name, number, "", ip_address("127.0.0.1") if local else address, local)


def _host(text: str) -> tuple[str, Address | None]:
    shown = printable(text, _MAX_SHOWN)
    if not text.isascii():
        raise BadRule(f"{shown!r} is no host name: write it in ASCII, as xn--…")
    host = text.lower()
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    base, percent, zone = host.partition("%")
    address = _address(base)
    if address is not None:
        if percent and (address.version == 4 or not _ZONE.fullmatch(zone)):
            raise BadRule(f"{shown!r} is no address")
        return str(address), address
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise BadRule(f"{shown!r}: write an IPv4 address as four decimal numbers, as 127.0.0.1")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRule(f"{shown!r} is no host name and no address")
    return host, None


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _socket_path(path: str) -> str:
    shown = printable(path, _MAX_SHOWN)
    if not path.startswith("/") or path == "/" or not path.isprintable():
        raise BadRule(f"{shown!r} is no path of a socket: it begins with /")
    if posixpath.normpath(path) != path or path.startswith("//"):
        raise BadRule(f"{shown!r}: write the path without . and .. and double slashes")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH:
        raise BadRule(f"{shown!r}: a socket's path holds at most {MAX_SOCKET_PATH} bytes")
    return path


def _is_loopback(address: Address) -> bool:
    return any(address in network for network in _LOOPBACK)


def _special(address: Address) -> Network | None:
    """Return the range that must be named for this address, itself if it hides another."""
    for network in _SPECIAL:
        if address in network:
            return network
    if isinstance(address, IPv6Address) and not _is_loopback(address):
        for form, shift, turned in _WRAPPED:
            if address in form:
                inner = IPv4Address(int(address) >> shift & 0xFFFFFFFF ^ turned)
                if _special(inner) is not None or _is_loopback(inner):
                    return ip_network(address)
    return None


@attrs.frozen
class ForwardRule:
    """One rule; make it with `parse_rule`.

    Attributes:
        text: as it was written.
        host: ``*``, ``localhost``, a name, or ``*.`` and a name; "" where the next two say it.
        network: of addresses.
        path: of a unix socket; its last part may be a pattern.
        ports: the lowest and the highest.
    """

    text: str
    host: str = ""
    network: Network | None = None
    path: str = ""
    ports: tuple[int, int] = _ALL_PORTS

    def admits(self, place: Place) -> bool:
        """Return whether it grants connecting there."""
        if self.text == ANY:
            return True
        if self.path or place.path:
            return self._admits_socket(place)
        if not self.ports[0] <= place.port <= self.ports[1]:
            return False
        address = place.address
        if address is None:
            return self.host == "*" or self._names(place.host)
        special = _special(address)
        if self.network is not None:
            named = special is None or _within(self.network, special)
            return named and address in self.network
        if self.host == "localhost":
            return _is_loopback(address)
        return self.host == "*" and special is None

    def admits_listening(self, place: Place) -> bool:
        """Return whether it grants listening there."""
        if self.text == ANY:
            return True
        if self.path or place.path:
            return self._admits_socket(place)
        if place.port and not self.ports[0] <= place.port <= self.ports[1]:
            return False
        if self.host == "*":
            return True
        if self.network is not None:
            named = place.address is not None and not place.is_localhost
            return named and place.address in self.network
        loopback = place.address is not None and _is_loopback(place.address)
        return self.host == "localhost" and loopback

    def _names(self, host: str) -> bool:
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return bool(host) and self.host == host

    def _admits_socket(self, place: Place) -> bool:
        if not (self.path and place.path):
            return False
        same_folder = posixpath.dirname(self.path) == posixpath.dirname(place.path)
        name, pattern = posixpath.basename(place.path), posixpath.basename(self.path)
        return same_folder and fnmatchcase(name, pattern)


def _within(inner: Network, outer: Network) -> bool:
    # An address is in no network of the other family.
    return inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def parse_rule(text: str) -> ForwardRule:
    """Return the rule that a text is.

    Raises:
        BadRule: It is none.
    """
    if text == ANY:
        return ForwardRule(text)
    if text.startswith("unix:"):
        return ForwardRule(text, path=_rule_path(text))
    host, colon, ports = text.rpartition(":")
    if not colon or not host:
        raise _bad(text, "write host:port, network:port, unix:/path, or * for all")
    span = _rule_ports(text, ports)
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    if (":" in inner) != bracketed:
        raise _bad(text, "an IPv6 address stands in brackets, as [::1]:22")
    base, slash, prefix = inner.partition("/")
    address = _address(base) if "%" not in base else None
    if address is not None:
        return ForwardRule(text, network=_network(text, address, slash, prefix), ports=span)
    if inner == "*":
        return ForwardRule(text, host="*", ports=span)
    try:
        name = place_of(inner.removeprefix("*."), 1, None).host
    except BadRule as error:
        raise _bad(text, str(error)) from None
    return ForwardRule(text, host=f"*.{name}" if inner.startswith("*.") else name, ports=span)


def _rule_ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return _ALL_PORTS
    match = _PORTS.fullmatch(ports)
    if match is None:
        raise _bad(text, "a port is *, a number, or a range as 1000-2000")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= 65535:
        raise _bad(text, "ports are 1 to 65535, the lower one first")
    return low, high


def _network(text: str, address: Address, slash: str, prefix: str) -> Network:
    if not slash:
        return ip_network(address)
    if not re.fullmatch("[0-9]{1,3}", prefix, re.ASCII) or int(prefix) > address.max_prefixlen:
        raise _bad(text, f"/{prefix} is no length of a network's prefix")
    try:
        return ip_network(f"{address}/{int(prefix)}")
    except ValueError:
        raise _bad(text, "the address has bits beyond its network's prefix") from None


def _rule_path(text: str) -> str:
    try:
        path = _socket_path(text[5:])
    except BadRule as error:
        raise _bad(text, str(error)) from None
    if any(mark in posixpath.dirname(path) for mark in _WILD):
        raise _bad(text, "only the last part of a socket's path may be a pattern")
    return path


def _bad(text: str, why: str) -> BadRule:
    return BadRule(f"{printable(text, _MAX_SHOWN)!r}: {why}")


def admitted(rules: Sequence[ForwardRule], place: Place, *, listen: bool = False) -> bool:
    """Return whether any rule grants connecting, or listening, there."""
    if listen:
        return any(rule.admits_listening(place) for rule in rules)
    return any(rule.admits(place) for rule in rules)
