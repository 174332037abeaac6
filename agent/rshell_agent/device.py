"""What a handler may know of its device, its boot, and the name that it proposes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from rshell.interfaces import IDeviceContext

__all__ = ["DeviceContext", "proposed_name", "read_boot_id"]

_MAX_FACT = 200


def read_boot_id(path: str) -> str:
    """Return what changes with every boot, at most 64 characters; "" if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return _printable(file.read(256).strip())[:64]
    except OSError:
        return ""


def proposed_name(hostname: str) -> str | None:
    """Return a valid device name made from a host name, or None if nothing of it is usable."""
    name = re.sub(r"[^a-z0-9]+", "-", hostname.lower().partition(".")[0]).strip("-")[:63]
    return name.rstrip("-") or None


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_FACT]


@implementer(IDeviceContext)
class DeviceContext:
    """The device as handlers see it.

    Args:
        name: The name that the gateway last told.
        home: The agent's home.
        clock: The reactor's time.
        facts: As in HELLO.
        forwards: What the handler ``forward`` needs of this process; None: it forwards nothing.
        look: names -> facts as they are now; by default ``facts`` are all there are.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        clock: IReactorTime,
        facts: Mapping[str, str],
        forwards: object = None,
        look: Callable[[Iterable[str]], dict[str, Any]] | None = None,
    ) -> None:
        self.name = name
        self.home = home
        self.clock = clock
        self.forwards = forwards
        self._facts = dict(facts)
        self._look = look

    def fact(self, name: str) -> str:
        return self._facts.get(name, "")

    def facts(self, names: Iterable[str] = ()) -> dict[str, Any]:
        wanted = frozenset(names)
        if self._look is not None:
            return self._look(wanted)
        return {name: v for name, v in self._facts.items() if not wanted or name in wanted}
