"""Stock OpenSSH at the gateway's SSH door: a fleet with the door open, and operators with keys."""

from __future__ import annotations

import atexit
import functools
import json
from pathlib import Path
from typing import Any

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import Finished, environment, require
from tests.functional.terminal import Terminal

__all__ = ["SshCase", "SshFleet", "shared_ssh_fleet"]


class SshFleet(Fleet):
    """A fleet whose gateway has its SSH door open, and keys of the operator ``admin``."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway_options = ("--ssh", "tcp:0:interface=127.0.0.1")

    @property
    def ssh_port(self) -> int:
        """Where the SSH door listens."""
        endpoints = json.loads((self.home / "endpoints.json").read_text())
        return int(endpoints["ssh"].rpartition(":")[2])

    def new_key(self, name: str, *options: str) -> Path:
        """Make a key pair."""
        path = self.base / name
        words = options or ("-t", "ed25519")
        done = self.command(["ssh-keygen", "-q", "-N", "", "-C", name, "-f", str(path), *words])
        assert done.status == 0, done
        return path

    def known_key(self, name: str, operator: str = "admin", *options: str) -> Path:
        """Make a key pair, and let an operator log in with it."""
        path = self.new_key(name, *options)
        done = self.rshell("keys", "add", operator, f"{path}.pub")
        assert done.status == 0, done
        return path

    def options(self, key: Path | str = "id") -> list[str | bytes]:
        """Return options for ssh, scp and sftp; the host key is pinned."""
        public = (self.home / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        known = self.base / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.ssh_port} {' '.join(public)}\n")
        words = {
            "Port": self.ssh_port,
            "IdentityFile": self.base / key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": known,
            "StrictHostKeyChecking": "yes",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
        }
        options = [f"-o{name}={value}" for name, value in words.items()]
        return ["-F", "/dev/null", *options]

    def ssh_command(
        self, user: str, *words: str | bytes, options: tuple[str, ...] = (), key: Path | str = "id"
    ) -> list[str | bytes]:
        """Return the command line of ssh."""
        # Of each option the first one counts.
        return ["ssh", *options, *self.options(key), f"{user}@127.0.0.1", *words]

    def ssh(
        self,
        user: str,
        *words: str | bytes,
        options: tuple[str, ...] = (),
        key: Path | str = "id",
        data: bytes = b"",
        seconds: float = 60,
    ) -> Finished:
        """Run ssh to its end."""
        return self.command(self.ssh_command(user, *words, options=options, key=key), data, seconds)


@functools.cache
def shared_ssh_fleet() -> SshFleet:
    """Return this process's fleet with an SSH door: two devices, and a key named ``id``."""
    fleet = SshFleet()
    atexit.register(fleet.close)
    try:
        fleet.start_gateway()
        for name in ("pump-1", "pump-2"):
            fleet.join(name).start()
        fleet.known_key("id")
        fleet.wait_live("pump-1", "pump-2")
    except BaseException:
        fleet.close()
        raise
    return fleet


class SshCase(FleetCase):
    """A test with OpenSSH and a fleet whose door is open."""

    def setUp(self) -> None:
        require("ssh")
        require("ssh-keygen")

    @property
    def fleet(self) -> SshFleet:
        return shared_ssh_fleet()

    def own_ssh_fleet(self, *devices: str) -> SshFleet:
        """Return a fleet that ends with the test."""
        fleet = SshFleet()
        self.addCleanup(fleet.close)
        fleet.start_gateway()
        for name in devices:
            fleet.join(name).start()
        fleet.known_key("id")
        if devices:
            fleet.wait_live(*devices)
        return fleet

    def terminal(self, command: list[str | bytes], fleet: Fleet, **size: Any) -> Terminal:
        """Start a program at a terminal of its own."""
        terminal = Terminal(command, environment(fleet.base), fleet.base, **size)
        self.addCleanup(terminal.close)
        return terminal
