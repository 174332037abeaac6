"""Which targets a device's policy lets operators forward to: the rules, and how they are judged.

A rule is one text of ``[policy] forward`` (or ``forward_back``, for places to listen at)::

    localhost:*            the device itself, 127.0.0.0/8 and ::1, any port
    10.0.0.0/8:443         a network (IPv6 in brackets: [2001:db8::/32]:443)
    10.0.0.7:1000-2000     an address, a range of ports
    db.example:5432        a name          *.example:80    every name below it
    *:443                  anything, but for what must be named
    unix:/run/x.sock       a socket        unix:/run/app/*.sock

What must be named: link-local addresses and those where clouds keep their metadata, multicast,
broadcast and unspecified ones are only allowed by a rule for that very address or for a part of
that range; neither ``*`` nor ``0.0.0.0/0`` includes them.  What a name resolves to is judged
besides the name: a name's rule admits neither these nor the device's own loopback addresses, so
whoever answers for the name cannot turn it against the device.

It looks nothing up and opens nothing; standard library only, because the keeper's ``policy check``
judges by it just as the agent does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from rshell_agent.keeper.addresses import (
    LINK_LOCAL,
    Address,
    Network,
    is_loopback,
    parse_address,
    special_range,
)

__all__ = [
    "DEFAULT_FORWARD",
    "BadRule",
    "BadTarget",
    "Rule",
    "Rules",
    "Target",
    "Verdict",
    "parse_rule",
    "parse_target",
    "tcp_target",
    "unix_target",
]

#: `[policy] forward` where it is absent.
DEFAULT_FORWARD = ("localhost:*",)
#: struct sockaddr_un has room for 108 bytes, the last of them NUL (unix(7)).
MAX_SOCKET_PATH = 107
#: RFC 1035 section 2.3.4.
_MAX_NAME = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
#: What inet_aton(3) would read as a number: such a last label makes the whole an address.
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_ALL_PORTS = (1, 65535)


class BadRule(ValueError):
    """A text that is no rule; the message is one line for whoever wrote the policy."""


class BadTarget(ValueError):
    """A text that is no target; the message is one line for the operator."""


# -- targets ---------------------------------------------------------------------------------------


class Target(NamedTuple):
    """Where somebody wants to forward to.

    Attributes:
        host: Lower case, without the final dot, an address in its usual form; "" for a socket.
        port: 1 to 65535; 0, to listen only: any.
        path: Of a unix socket; "".
        address: If the host is one.
        zone: Of a link-local address; "".
    """

    host: str
    port: int
    path: str = ""
    address: Address | None = None
    zone: str = ""

    @property
    def is_localhost(self) -> bool:
        """Whether the host is the name of the device itself (RFC 6761 section 6.3)."""
        return self.host == "localhost" or self.host.endswith(".localhost")

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def tcp_target(host: str, port: int, *, listen: bool = False) -> Target:
    """Return the target that a host and a port are.

    Args:
        host: A name, or an address, IPv6 with or without brackets.
        port: 1 to 65535.
        listen: A place to listen at: port 0 and the host ``*``, every address, will do.

    Raises:
        BadTarget: They are none, or not written in the one way that has one meaning.
    """
    if not (0 if listen else 1) <= port <= 65535:
        raise BadTarget(f"{port} is no port: it is 1 to 65535")
    shown = "".join(c if c.isprintable() else "?" for c in host)[:80]
    if listen and host == "*":
        return Target("*", port)
    if not host.isascii():
        raise BadTarget(f"{shown!r} is no host name: write it in ASCII, as xn--…")
    host = host.lower()
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    base, percent, zone = host.partition("%")
    address = parse_address(base)
    if address is not None:
        if percent and not (address.within(LINK_LOCAL) and _ZONE.fullmatch(zone)):
            raise BadTarget(f"{shown!r} is no address: only a link-local one has an interface")
        return Target(str(address), port, "", address, zone)
    host = host[:-1] if host.endswith(".") else host
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise BadTarget(f"{shown!r}: write an IPv4 address as four decimal numbers, as 127.0.0.1")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadTarget(f"{shown!r} is no host name and no address")
    return Target(host, port)


def unix_target(path: str) -> Target:
    """Return the target that a unix socket's path is.

    Raises:
        BadTarget: It is no absolute path, longer than a socket's may be, or not in plain form.
    """
    shown = "".join(c if c.isprintable() else "?" for c in path)[:120]
    if not path.startswith("/") or path == "/" or not path.isprintable():
        raise BadTarget(f"{shown!r} is no path of a socket: it begins with /")
    if posixpath.normpath(path) != path or path.startswith("//"):
        raise BadTarget(f"{shown!r}: write the path without . and .. and double slashes")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH:
        raise BadTarget(f"{shown!r}: a socket's path holds at most {MAX_SOCKET_PATH} bytes")
    return Target("", 0, path)


def parse_target(text: str) -> Target:
    """Return the target of ``host:port``, ``[IPv6]:port`` or ``unix:/path``.

    Raises:
        BadTarget: It is none of these.
    """
    if text.startswith("unix:"):
        return unix_target(text[5:])
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or (":" in host) != bracketed:
        shown = "".join(c if c.isprintable() else "?" for c in text)[:80]
        raise BadTarget(f"{shown!r} is no target: write host:port, [IPv6]:port or unix:/path")
    return tcp_target(host, int(port))


# -- rules -----------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """One rule.

    Attributes:
        text: As it is written in the policy.
        host: ``*``, ``localhost``, a name, or ``*.`` and a name; "" where the next two say it.
        network: Of addresses, or None.
        path: Of a unix socket; its last component may be a pattern; "".
        ports: The lowest and the highest.
    """

    text: str
    host: str = ""
    network: Network | None = None
    path: str = ""
    ports: tuple[int, int] = _ALL_PORTS

    @property
    def is_pattern(self) -> bool:
        """Whether a socket's path stands for more than one."""
        return any(mark in self.path for mark in "*?[")

    def _names(self, host: str) -> bool:
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return self.host == host

    def concerns(self, target: Target) -> bool:
        """Whether it is about such targets at all, whatever their names resolve to."""
        if self.path or target.path:
            return bool(self.path and target.path) and _path_fits(self.path, target.path)
        if target.port and not self.ports[0] <= target.port <= self.ports[1]:
            return False
        if self.host == "*" or self.network is not None:
            return True
        if target.is_localhost or target.address is not None:
            return self.host == "localhost"
        return self._names(target.host)

    def admits(self, target: Target, address: Address) -> bool:
        """Whether it lets a connection for a target it concerns go to an address."""
        special = special_range(address)
        if self.network is not None:
            named = special is None or (
                self.network.prefix >= special[0].prefix and self.network.address.within(special[0])
            )
            return named and address.within(self.network)
        if self.host == "localhost":
            return is_loopback(address)
        if self.host == "*":
            return special is None
        ours = target.address is None and self._names(target.host)
        return ours and special is None and not is_loopback(address)

    def admits_listening(self, target: Target) -> bool:
        """Whether it lets a device listen there (``forward_back``)."""
        if self.path or target.path:
            return self.concerns(target)
        if target.port and not self.ports[0] <= target.port <= self.ports[1]:
            return False
        if self.host == "*":
            return True
        if self.network is not None:
            return target.address is not None and target.address.within(self.network)
        if self.host == "localhost":
            return target.is_localhost or bool(target.address and is_loopback(target.address))
        return False


