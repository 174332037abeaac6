"""How OpenSSH reaches devices through the gateway, with its host key pinned.  Pure, but for `keep`.

All devices are behind one host key.  The gateway tells it over the link, which is authenticated
both ways, so no first contact has to be trusted.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import attrs

from rshell.client import RshellError, SshDoor
from rshell.identity.files import write_atomic

__all__ = ["HOST_KEY_ALIAS", "KNOWN_HOSTS_NAME", "SshSettings", "ssh_config"]

#: Under which the key is known, whatever the gateway's address: as in docs/operators.md.
HOST_KEY_ALIAS = "rshell-gateway"
#: In the operator's profile.
KNOWN_HOSTS_NAME = "ssh_known_hosts"
#: What ssh or Ansible would take for something else in a file's name, however it is quoted.
_TROUBLE = re.compile(r"[\"\\\n\r\0]|\$\{|\{\{|\{%|\{#")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}", re.ASCII)
_HOST_KEY = re.compile(r"[a-z0-9][a-z0-9@.-]{0,63} [A-Za-z0-9+/]{16,2048}={0,2}", re.ASCII)
MAX_HOST_KEYS = 16
#: Of a file that we wrote: those keys.
MAX_FILE_BYTES = 64 * 1024
_ANOTHER = "choose another file with --known-hosts-file"


def _present(file: Path) -> bytes:
    """Return what is in the file; nothing if there is none.

    Raises:
        OSError: It cannot be read.
        RshellError: It is somebody else's, and not to be replaced.
    """
    if not os.path.lexists(file):
        return b""
    if not file.is_file():
        raise RshellError("bad-request", f"{file} is no file", _ANOTHER)
    with file.open("rb") as opened:
        found = opened.read(MAX_FILE_BYTES)
    if not all(line.startswith(HOST_KEY_ALIAS.encode() + b" ") for line in found.splitlines()):
        raise RshellError(
            "bad-request", f"{file} has other lines too, and would be replaced", _ANOTHER
        )
    return found


@attrs.frozen
class SshSettings:
    """The gateway's SSH door, as told to OpenSSH.

    Attributes:
        host: A DNS name or an address.
        port: TCP.
        host_keys: ``TYPE BASE64`` each.
        known_hosts: The file that pins them.
    """

    host: str
    port: int
    host_keys: tuple[str, ...]
    known_hosts: Path

    @classmethod
    def of(cls, door: SshDoor, known_hosts: Path) -> SshSettings:
        """Check what the gateway told.

        Raises:
            RshellError: It or the file's name cannot be given to ssh.
        """
        keys = tuple(door.host_keys[:MAX_HOST_KEYS])
        bad = not _HOST.fullmatch(door.host) or not 1 <= door.port <= 65535 or not keys
        if bad or not all(_HOST_KEY.fullmatch(key) for key in keys):
            raise RshellError("version", "the gateway's ssh door is not understood", "upgrade")
        if _TROUBLE.search(str(known_hosts)):
            raise RshellError(
                "bad-request",
                f"ssh cannot be told of a file called {known_hosts}",
                _ANOTHER,
            )
        return cls(door.host, door.port, keys, known_hosts)

    def user(self, device: str, login: str | None) -> str:
        """Return the user name that leads to a device: ``[LOGIN@]DEVICE``."""
        return f"{login}@{device}" if login else device

    def known_hosts_lines(self) -> str:
        """Return the lines of ``known_hosts`` that pin the gateway."""
        return "".join(f"{HOST_KEY_ALIAS} {key}\n" for key in self.host_keys)

    def keep(self) -> None:
        """Write the file that pins the keys, if it does not say so already.

        Raises:
            RshellError: It cannot be written.
        """
        lines = self.known_hosts_lines().encode("ascii")
        try:
            present = _present(self.known_hosts)
            if present != lines:
                write_atomic(self.known_hosts, lines, 0o644)
        except OSError as error:
            raise RshellError(
                "cannot-write",
                f"cannot keep the gateway's host key in {self.known_hosts}: "
                f"{error.strerror or error}",
                _ANOTHER,
            ) from None

    def pinning(self) -> list[tuple[str, str]]:
        """Return the options of ssh_config(5) that believe the pinned keys and no others."""
        # Quotes are ssh's own, against spaces; a percent sign begins one of its tokens.
        file = str(self.known_hosts).replace("%", "%%")
        return [
            ("HostKeyAlias", HOST_KEY_ALIAS),
            ("UserKnownHostsFile", f'"{file}"' if re.search(r"\s", file) else file),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("StrictHostKeyChecking", "yes"),
        ]

    def common_arguments(self) -> str:
        """Return them as arguments of ssh, scp and sftp, for a shell or shlex to split."""
        return shlex.join(f"-o{name}={value}" for name, value in self.pinning())


def ssh_config(devices: Iterable[str], ssh: SshSettings, login: str | None) -> str:
    """Return a file for ssh's ``Include`` that has a host for each device.

    Args:
        devices: Names.
        ssh: How all of them are reached.
        login: The account on them; None for each one's default.
    """
    names = sorted(devices)
    lines = [
        "# Made by rshell inventory --ssh-config; in ~/.ssh/config, before the first Host:",
        "#     Include rshell.conf",
    ]
    for name in names:
        lines += [f"Host {name}", f"    User {ssh.user(name, login)}"]
    if names:
        options = [
            ("HostName", ssh.host),
            ("Port", str(ssh.port)),
            *ssh.pinning(),
            # One login for many commands; ten sessions share a connection.
            ("ControlMaster", "auto"),
            ("ControlPath", "~/.ssh/rshell-%C"),
            ("ControlPersist", "60"),
        ]
        lines.append(f"Host {' '.join(names)}")
        lines += [f"    {key} {value}" for key, value in options]
    return "\n".join(lines) + "\n"
