"""PuTTY: plink and psftp.  The settings that have no option stand in a saved session."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.functional.interop.clients import Client, Command, Step, holding
from tests.functional.interop.openssh import quoted
from tests.functional.processes import until

__all__ = ["Putty"]


class Putty(Client):
    """``plink`` and ``psftp``; connection sharing for several channels."""

    programs = ("plink", "psftp", "puttygen")
    #: What plink exits with when the server says exit-signal.
    signal_status = 128

    @property
    def _key(self) -> Path:
        return self.folder / "id.ppk"

    def prepare(self) -> None:
        self._convert(self.key, self._key)
        sessions = self.fleet.base / ".putty" / "sessions"
        sessions.mkdir(parents=True, exist_ok=True)
        (sessions / "rekey").write_text("Protocol=ssh\nRekeyBytes=1M\n")

    def _convert(self, key: Path, target: Path) -> None:
        self.made(["puttygen", str(key), "-O", "private", "-o", str(target)])

    def _options(self) -> Command:
        return ["-batch", "-hostkey", self.fingerprint(), "-i", str(self._key),
                "-P", str(self.fleet.ssh_port)]  # fmt: skip

    def _words(self, *options: str) -> Command:
        return ["plink", *options, *self._options()]

    def run(self, user: str, line: str, *, rekey: bool = False, verbose: bool = False) -> Command:
        options = (*(("-v",) if verbose else ()), *(("-load", "rekey") if rekey else ("-ssh",)))
        return [*self._words(*options), f"{user}@127.0.0.1", line]

    def shell(self, user: str) -> Command:
        return [*self._words("-t"), f"{user}@127.0.0.1"]

    def forward(self, user: str, port: int) -> Command:
        return [*self._words("-nc", f"127.0.0.1:{port}"), f"{user}@127.0.0.1"]

    def files(self, user: str, steps: Sequence[Step]) -> tuple[Command, bytes]:
        words = {"rename": "mv"}
        text = "".join(f"{words.get(verb, verb)} {' '.join(more)}\n" for verb, *more in steps)
        return ["psftp", *self._options(), f"{user}@127.0.0.1"], f"{text}quit\n".encode()

    def jump(self, user: str, port: int, key: Path, line: str) -> Command:
        inner = self.folder / "inner.ppk"
        self._convert(key, inner)
        proxy = quoted(self.forward(user, port))
        public = self.fleet.command(["ssh-keygen", "-l", "-f", str(key.with_name("host.pub"))])
        host = public.stdout.decode().split()[1]
        return ["plink", "-ssh", "-batch", "-hostkey", host, "-i", str(inner),
                "-proxycmd", proxy, "-P", str(port), f"{getpass.getuser()}@localhost",
                line]  # fmt: skip

    @contextmanager
    def shared(self, user: str) -> Iterator[Callable[[str], Command]]:
        command = [*self._words("-share", "-N"), f"{user}@127.0.0.1"]
        exists = [*self._words("-shareexists"), f"{user}@127.0.0.1"]
        with holding(self.fleet, command, None):
            until(lambda: self.fleet.command(exists).status == 0, "a shared connection")
            yield lambda line: [*self._words("-share"), f"{user}@127.0.0.1", line]

    def exchanges(self, told: bytes) -> int:
        return len(re.findall(rb"Doing ECDH key exchange", told))

    def agreed(self, told: bytes) -> bytes:
        found = b"ECDH key exchange with curve Curve25519, using hash SHA-256" in told
        return self.key_exchange if found else b""
