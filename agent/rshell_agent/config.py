"""HOME/agent.toml: what the owner of a device wants different from the defaults.

``[link]``, ``[reboot]`` and ``[keeper]`` are read here; ``[policy]`` is the keeper's.  A bad
``[link]`` must not cut a device off for good, so the last good one is kept in HOME/state/link.toml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from rshell.identity.files import write_atomic
from rshell.link.addresses import BadAddress, split_address
from rshell.link.proxy import BadProxy, Proxy

__all__ = ["AgentConfig", "BadConfig", "LinkConfig", "RebootConfig", "load_config", "unknown_keys"]

_MAX_BYTES = 1 << 20
_MAX_GATEWAYS = 16
#: An agent that ends more often only makes noise: each attempt is made from nothing anyway.
_MIN_RESTART = 3600
_KNOWN = {
    "link": ("gateways", "mode", "proxy", "restart_after_s"),
    "reboot": (  # but for boot_id_file the keeper's: jobs/settings.py
        "command",
        "poweroff_command",
        "restart_agent_command",
        "boot_id_file",
        "min_interval_seconds",
        "max_per_hour",
        "patience_seconds",
    ),
    "keeper": ("agent_user", "start"),
}
_SECTIONS = (*_KNOWN, "policy")


class BadConfig(ValueError):
    """A section holds something it must not; the message names key and reason."""


@attrs.frozen
class LinkConfig:
    """Where and how to dial.

    Attributes:
        gateways: "host:port" each; empty means those that the gateway named at joining.
        mode: "connected": one link, kept alive.
        proxy: ``http://[user:password@]host:port`` to dial through, or "".
        restart_after_s: End, to be started anew, when for so long no gateway gave a WELCOME
            although addresses were found; 0 is never.
    """

    gateways: tuple[str, ...] = ()
    mode: str = "connected"
    proxy: str = attrs.field(default="", repr=False)
    restart_after_s: int = 0


@attrs.frozen
class RebootConfig:
    """How this device reboots, and how it tells one boot from another."""

    command: tuple[str, ...] = ("systemctl", "reboot")
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"


@attrs.frozen
class AgentConfig:
    """One reading of agent.toml.

    Attributes:
        start_keeper: False when something else, such as a systemd unit, starts the keeper.
        warnings: What is wrong with the file, one line each, for the log.
    """

    link: LinkConfig = LinkConfig()
    reboot: RebootConfig = RebootConfig()
    start_keeper: bool = True
    warnings: tuple[str, ...] = ()


def load_config(home: Path) -> AgentConfig:
    """Read HOME/agent.toml; never fails, for a device must stay reachable.

    A good ``[link]`` that differs from the defaults is kept as the copy to fall back to.
    """
    warnings: list[str] = []
    try:
        document = _read(home / "agent.toml")
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"agent.toml cannot be read: {_line(error)}")
        return AgentConfig(link=_last_good(home, warnings), warnings=tuple(warnings))
    warnings += unknown_sections(document)
    link = _link_or_last_good(home, document, warnings)
    reboot, start_keeper = RebootConfig(), True
    try:
        reboot = _reboot(_section(document, "reboot", warnings))
    except BadConfig as error:
        warnings.append(f"agent.toml: [reboot] {error}; the default is used")
    try:
        start_keeper = _flag(_section(document, "keeper", warnings), "start", True)
    except BadConfig as error:
        warnings.append(f"agent.toml: [keeper] {error}; the default is used")
    return AgentConfig(link, reboot, start_keeper, tuple(warnings))


def unknown_sections(document: dict[str, Any]) -> list[str]:
    """Return a line for each section that nobody reads."""
    return [f"agent.toml: [{name}] is unknown" for name in document if name not in _SECTIONS]


def unknown_keys(document: dict[str, Any]) -> list[str]:
    """Return a line for each section and key that nobody reads, but for those of ``[policy]``."""
    lines = unknown_sections(document)
    for name in _KNOWN:
        try:
            _section(document, name, lines)
        except BadConfig as error:
            lines.append(f"agent.toml: [{name}] {error}")
    return lines


def _link_or_last_good(home: Path, document: dict[str, Any], warnings: list[str]) -> LinkConfig:
    try:
        link = _link(_section(document, "link", warnings))
    except BadConfig as error:
        warnings.append(f"agent.toml: [link] {error}")
        return _last_good(home, warnings)
    try:
        _keep(home, link)
    except OSError as error:
        warnings.append(f"the good [link] could not be kept: {error}")
    return link


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(data) > _MAX_BYTES:
        raise ValueError("it is longer than 1 MiB")
    import tomllib  # a device without the file saves its memory

    return tomllib.loads(data.decode())


def _section(document: dict[str, Any], name: str, warnings: list[str]) -> dict[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise BadConfig("is no table")
    for key in section:
        if key not in _KNOWN[name]:
            warnings.append(f"agent.toml: [{name}] {key}: unknown")
    return section


def _link(section: dict[str, Any]) -> LinkConfig:
    gateways = _texts(section, "gateways", ())
    if len(gateways) > _MAX_GATEWAYS:
        raise BadConfig(f"gateways: more than {_MAX_GATEWAYS}")
    for gateway in gateways:
        try:
            split_address(gateway)
        except BadAddress as error:
            raise BadConfig(f"gateways: {error}") from None
    mode = section.get("mode", "connected")
    if mode != "connected":
        raise BadConfig(f'mode: {str(mode)[:40]!r} is not known to this version; use "connected"')
    proxy = section.get("proxy", "")
    try:
        if proxy != "":
            Proxy.parse(proxy if isinstance(proxy, str) else "")
    except BadProxy as error:
        # its value may hold a password: never repeated
        raise BadConfig(f"proxy: {error}") from None
    restart = section.get("restart_after_s", 0)
    if type(restart) is not int or not (restart == 0 or restart >= _MIN_RESTART):
        raise BadConfig(f"restart_after_s: neither 0 nor at least {_MIN_RESTART}")
    return LinkConfig(gateways, mode, proxy, restart)


def _reboot(section: dict[str, Any]) -> RebootConfig:
    default = RebootConfig()
    command = _texts(section, "command", default.command)
    if not command:
        raise BadConfig("command: is empty")
    file = section.get("boot_id_file", default.boot_id_file)
    if not isinstance(file, str) or not file.startswith("/"):
        raise BadConfig("boot_id_file: not an absolute path")
    return RebootConfig(command, file)


def _texts(section: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = section.get(key, default)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadConfig(f"{key}: not a list of texts")
    return tuple(value)


def _flag(section: dict[str, Any], key: str, default: bool) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise BadConfig(f"{key}: neither true nor false")
    return value


def _copy(home: Path) -> Path:
    return home / "state" / "link.toml"


def _keep(home: Path, link: LinkConfig) -> None:
    """Store a good ``[link]``; an unchanged one costs no write."""
    path = _copy(home)
    # addresses and proxy are plain ASCII, as they were checked: JSON text is TOML text for them
    data = (
        f"[link]\ngateways = {json.dumps(list(link.gateways))}\nmode = {json.dumps(link.mode)}\n"
        f"proxy = {json.dumps(link.proxy)}\nrestart_after_s = {link.restart_after_s}\n"
    )
    if path.parent.is_dir() and (not path.exists() or path.read_text() != data):
        write_atomic(path, data.encode())


def _last_good(home: Path, warnings: list[str]) -> LinkConfig:
    path = _copy(home)
    try:
        link = _link(_section(_read(path), "link", []))
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"the last good copy of [link] cannot be read: {_line(error)}")
        return LinkConfig()
    which = "the last good copy" if path.exists() else "the default"
    warnings.append(f"{which} of [link] is used instead")
    return link


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
