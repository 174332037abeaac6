"""What one gateway is told to do: options and config file, validated into one frozen record."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta, Struct

from rshell.access.recordings import RecordingMode, RecordingPolicy
from rshell.gateway.audit_shipping import parse_target

__all__ = ["BadConfig", "CloneAction", "GatewayConfig", "default_home", "read_config_file"]

#: The registered default of the link protocol.
DEFAULT_PORT = 7411
DEFAULT_LINKS = f"tcp:{DEFAULT_PORT}"

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
#: The address in ``tcp:7411:interface=10.0.0.5``; a backslash takes the meaning from a colon.
_INTERFACE = re.compile(r":interface=((?:\\.|[^:\\])+)")

Endpoint = Annotated[str, Meta(max_length=1024)]
#: What happens to a device of which there seem to be two.
CloneAction = Literal["alert", "quarantine"]


class BadConfig(ValueError):
    """An option or the config file cannot be used; the text is one line for the operator."""


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    links: list[Endpoint] | None = None
    ssh: Endpoint | None = None
    advertise_ssh: Annotated[str, Meta(max_length=260)] | None = None
    web: Endpoint | None = None
    advertise: list[Annotated[str, Meta(max_length=260)]] | None = None


class _Admission(Struct, frozen=True, forbid_unknown_fields=True):
    handshakes_per_second: Annotated[float, Meta(ge=1, le=100_000)] | None = None


class _Clones(Struct, frozen=True, forbid_unknown_fields=True):
    action: CloneAction | None = None


class _Recordings(Struct, frozen=True, forbid_unknown_fields=True):
    shell: RecordingMode | None = None
    keep_days: Annotated[int, Meta(ge=0, le=36_500)] | None = None
    keep_bytes: Annotated[int, Meta(ge=0, le=2**60)] | None = None
    on_failure: Literal["end", "mark"] | None = None


class _Audit(Struct, frozen=True, forbid_unknown_fields=True):
    syslog: Annotated[str, Meta(max_length=256)] | None = None


class _Ssh(Struct, frozen=True, forbid_unknown_fields=True):
    # Each exchange costs both ends a millisecond or two; RFC 4253 asks for a gigabyte at most.
    rekey_bytes: Annotated[int, Meta(ge=2**20, le=2**30)] | None = None
    rekey_seconds: Annotated[int, Meta(ge=60, le=86_400)] | None = None


class _Sessions(Struct, frozen=True, forbid_unknown_fields=True):
    tell_watched: bool | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    gateway: _Section = msgspec.field(default_factory=_Section)
    admission: _Admission = msgspec.field(default_factory=_Admission)
    clones: _Clones = msgspec.field(default_factory=_Clones)
    recordings: _Recordings = msgspec.field(default_factory=_Recordings)
    audit: _Audit = msgspec.field(default_factory=_Audit)
    ssh: _Ssh = msgspec.field(default_factory=_Ssh)
    sessions: _Sessions = msgspec.field(default_factory=_Sessions)


@attrs.frozen(kw_only=True)
class GatewayConfig:
    """One gateway's settings.

    Attributes:
        home: absolute path of its directory.
        links: Twisted endpoint strings for links; at least one.
        ssh: endpoint of the ssh door; "" is off.
        advertise_ssh: ``HOST`` or ``HOST:PORT`` under which that is dialled; "" for where it
            listens, or the first of ``advertise``.
        web: endpoint of the web door; "" is off.
        advertise: ``HOST`` or ``HOST:PORT`` under which devices and operators dial in.
        handshakes_per_second: at most; None is measured at start.
        clones: what happens to a device of which there seem to be two.
        recordings: which sessions are recorded, and how long that is kept.
        syslog: where rows of the audit log go too, ``unix:PATH`` or ``udp:ADDRESS:PORT``; "" is
            nowhere.
        ssh_rekey_bytes: after how many of both directions an SSH connection gets new keys.
        ssh_rekey_seconds: after how long it does.
        tell_watched: whether operators are told while somebody else watches their session.
    """

    home: Path
    links: tuple[str, ...] = (DEFAULT_LINKS,)
    ssh: str = ""
    advertise_ssh: str = ""
    web: str = ""
    advertise: tuple[str, ...] = ()
    handshakes_per_second: float | None = None
    clones: CloneAction = "alert"
    recordings: RecordingPolicy = attrs.field(factory=RecordingPolicy)
    syslog: str = ""
    ssh_rekey_bytes: int = 2**30
    ssh_rekey_seconds: int = 3600
    tell_watched: bool = True

    def names(self) -> tuple[str, ...]:
        """Return the hosts that the gateway's certificate has to name."""
        local = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
        names = [split_host(text)[0] for text in self.advertise] + self._interfaces() + local
        return tuple(dict.fromkeys(name for name in names if name))

    def ssh_address(self, bound: tuple[str, int], name: str) -> tuple[str, int]:
        """Return host and port under which operators dial the ssh door.

        Args:
            bound: where it listens.
            name: of this machine, for a door that listens on all its addresses.
        """
        host, port = bound
        if self.advertise_ssh:
            told, given = split_host(self.advertise_ssh)
            return told, given or port
        if _is_loopback(host):
            return host, port  # from elsewhere nothing reaches it, whatever is advertised
        if self.advertise:
            return split_host(self.advertise[0])[0], port
        return name if ipaddress.ip_address(host or "::").is_unspecified else host, port

    def _interfaces(self) -> list[str]:
        """Return the addresses that links are bound to: dialled, where none is advertised."""
        found = [_INTERFACE.search(endpoint) for endpoint in self.links]
        texts = [re.sub(r"\\(.)", r"\1", match[1]) for match in found if match]
        addresses = [text for text in texts if _is_address(text)]
        return [text for text in addresses if not ipaddress.ip_address(text).is_unspecified]


