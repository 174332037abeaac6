"""Where a forward begins and where it leads, as an operator writes it.  Pure."""

from __future__ import annotations

import re
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.client.errors import RshellError

__all__ = ["ForwardSpec", "Place", "parse_place", "parse_spec"]

#: A field in brackets, or text without colons.
_FIELD = re.compile(r"\[[^\]]*\]|[^:\[\]]*")
_PORT = re.compile("[0-9]{1,5}", re.ASCII)


@attrs.frozen
class Place:
    """A host and a port, or the path of a unix socket.

    Attributes:
        host: A name or an address without brackets; "" where the default is meant.
        port: 0 to 65535; 0 lets whoever listens choose.
        path: Of a unix socket, else "".
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if host else str(self.port)

    @property
    def request(self) -> dict[str, Any]:
        """What a device's handler is asked: the keys that name the place."""
        if self.path:
            return {"path": self.path}
        return {"host": _ascii(self.host), "port": self.port}


@attrs.frozen
class ForwardSpec:
    """One forward.

    Attributes:
        listen: Where connections come.
        target: Where they go.
        text: As it was written.
    """

    listen: Place
    target: Place
    text: str


def parse_spec(text: str) -> ForwardSpec:
    """Return the forward that ``[BIND:]PORT:HOST:PORT`` is; paths may stand on either side.

    Raises:
        RshellError: Code ``bad-request``: it is none.
    """
    fields = _fields(text)
    begins = 1 if fields and (_is_path(fields[0]) or _PORT.fullmatch(fields[0])) else 2
    # 80:web:80 is a port and a target; 80:80:80 cannot be told apart and is read in the same way.
    listen, target = fields[:begins], fields[begins:]
    if len(target) not in (1, 2) or _is_path(target[0]) != (len(target) == 1):
        raise _bad(text)
    place = _place(text, listen, lowest=0)
    return ForwardSpec(place, _place(text, target, lowest=1), text)


def parse_place(text: str) -> Place:
    """Return the target that ``HOST:PORT`` or ``/path`` is.

    Raises:
        RshellError: Code ``bad-request``: it is none.
    """
    fields = _fields(text)
    if len(fields) != (1 if _is_path(fields[0]) else 2):
        raise _bad(text, "write HOST:PORT, [IPv6]:PORT, or the path of a unix socket")
    return _place(text, fields, lowest=1)


def _fields(text: str) -> list[str]:
    fields, at = [], 0
    while True:
        match = _FIELD.match(text, at)
        assert match is not None  # it matches nothing, too
        fields.append(match[0])
        at = match.end()
        if at == len(text):
            return fields
        if text[at] != ":":
            raise _bad(text)
        at += 1


def _is_path(field: str) -> bool:
    return field.startswith("/")


def _place(text: str, fields: list[str], lowest: int) -> Place:
    if len(fields) == 1 and _is_path(fields[0]):
        return Place(path=fields[0])
    host = fields[0].removeprefix("[").removesuffix("]") if len(fields) == 2 else ""
    if not _PORT.fullmatch(fields[-1]) or not lowest <= int(fields[-1]) <= 65535:
        why = f"{printable(fields[-1], 40)!r} is no port"
        raise _bad(text, f"{why}: {lowest} to 65535" if fields[-1].isdigit() else why)
    if len(fields) == 2 and not host:
        raise _bad(text)
    return Place(host, int(fields[-1]))


def _ascii(host: str) -> str:
    """Return an internationalised name as resolvers know it."""
    if host.isascii():
        return host
    import idna  # of Twisted's TLS; few names need it

    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError as error:
        name = printable(host, 80)
        raise RshellError("bad-request", f"{name!r} is no host name: {error}", "") from None


def _bad(text: str, why: str = "") -> RshellError:
    hint = why or "write [BIND:]PORT:HOST:PORT, with the path of a unix socket on either side"
    return RshellError("bad-request", f"{printable(text, 120)!r} is no forward", hint)