def parse_rule(text: str) -> Rule:
    """Return the rule that a text is.

    Raises:
        BadRule: It is none.
    """
    if text.startswith("unix:"):
        return Rule(text, path=_rule_path(text))
    host, colon, ports = text.rpartition(":")
    if not colon or not host:
        raise _bad(text, "write host:port, network:port or unix:/path")
    span = _rule_ports(text, ports)
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    if (":" in inner) != bracketed:
        raise _bad(text, "an IPv6 address stands in brackets, as [::1]:22")
    base, slash, prefix = inner.partition("/")
    address = parse_address(base)
    if address is not None:
        return Rule(text, network=_rule_network(text, address, slash, prefix), ports=span)
    if inner == "*":
        return Rule(text, host="*", ports=span)
    try:
        target = tcp_target(inner.removeprefix("*."), 1)
    except BadTarget as error:
        raise _bad(text, str(error)) from None
    if target.address is not None:  # with an interface, or a star before it: it would never match
        raise _bad(text, "an address stands alone, as 10.0.0.7:80 or [fe80::1]:22")
    name = target.host
    return Rule(text, host=f"*.{name}" if inner.startswith("*.") else name, ports=span)


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


def _rule_network(text: str, address: Address, slash: str, prefix: str) -> Network:
    if not slash:
        return Network(address, address.bits)
    if not re.fullmatch("[0-9]{1,3}", prefix, re.ASCII) or int(prefix) > address.bits:
        raise _bad(text, f"/{prefix} is no length of a network's prefix")
    shift = address.bits - int(prefix)
    if address.number >> shift << shift != address.number:
        raise _bad(text, "the address has bits beyond its network's prefix")
    return Network(address, int(prefix))


