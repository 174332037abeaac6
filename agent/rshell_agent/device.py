"""What this device is: its facts for listings, its boot, and what a handler may know of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from rshell.interfaces import IDeviceContext

__all__ = ["DeviceContext", "proposed_name", "read_boot_id", "read_facts"]

_MAX_FACT = 200
_OS_RELEASE = Path("/etc/os-release")
_PRETTY_NAME = re.compile(r'^PRETTY_NAME="?([^"\n]*)"?$', re.MULTILINE)


def read_facts(os_release: Path = _OS_RELEASE) -> dict[str, str]:
    """Return the few facts that HELLO carries: hostname, os, kernel, architecture."""
    system = os.uname()
    try:
        found = _PRETTY_NAME.search(os_release.read_text(errors="replace")[:65536])
    except OSError:
        found = None
    facts = {
        "hostname": system.nodename,
        "os": found.group(1) if found else system.sysname,
        "kernel": system.release,
        "architecture": system.machine,
    }
    return {name: _printable(value) for name, value in facts.items()}


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
    """

    def __init__(
        self,
        name: str,
        home: Path,
        clock: IReactorTime,
        facts: Mapping[str, str],
        forwards: object = None,
    ) -> None:
        self.name = name
        self.home = home
        self.clock = clock
        self.forwards = forwards
        self._facts = dict(facts)

    def fact(self, name: str) -> str:
        return self._facts.get(name, "")
