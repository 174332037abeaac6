"""Runs the real ``rshell`` command as a child process against a scripted gateway."""

from __future__ import annotations

import os
import pty
import signal
import stat
import struct
import sys
import termios
from collections.abc import Callable
from fcntl import F_GETFL, fcntl, ioctl
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.client.fake_gateway import FakeGateway, FakeStream

ROOT = Path(__file__).resolve().parents[2]


LIVE = "2026-01-01T00:00:00Z"


def listed(name: str, state: str = "live", **more: Any) -> dict[str, Any]:
    """Return a device as the gateway lists it."""
    return {"id": name, "name": name, "state": state, "last_seen": LIVE, **more}


class RshellProcess(ProcessProtocol):
    """One run of the command.

    Attributes:
        out: What it wrote to stdout; err: to stderr.
        ended: Fires with the exit status (minus the signal's number if one ended it).
        status: The same, once it is known.
    """

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.ended: Deferred[int] = Deferred()
        self.status: int | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def outReceived(self, data: bytes) -> None:
        self.out += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.err += data
        self._look()

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fire when the condition holds; looked at whenever output arrives."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((condition, waiting))
        self._look()
        return waiting

    def _look(self) -> None:
        for entry in list(self._waiting):
            if entry[0]():
                self._waiting.remove(entry)
                entry[1].callback(None)

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.status = -value.signal if value.signal else value.exitCode
        self.ended.callback(self.status)

    def signal(self, name: str) -> None:
        """Send it a signal: a name without SIG."""
        transport: Any = self.transport
        transport.signalProcess(getattr(signal, f"SIG{name}"))

    def close_stdout(self) -> None:
        """Read no more of its stdout."""
        transport: Any = self.transport
        transport.closeStdout()


class CliCase(TestCase):
    """A scripted gateway whose home the command is given."""

    timeout = 30

    def setUp(self) -> None:
        self.gateway = FakeGateway(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.gateway.stop()))
        self.home = self.gateway.write_home(Path(self.mktemp()).absolute())

    def start(
        self, *arguments: str | bytes, fds: dict[int, Any] | None = None, **environ: str
    ) -> RshellProcess:
        """Start ``rshell ARGUMENTS`` with the gateway's home in $RSHELL_HOME."""
        process = RshellProcess()
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'agent'}",
            "HOME": str(self.home),
            "RSHELL_HOME": str(self.home),
            "TERM": "xterm",
            **environ,
        }
        argv = [sys.executable, "-m", "rshell.cli", *arguments]
        options: dict[str, Any] = {} if fds is None else {"childFDs": fds}
        transport = reactor.spawnProcess(process, sys.executable, argv, env, path="/", **options)

        def kill() -> None:
            if not process.ended.called:
                transport.signalProcess("KILL")

        self.addCleanup(kill)
        return process

    async def rshell(self, *arguments: str | bytes, stdin: bytes = b"") -> RshellProcess:
        """Run it to its end; `status` of the result is its exit status."""
        process = self.start(*arguments)
        transport: Any = process.transport
        if stdin:
            transport.write(stdin)
        transport.closeStdin()
        await process.ended
        return process


class TerminalCase(CliCase):
    """The command on a real pseudo-terminal of 40 rows by 100 columns."""

    def setUp(self) -> None:
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(self.slave)

    def on_terminal(self, *arguments: str) -> RshellProcess:
        """Start ``rshell ARGUMENTS`` with the terminal as its input."""
        return self.start(*arguments, fds={0: self.slave, 1: "r", 2: "r"}, TERM="vt220")

    def assert_restored(self) -> None:
        """The terminal is as we lent it."""
        self.assertEqual(termios.tcgetattr(self.slave), self.before)
        self.assertEqual(fcntl(self.slave, F_GETFL) & os.O_NONBLOCK, 0)
        self.assertTrue(stat.S_ISCHR(os.fstat(self.slave).st_mode))

    def echoing(self, on_input: Any = None) -> None:
        """The device "pump" has a shell that echoes, tells its size, and ends when cancelled."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.write(b"ready\r\n")
            stream.on_data = on_input or stream.channel.write

            def event(kind: str, body: dict[str, Any]) -> None:
                if kind == "cancel":
                    stream.finish(status="signal", signal="HUP")
                elif kind == "window":
                    stream.channel.write(f"{body['rows']}x{body['columns']}".encode())

            stream.on_event = event

        self.gateway.devices["pump"] = behave
