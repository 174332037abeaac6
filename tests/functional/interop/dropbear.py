"""Dropbear's dbclient; it has no SFTP of its own, and serves as OpenSSH's sftp's transport."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

from tests.functional.interop.clients import Client, Command, Step
from tests.functional.interop.openssh import quoted, sftp_batch

__all__ = ["Dropbear"]


class Dropbear(Client):
    """``dbclient``: no sharing of connections, and no word about keys."""

    programs = ("dbclient", "dropbearconvert", "sftp")
    #: It ignores exit-signal, whoever sends it.
    signal_status = 0

    @property
    def _key(self) -> Path:
        return self.folder / "id"

    def prepare(self) -> None:
        self._convert(self.key, self._key)
        # It looks hosts up by name alone; "localhost" stays free for what is jumped to.
        known = self.fleet.base / ".ssh" / "known_hosts"
        known.parent.mkdir(mode=0o700, exist_ok=True)
        known.write_text(f"127.0.0.1 {self.host_key()}\n")

    def _convert(self, key: Path, target: Path) -> None:
        self.made(["dropbearconvert", "openssh", "dropbear", str(key), str(target)])

    def _words(self, *options: str) -> Command:
        return ["dbclient", "-i", str(self._key), "-p", str(self.fleet.ssh_port), *options]

    def run(self, user: str, line: str, *, rekey: bool = False, verbose: bool = False) -> Command:
        return [*self._words(), f"{user}@127.0.0.1", line]

    def shell(self, user: str) -> Command:
        return [*self._words(), f"{user}@127.0.0.1"]

    def forward(self, user: str, port: int) -> Command:
        return [*self._words("-B", f"127.0.0.1:{port}"), f"{user}@127.0.0.1"]

    def files(self, user: str, steps: Sequence[Step]) -> tuple[Command, bytes]:
        wrapper = self.folder / "as-ssh"
        # sftp calls it as ssh, with options that dbclient has not; the last four words count.
        words = quoted([*self._words("-s"), f"{user}@127.0.0.1", "sftp"])
        wrapper.write_text(f"#!/bin/sh\nexec {words}\n")
        wrapper.chmod(0o700)
        return ["sftp", "-q", "-S", str(wrapper), "-b", "-", "127.0.0.1"], sftp_batch(steps)

    def jump(self, user: str, port: int, key: Path, line: str) -> Command:
        inner = self.folder / "inner"
        self._convert(key, inner)
        proxy = quoted(self.forward(user, port))
        words = ["dbclient", "-y", "-i", str(inner), "-J", proxy, f"{getpass.getuser()}@localhost"]
        return [*words, line]

    def tunnels(self, user: str, line: str, port: int, target: int) -> Command:
        """Run a line while a port of this machine leads to one of the device's."""
        return [*self._words("-L", f"{port}:127.0.0.1:{target}"), f"{user}@127.0.0.1", line]
