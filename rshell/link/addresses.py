"""From "host:port" to the addresses that a dialler tries one by one."""

from __future__ import annotations

import re
import socket
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool

__all__ = ["BadAddress", "resolve", "split_address"]

DEFAULT_PORT = 7411
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)


class BadAddress(ValueError):
    """Text that is no "host:port"; the message is one line for a person."""


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``host`` or ``[IPv6]:port``.

    Raises:
        BadAddress: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or host.count(":") != text.count(":") - 1 or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    valid = _is_ipv6(host) if bracketed else _HOST.fullmatch(host) is not None
    if not valid or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise BadAddress(f"{text[:80]!r} is not an address: write host:port or [IPv6]:port")
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def resolve(reactor: Any, host: str, port: int) -> Deferred[list[str]]:
    """Find all addresses of ``host``.

    Args:
        reactor: Its thread pool waits for the resolver; literal addresses need no thread.
        host: A DNS name, or an IPv4 or IPv6 address without brackets.
        port: TCP port, only passed on to the resolver.

    Returns:
        A Deferred with IPv4 and IPv6 addresses, at least one, in the resolver's order; it fails
        with OSError when there is none.
    """
    try:
        return succeed(_lookup(host, port, socket.AI_NUMERICHOST))
    except OSError:
        pass  # a name
    pool = reactor.getThreadPool()
    return deferToThreadPool(reactor, pool, _lookup, host, port, 0)


def _lookup(host: str, port: int, flags: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
