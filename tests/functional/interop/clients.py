"""What an SSH client has to be able to do for the interop list: a command line for each item.

Standard input and output of each command line are the command's on the device, its exit status
is the command's own; so one list of tests serves them all.
"""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.functional.processes import Finished, Program, until
from tests.functional.ssh_door import SshFleet

__all__ = ["MIB", "Client", "Command", "Step"]

MIB = 1024 * 1024

Command = list[str | bytes]
#: ("put", here, there), ("get", there, here), ("rename", before, after), ("ls", folder).
Step = tuple[str, ...]


class Client:
    """One client, set up for one fleet.

    Args:
        fleet: Its door, and the key ``id`` of its operator.

    Attributes:
        programs: What must be installed.
        signal_status: How it ends when a signal ended the command.
        tells_signal: What it writes then.
        key_exchange: What it must agree on with the door.
    """

    programs: tuple[str, ...] = ()
    signal_status = 255
    tells_signal = b""
    key_exchange = b"curve25519-sha256"

    def __init__(self, fleet: SshFleet) -> None:
        self.fleet = fleet
        self.folder = fleet.base / type(self).__name__.lower()
        if not self.folder.exists():
            self.folder.mkdir()
            self.prepare()

    @property
    def key(self) -> Path:
        """The operator's private key, as OpenSSH keeps it."""
        return self.fleet.base / "id"

    def host_key(self) -> str:
        """Return the gateway's public key, as ``type base64``."""
        text = (self.fleet.home / "ssh_host_ed25519_key.pub").read_text()
        return " ".join(text.split()[:2])

    def fingerprint(self) -> str:
        """Return its fingerprint, as ``SHA256:…``."""
        path = self.fleet.home / "ssh_host_ed25519_key.pub"
        done = self.fleet.command(["ssh-keygen", "-l", "-f", str(path)])
        return done.stdout.decode().split()[1]

    def made(self, command: Sequence[str | bytes]) -> None:
        """Run a program that must succeed."""
        done = self.fleet.command(command)
        assert done.status == 0, done

    def prepare(self) -> None:
        """Bring keys and settings into this client's shape, once for each fleet."""

    @abstractmethod
    def run(self, user: str, line: str, *, rekey: bool = False, verbose: bool = False) -> Command:
        """Run a line; with ``rekey`` the client asks for new keys after each megabyte.

        ``verbose`` lets it tell on standard error what `exchanges` reads.
        """

    @abstractmethod
    def shell(self, user: str) -> Command:
        """Start a login shell at this terminal."""

    @abstractmethod
    def forward(self, user: str, port: int) -> Command:
        """Join standard input and output to a port of the device's loopback."""

    @abstractmethod
    def files(self, user: str, steps: Sequence[Step]) -> tuple[Command, bytes]:
        """Return a command line and its input that move files by SFTP; ``ls`` goes to stdout."""

    @abstractmethod
    def jump(self, user: str, port: int, key: Path, line: str) -> Command:
        """Run a line by the device's own sshd, end to end, through the door as a jump host.

        Args:
            user: Whom to be at the door.
            port: Where that sshd listens on the device; its login is this process's.
            key: What it lets in, as OpenSSH keeps keys.
            line: To run.
        """

    def several(self, user: str, lines: Sequence[str]) -> list[Finished]:
        """Run lines at the same time over one connection."""
        with self.shared(user) as command:
            running = [self.fleet.start(command(line)) for line in lines]
            return [program.finish(b"", 60) for program in running]

    @contextmanager
    def shared(self, user: str) -> Iterator[_MakeCommand]:
        """Hold a connection, and make command lines that use it."""
        raise NotImplementedError
        yield  # pragma: no cover

    def exchanges(self, told: bytes) -> int | None:
        """Return how often keys were agreed, by what the client told; None: it tells nothing."""
        return None

    def agreed(self, told: bytes) -> bytes | None:
        """Return the key exchange that was agreed, by what the client told; None: it tells nothing.

        That there was one then says which: the door has no other that such a client knows.
        """
        return None


class _MakeCommand:
    """The type of what `Client.shared` yields."""

    def __call__(self, line: str) -> Command:
        raise NotImplementedError


@contextmanager
def holding(fleet: SshFleet, command: Command, socket: Path | None) -> Iterator[Program]:
    """Run a program meanwhile, once the socket that it serves is there."""
    program = fleet.start(command)
    try:
        if socket is not None:
            until(socket.exists, lambda: f"{socket}: {program.process.poll()}")
        yield program
    finally:
        program.process.terminate()
        try:
            program.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        program.kill()
