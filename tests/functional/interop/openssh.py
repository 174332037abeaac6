"""OpenSSH: ssh and sftp."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.functional.interop.clients import Client, Command, Step, holding

__all__ = ["OpenSsh", "quoted", "sftp_batch"]

_REKEY = ("-oRekeyLimit=1M",)


def quoted(words: Sequence[str | bytes]) -> str:
    """Return words as a line for a shell; none of them has a quote."""
    return " ".join(f"'{word if isinstance(word, str) else word.decode()}'" for word in words)


def sftp_batch(steps: Sequence[Step]) -> bytes:
    """Return what OpenSSH's sftp reads from ``-b -``."""
    words = {"ls": "ls -l"}
    return "".join(f"{words.get(verb, verb)} {' '.join(more)}\n" for verb, *more in steps).encode()


class OpenSsh(Client):
    """``ssh`` and ``sftp``; ControlMaster for several channels."""

    programs = ("ssh", "sftp", "ssh-keygen")

    def run(self, user: str, line: str, *, rekey: bool = False, verbose: bool = False) -> Command:
        told = ("-v", "-oLogLevel=DEBUG1") if verbose else ()
        return self.fleet.ssh_command(user, line, options=(*told, *(_REKEY if rekey else ())))

    def shell(self, user: str) -> Command:
        return self.fleet.ssh_command(user)

    def forward(self, user: str, port: int) -> Command:
        return self.fleet.ssh_command(user, options=("-W", f"127.0.0.1:{port}"))

    def files(self, user: str, steps: Sequence[Step]) -> tuple[Command, bytes]:
        command = ["sftp", *self.fleet.options(), *_REKEY, "-q", "-b", "-", f"{user}@127.0.0.1"]
        return command, sftp_batch(steps)

    def jump(self, user: str, port: int, key: Path, line: str) -> Command:
        # What -J does, with settings for both: ssh gives the outer one none but the file's.
        proxy = quoted(self.fleet.ssh_command(user, options=("-W", "%h:%p")))
        return [
            "ssh", "-F", "/dev/null", f"-oProxyCommand={proxy}", "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={self.folder}/hosts",
            "-oIdentitiesOnly=yes", f"-oIdentityFile={key}", "-oLogLevel=ERROR",
            "-p", str(port), f"{getpass.getuser()}@127.0.0.1", line,
        ]  # fmt: skip

    @contextmanager
    def shared(self, user: str) -> Iterator[Callable[[str], Command]]:
        path = self.folder / "mux"
        path.unlink(missing_ok=True)
        words = ("-N", "-M", f"-oControlPath={path}")
        master = self.fleet.ssh_command(user, options=words)
        mux = (f"-oControlPath={path}", "-oControlMaster=no", "-oProxyCommand=false")
        with holding(self.fleet, master, path):
            yield lambda line: self.fleet.ssh_command(user, line, options=mux)

    def exchanges(self, told: bytes) -> int:
        return told.count(b"SSH2_MSG_NEWKEYS received")

    def agreed(self, told: bytes) -> bytes:
        match = re.search(rb"kex: algorithm: (\S+)", told)
        return match[1] if match else b""