def _rule_path(text: str) -> str:
    try:
        path = unix_target(text[5:]).path
    except BadTarget as error:
        raise _bad(text, str(error)) from None
    if any(mark in posixpath.dirname(path) for mark in "*?["):
        raise _bad(text, "only the last part of a socket's path may be a pattern")
    return path


def _path_fits(rule: str, path: str) -> bool:
    if posixpath.dirname(rule) != posixpath.dirname(path):
        return False
    return fnmatchcase(posixpath.basename(path), posixpath.basename(rule))


def _bad(text: str, why: str) -> BadRule:
    shown = "".join(c if c.isprintable() else "?" for c in text)[:80]
    return BadRule(f"{shown!r}: {why}")


# -- judging ---------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """An answer: whether, by which rule, and one line on why (not)."""

    allowed: bool
    reason: str
    rule: Rule | None = None


class Rules:
    """The rules of one key of the policy.

    Args:
        rules: In the policy's order; any of them may allow.
        key: The policy's word for them.
    """

    def __init__(self, rules: Iterable[Rule], key: str = "forward") -> None:
        self.rules = tuple(rules)
        self.key = key

    @classmethod
    def parse(cls, texts: Iterable[str], key: str = "forward") -> Rules:
        """Read a list of the policy.

        Raises:
            BadRule: One of the texts is no rule.
        """
        return cls([parse_rule(text) for text in texts], key)

    def concerning(self, target: Target) -> tuple[Rule, ...]:
        """Return the rules that may allow a target; without any, its name need not be resolved."""
        return tuple(rule for rule in self.rules if rule.concerns(target))

    def judge(self, target: Target, address: Address | None = None) -> Verdict:
        """Say whether a target is allowed.

        Args:
            target: What was asked for.
            address: What its name resolved to.  Without it a name is judged by itself: where it
                leads to may still be denied.
        """
        found = self.concerning(target)
        address = target.address or address
        if target.is_localhost and address is None:
            address = parse_address("127.0.0.1")
        if target.path or (address is None and found):
            return (
                Verdict(True, f"{self.key}: {found[0].text}", found[0])
                if found
                else self._no(target)
            )
        for rule in found:
            if address is not None and rule.admits(target, address):
                return Verdict(True, f"{self.key}: {rule.text}", rule)
        special = None if address is None else special_range(address)
        if special is not None:
            what = str(target) if target.address else f"{target} leads to {address}, which"
            text = f"{what} is {special[1]}: the device's policy would have to name that address"
            return Verdict(False, text)
        if address is not None and not target.address and is_loopback(address):
            text = f"{target} leads to {address}, the device itself"
            return Verdict(False, f"{text}: the device's policy does not allow that")
        return self._no(target)

    def judge_listening(self, target: Target) -> Verdict:
        """Say whether the device may listen there; port 0 is any port of the rule that allows."""
        for rule in self.rules:
            if rule.admits_listening(target):
                return Verdict(True, f"{self.key}: {rule.text}", rule)
        return self._no(target, "listening at")

    def _no(self, target: Target, doing: str = "forwarding to") -> Verdict:
        allowed = ", ".join(rule.text for rule in self.rules[:4]) or "nothing"
        if len(self.rules) > 4:
            allowed += ", …"
        text = f"the device's policy does not allow {doing} {target} ({self.key}: {allowed})"
        return Verdict(False, text)
