"""All facts of this device in one document: bounded, typed, and safe to show."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rshell_agent.facts import network, storage, system

__all__ = ["FACT_NAMES", "MAX_FACTS_BYTES", "FactsCollector", "brief_facts", "stable_digest"]

#: An outcome's result holds 8 KiB (rule E2), and an OPEN 16: so facts fit into either.
MAX_FACTS_BYTES = 7_680
#: Characters of one text.
MAX_TEXT = 200
MAX_HANDLERS = 64

#: The facts that change all the time, by their path; they are told on request only.
_VOLATILE = frozenset(
    {
        ("uptime_seconds",),
        ("load",),
        ("memory", "available_bytes"),
        ("memory", "swap_free_bytes"),
        ("disks", "free_bytes"),
    }
)

FACT_NAMES = (
    "hostname",
    "os",
    "os_name",
    "os_version",
    "kernel",
    "architecture",
    "machine_hash",
    "boot_id",
    "uptime_seconds",
    "cpus",
    "load",
    "memory",
    "disks",
    "interfaces",
    "addresses",
    "agent_version",
    "python_version",
    "handlers",
)


def brief_facts(root: Path = Path("/")) -> dict[str, str]:
    """Return the few facts that HELLO carries: hostname, os, os_name, kernel, architecture."""
    uname, release = os.uname(), system.os_release(root)
    facts = {
        "hostname": uname.nodename,
        # os-release(5): without an ID it is "linux"
        "os": release.get("ID") or "linux",
        "os_name": release.get("PRETTY_NAME") or uname.sysname,
        "kernel": uname.release,
        "architecture": uname.machine,
    }
    return {name: _text(value) for name, value in facts.items()}


class FactsCollector:
    """Looks at the device.

    Args:
        agent_version: Of this agent.
        handlers: The names of the handlers that may run.
        boot_id: As in HELLO; a device may be configured to take it from elsewhere.
        root: Where ``etc`` and ``proc`` are; for tests.
    """

    def __init__(
        self,
        agent_version: str,
        handlers: Callable[[], Iterable[str]],
        boot_id: str = "",
        root: Path = Path("/"),
    ) -> None:
        self._agent_version = agent_version
        self._handlers = handlers
        self._boot_id = boot_id
        self._root = root

    def collect(self, names: Iterable[str] = ()) -> dict[str, Any]:
        """Return the facts as they are now.

        Args:
            names: Of `FACT_NAMES`; none means all.

        Returns:
            JSON values, at most `MAX_FACTS_BYTES` encoded; what this system does not tell is left
            out.  ``truncated`` is true if lists had to be cut.
        """
        wanted = frozenset(names)
        facts = {
            name: _clean(value)
            for name, value in self._all(wanted).items()
            if (not wanted or name in wanted) and value not in (None, "", {})
        }
        return _bounded(facts)

    def _all(self, wanted: frozenset[str]) -> dict[str, Any]:
        root = self._root
        found: dict[str, Any] = dict(brief_facts(root))
        release = system.os_release(root)
        found["os_version"] = release.get("VERSION_ID") or release.get("BUILD_ID")
        found["machine_hash"] = system.machine_hash(root)
        found["boot_id"] = self._boot_id or system.boot_id(root)
        found["uptime_seconds"] = system.uptime_seconds(root)
        found["cpus"] = system.cpu_count()
        found["load"] = system.load(root)
        found["memory"] = system.memory(root)
        found["agent_version"] = self._agent_version
        found["python_version"] = ".".join(map(str, sys.version_info[:3]))
        found["handlers"] = sorted(self._handlers())[:MAX_HANDLERS]
        # What costs more than reading a file is not looked at for nothing.
        if not wanted or "disks" in wanted:
            found["disks"] = storage.disks(root)
        if not wanted or wanted & {"interfaces", "addresses"}:
            found["interfaces"] = network.interfaces()
            found["addresses"] = [
                address.partition("/")[0]
                for interface in found["interfaces"]
                for address in interface["addresses"]
            ]
        return {name: found[name] for name in FACT_NAMES if name in found}


def stable_digest(facts: Mapping[str, Any]) -> str:
    """Return what changes when a fact does that is told at once: SHA-256, hexadecimal."""
    slow = {name: _stable(value, (name,)) for name, value in facts.items()}
    return hashlib.sha256(_encoded({k: v for k, v in slow.items() if v is not None})).hexdigest()


def _stable(value: Any, path: tuple[str, ...]) -> Any:
    if path in _VOLATILE:
        return None
    if isinstance(value, dict):
        return {key: _stable(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_stable(item, path) for item in value]
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _text(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:MAX_TEXT]


def _bounded(facts: dict[str, Any]) -> dict[str, Any]:
    """Cut the longest list in half until the document fits."""
    while len(_encoded(facts)) > MAX_FACTS_BYTES:
        lists = {name: value for name, value in facts.items() if isinstance(value, list) and value}
        if not lists:
            break  # texts alone are a few hundred bytes each
        longest = max(lists, key=lambda name: len(_encoded(lists[name])))
        facts[longest] = facts[longest][: len(facts[longest]) // 2]
        facts["truncated"] = True
    return facts


def _encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
