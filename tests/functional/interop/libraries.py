"""paramiko and asyncssh: a program of ours around each, which behaves as an ssh client does."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.functional.interop.clients import Client, Command, Step
from tests.functional.processes import REQUIRE_ALL, Finished
from tests.functional.ssh_door import SshFleet

__all__ = ["Asyncssh", "Paramiko"]


class _Library(Client):
    """Its program takes what to do as JSON; each run is one connection."""

    module = program = ""
    key_exchange = b"mlkem768x25519-sha256"

    def __init__(self, fleet: SshFleet) -> None:
        if importlib.util.find_spec(self.module) is None:
            message = f"{self.module} is not installed"
            if REQUIRE_ALL:
                raise AssertionError(message)
            raise SkipTest(message)
        super().__init__(fleet)

    def _command(self, do: str, user: str, **more: object) -> Command:
        told = {
            "do": do,
            "user": user,
            "port": self.fleet.ssh_port,
            "key": str(self.key),
            "host_key": self.host_key(),
            **more,
        }
        program = Path(__file__).with_name(self.program)
        return [sys.executable, "-P", str(program), json.dumps(told)]

    def run(self, user: str, line: str, *, rekey: bool = False, verbose: bool = False) -> Command:
        return self._command("run", user, line=line, rekey=rekey, verbose=verbose)

    def shell(self, user: str) -> Command:
        return self._command("shell", user)

    def forward(self, user: str, port: int) -> Command:
        return self._command("forward", user, target=port)

    def files(self, user: str, steps: Sequence[Step]) -> tuple[Command, bytes]:
        return self._command("files", user, steps=steps), b""

    def jump(self, user: str, port: int, key: Path, line: str) -> Command:
        host = " ".join(key.with_name("host.pub").read_text().split()[:2])
        inner = {"port": port, "key": str(key), "host_key": host}
        return self._command("jump", user, line=line, inner=inner)

    def several(self, user: str, lines: Sequence[str]) -> list[Finished]:
        done = self.fleet.command(self._command("several", user, lines=lines))
        assert done.status == 0, done
        return [Finished(status, out.encode(), b"") for status, out in json.loads(done.stdout)]

    def exchanges(self, told: bytes) -> int | None:
        return told.count(b"rshell-test: new keys")

    def agreed(self, told: bytes) -> bytes:
        match = re.search(rb"rshell-test: agreed (\S+)", told)
        return match[1] if match else b""


class Paramiko(_Library):
    """paramiko."""

    module, program = "paramiko", "paramiko_client.py"


class Asyncssh(_Library):
    """asyncssh."""

    module, program = "asyncssh", "asyncssh_client.py"
    tells_signal = b"TERM"