def default_home() -> Path:
    """Return ``$RSHELL_HOME``, else the place for root, else the place for a user."""
    named = os.environ.get("RSHELL_HOME")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/rshell")
    return Path.home() / ".local" / "state" / "rshell"


def split_host(text: str) -> tuple[str, int | None]:
    """Return host and port of ``HOST``, ``HOST:PORT``, ``[V6]`` or ``[V6]:PORT``.

    Raises:
        BadConfig: The port is no number from 1 to 65535, or the host neither a DNS name (in
            its ASCII form) nor an address.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadConfig(f"{text!r}: an address in brackets, then perhaps :PORT")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not (_is_address(host) or _NAME.fullmatch(host)):
        raise BadConfig(f"{text!r} names no host: give a DNS name or an address")
    if not port:
        return host, None
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise BadConfig(f"{text!r}: a port is a number from 1 to 65535")
    return host, int(port)


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def read_config_file(path: Path, config: GatewayConfig) -> GatewayConfig:
    """Return ``config`` with what a TOML file says; options of the command line come later.

    The file has the tables ``[gateway]`` with ``links``, ``ssh``, ``advertise_ssh``, ``web`` and
    ``advertise``, ``[admission]`` with ``handshakes_per_second``, ``[clones]`` with ``action``,
    ``[recordings]`` with ``shell``, ``keep_days``, ``keep_bytes`` and ``on_failure``,
    ``[audit]`` with ``syslog``, ``[sessions]`` with ``tell_watched``, ``[ssh]`` with
    ``rekey_bytes`` and ``rekey_seconds``.

    Raises:
        BadConfig: It cannot be read, is not TOML, or has an unknown key or a wrong type.
    """
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise BadConfig(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadConfig(f"{path}: {error}") from None
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in found.gateway.__struct_fields__
        if (value := getattr(found.gateway, name)) is not None
    }
    if found.admission.handshakes_per_second is not None:
        given["handshakes_per_second"] = found.admission.handshakes_per_second
    if found.clones.action is not None:
        given["clones"] = found.clones.action
    told = {
        {"shell": "mode"}.get(name, name): value
        for name in found.recordings.__struct_fields__
        if (value := getattr(found.recordings, name)) is not None
    }
    given["recordings"] = attrs.evolve(config.recordings, **told)
    if found.audit.syslog is not None:
        try:
            parse_target(found.audit.syslog)
        except ValueError as error:
            raise BadConfig(f"{path}: [audit] syslog: {error}") from None
        given["syslog"] = found.audit.syslog
    for name in found.ssh.__struct_fields__:
        if (value := getattr(found.ssh, name)) is not None:
            given[f"ssh_{name}"] = value
    if found.sessions.tell_watched is not None:
        given["tell_watched"] = found.sessions.tell_watched
    return attrs.evolve(config, **given)
