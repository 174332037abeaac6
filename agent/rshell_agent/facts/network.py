"""Interfaces and their addresses, asked of the kernel by rtnetlink(7).

No library: two short questions on a datagram socket.  /proc has IPv4 addresses without their
interfaces, and an ioctl gives one address of each; netlink has them all.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["MAX_ADDRESSES", "MAX_INTERFACES", "interfaces", "parse_messages"]

#: More are a host of containers, whose interfaces come and go.
MAX_INTERFACES = 16
#: Of one interface; privacy addresses of IPv6 leave a few behind.
MAX_ADDRESSES = 8
#: Datagrams of one answer: 32 KiB hold some 300 addresses each.
_MAX_DATAGRAMS = 64
_DATAGRAM_BYTES = 32 * 1024
#: The kernel answers at once or not at all.
_WAIT_SECONDS = 0.5

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_RTM_NEWLINK, _RTM_NEWADDR = 16, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_LOOPBACK = 0x8
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")

Ask = Callable[[int, int], bytes]


def interfaces(ask: Ask | None = None) -> list[dict[str, Any]]:
    """Return the interfaces that have addresses others can use, by index.

    Args:
        ask: (message type, size of its body) -> the kernel's answer; for tests.

    Returns:
        ``name``, ``mac`` (where there is one) and ``addresses`` ("10.0.0.7/24"), without loopback
        and link-local ones.  Nothing where the kernel does not answer.
    """
    ask = ask or _ask
    try:
        links = dict(_links(ask(_RTM_GETLINK, _LINK.size)))
        addresses = list(_addresses(ask(_RTM_GETADDR, _ADDRESS.size)))
    except (OSError, struct.error):
        return []
    found: dict[int, dict[str, Any]] = {}
    for index, text in addresses:
        link = links.get(index)
        if link is None:
            continue
        entry = found.setdefault(index, {**link, "addresses": []})
        if len(entry["addresses"]) < MAX_ADDRESSES:
            entry["addresses"].append(text)
    return [found[index] for index in sorted(found)][:MAX_INTERFACES]


def parse_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of each message in an answer; what is cut short ends it."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _links(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for kind, body in parse_messages(data):
        if kind != _RTM_NEWLINK or len(body) < _LINK.size:
            continue
        _, _, index, flags, _ = _LINK.unpack_from(body)
        if flags & _IFF_LOOPBACK:
            continue
        attributes = _attributes(body[_LINK.size :])
        name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        link: dict[str, Any] = {"name": name}
        mac = attributes.get(_IFLA_ADDRESS, b"")
        if len(mac) == 6 and any(mac):
            link["mac"] = mac.hex(":")
        yield index, link


def _addresses(data: bytes) -> Iterator[tuple[int, str]]:
    for kind, body in parse_messages(data):
        if kind != _RTM_NEWADDR or len(body) < _ADDRESS.size:
            continue
        _, prefix, _, _, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        # Of a point-to-point link ADDRESS is the other end's.
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
        family = _FAMILIES.get(len(raw))
        if family is not None and not _only_here(raw):
            yield index, f"{socket.inet_ntop(family, raw)}/{prefix}"


def _only_here(raw: bytes) -> bool:
    """Whether an address is loopback (127/8, ::1) or link-local (169.254/16, fe80::/10)."""
    if len(raw) == 4:
        return raw[0] == 127 or raw[:2] == b"\xa9\xfe"
    return raw == bytes(15) + b"\1" or (raw[0] == 0xFE and raw[1] & 0xC0 == 0x80)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _ask(kind: int, size: int) -> bytes:
    """Return all messages of one dump.

    Raises:
        OSError: There is no netlink here, or the kernel refuses or is silent.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.settimeout(_WAIT_SECONDS)
        kernel.bind((0, 0))
        kernel.send(_HEADER.pack(_HEADER.size + size, kind, _REQUEST_DUMP, 1, 0) + bytes(size))
        answer = bytearray()
        for _ in range(_MAX_DATAGRAMS):
            data = kernel.recv(_DATAGRAM_BYTES)
            answer += data
            for found, body in parse_messages(data):
                if found == _NLMSG_ERROR:
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    raise OSError(number, os.strerror(number))
                if found == _NLMSG_DONE:
                    return bytes(answer)
    return bytes(answer)
