"""Devices as an inventory script of Ansible tells them.  Pure.

Groups come from labels, which operators set, and from the state that the gateway sees.  What a
device says of itself makes a group only when that is asked for, in a name that shows it, and never
one that a label or a state has.  As a variable it is marked unsafe, so that Ansible takes no
template from it.

Format: https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.cli.columns import fact_at
from rshell.cli.ssh_settings import SshSettings
from rshell.client import Device

__all__ = ["AnsibleInventory", "make_inventory", "usable"]

#: The group of all devices: other inventories may be used beside this one.
EVERY = "rshell_devices"
#: Every state has its group, also one without devices: a play book may name it.
STATES = ("live", "suspect", "lost", "never")
#: A name that a device decides about; the gateway lets facts be longer.
MAX_FACT_GROUP = 64
#: Of one fact, as the gateway keeps them.
MAX_DEPTH, MAX_TEXT = 5, 256
#: No leading underscore: Ansible reads keys such as ``__ansible_vault`` as types.
_FACT_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}", re.ASCII)
_UNSAFE_IN_GROUP = re.compile(r"[^A-Za-z0-9_]", re.ASCII)


@attrs.frozen
class AnsibleInventory:
    """What the script answers.

    Attributes:
        listing: For ``--list``: groups, and ``_meta`` with every host's variables.
        notes: What an operator should know, a line each.
    """

    listing: dict[str, Any]
    notes: tuple[str, ...] = ()

    def host(self, name: str) -> dict[str, Any]:
        """Return what ``--host NAME`` answers: nothing for one that is not there."""
        found: dict[str, Any] = self.listing["_meta"]["hostvars"].get(name, {})
        return found


def usable(devices: Iterable[Device]) -> tuple[list[Device], list[str]]:
    """Return the devices that may be listed by name, sorted, and a line about each other one.

    Revoked devices are left out, and those whose name is their own proposal: a play book, or a
    hand, that names a host must not reach a device that chose to be called so.
    """
    known = sorted((one for one in devices if not one.revoked), key=lambda one: one.name)
    names = [printable(one.name) for one in known if one.name_provisional]
    notes = [
        f"{name} is left out: it proposed that name itself (accept it: rshell rename {name} {name})"
        for name in names
    ]
    return [one for one in known if not one.name_provisional], notes


def make_inventory(
    devices: Iterable[Device],
    ssh: SshSettings,
    *,
    login: str | None = None,
    group_by_facts: Iterable[str] = (),
) -> AnsibleInventory:
    """Return the inventory of these devices.

    Args:
        devices: As listed; some are left out (see `usable`).
        ssh: How all of them are reached.
        login: The account on them; None for each one's default.
        group_by_facts: Paths of facts, such as ``os`` or ``memory.unit``, that make groups.
    """
    accepted, notes = usable(devices)
    groups = _Groups()
    groups.add([(EVERY, "every device", [one.name for one in accepted])])
    groups.add([(f"rshell_{state}", f"state={state}", []) for state in STATES])
    groups.add([(f"rshell_{one.state}", f"state={one.state}", [one.name]) for one in accepted])
    groups.settle()
    groups.add(
        (f"{key}_{value}", f"{key}={value}", [one.name])
        for one in accepted
        for key, value in sorted(one.labels.items())
    )
    groups.settle()
    for path in group_by_facts:
        groups.add(_fact_groups(accepted, path, notes))
    groups.settle()
    listing: dict[str, Any] = {
        name: {"hosts": hosts} for name, hosts in sorted(groups.settled.items())
    }
    hostvars = {one.name: _variables(one, ssh, login) for one in accepted}
    return AnsibleInventory(
        {"_meta": {"hostvars": hostvars}, **listing}, (*notes, *groups.collisions)
    )


class _Groups:
    """Groups by name; what is settled keeps its name, whatever comes later.

    Two labels that would become one group get a name each, with a digest in it: a play book for
    the one must not run on the other, and the name that is gone is noticed.
    """

    def __init__(self) -> None:
        self.settled: dict[str, list[str]] = {}
        self.collisions: list[str] = []
        self._wanted: dict[str, dict[str, list[str]]] = {}

    def add(self, groups: Iterable[tuple[str, str, list[str]]]) -> None:
        """Want groups: name before it is made safe, what it stands for, hosts."""
        for name, source, hosts in groups:
            sources = self._wanted.setdefault(_safe_name(name), {})
            sources.setdefault(source, []).extend(hosts)

    def settle(self) -> None:
        """Give the wanted groups their names."""
        for name, sources in sorted(self._wanted.items()):
            alone = len(sources) == 1 and name not in self.settled
            for source, hosts in sorted(sources.items()):
                final = name if alone else f"{name}_{_digest(source)}"
                if not alone:
                    self.collisions.append(
                        f"the group of {printable(source, 100)} is {final}: another one is, or "
                        f"would be, called {name}"
                    )
                self.settled.setdefault(final, []).extend(hosts)
        self._wanted.clear()


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:8]


def _safe_name(text: str) -> str:
    name = _UNSAFE_IN_GROUP.sub("_", text)
    return f"_{name}" if name[0].isdigit() else name


def _fact_groups(
    devices: Iterable[Device], path: str, notes: list[str]
) -> list[tuple[str, str, list[str]]]:
    """Return a group for each value of a fact; note the devices where it is no single value."""
    found: list[tuple[str, str, list[str]]] = []
    without: list[str] = []
    for one in devices:
        value = fact_at(one.facts, path.split("."))
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, int | float):
            value = str(value)
        if isinstance(value, str) and value:
            value = printable(value, MAX_FACT_GROUP)
            found.append((f"fact_{path}_{value}", f"facts.{path}={value}", [one.name]))
        else:
            without.append(one.name)
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        notes.append(f"no single value for {path}: {', '.join(without[:3])}{more}")
    return found


def _variables(device: Device, ssh: SshSettings, login: str | None) -> dict[str, Any]:
    return {
        "ansible_host": ssh.host,
        "ansible_port": ssh.port,
        "ansible_user": ssh.user(device.name, login),
        "ansible_ssh_common_args": ssh.common_arguments(),
        # A habit of switching this off shall not cost what is pinned anyway.
        "ansible_ssh_host_key_checking": True,
        # Ansible makes ~ into ~USER, and the user name is the device's here.
        "ansible_remote_tmp": "$HOME/.ansible/tmp",
        "ansible_async_dir": ".ansible_async",
        "rshell_id": device.id,
        "rshell_state": device.state,
        "rshell_last_seen": device.last_seen,
        "rshell_labels": dict(sorted(device.labels.items())),
        "rshell_facts": _unsafe_facts(device.facts),
    }


def _unsafe_facts(value: Any, depth: int = 0) -> Any:
    """Return what a device told, so that Ansible takes it for nothing but text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return {"__ansible_unsafe": printable(value, MAX_TEXT)}
    if depth == MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {
            key: _unsafe_facts(item, depth + 1)
            for key, item in value.items()
            if isinstance(key, str) and _FACT_KEY.fullmatch(key)
        }
    if isinstance(value, list):
        return [_unsafe_facts(item, depth + 1) for item in value]
    return None
