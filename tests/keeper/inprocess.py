"""A keeper in this very process, on a clock that the test moves, with processes it plays itself."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.loop import Loop
from rshell_agent.keeper.policy import PolicyFile
from rshell_agent.keeper.process import Account, Command, Process
from rshell_agent.keeper.server import Server
from rshell_agent.keeper.sessions import Sessions
from tests.keeper.client import Control, Keeper, Stream

_TURNS = 100_000  # more is a loop that spins


class PlayedProcess(Process):
    """Real pipes, but nobody behind them: the test says what the program does.

    Attributes:
        told: What the session did to it: ("resize", rows), ("signal", number), ("term",), ("kill",)
    """

    def __init__(self, command: Command, number: int) -> None:
        self.terminal = command.size is not None
        self.slave = None
        self.pid = 1_000_000 + number
        self.told: list[tuple[Any, ...]] = []
        self._ended: tuple[int, int] | None = None
        self.status, started = os.pipe()
        os.close(started)  # it runs
        self._reads, stdin = os.pipe()
        output, self._writes = os.pipe()
        error, self._errors = os.pipe()
        self.stdin = stdin
        self.outputs = {output: False} if self.terminal else {output: False, error: True}
        if self.terminal:
            os.close(error)
        for fd in (self.status, stdin, output, self._reads, self._writes, self._errors):
            os.set_blocking(fd, False)
        if not self.terminal:
            os.set_blocking(error, False)

    def narrow(self) -> None:
        """Have the pipe of its input hold one page only."""
        fcntl.fcntl(self._reads, fcntl.F_SETPIPE_SZ, 4096)

    # -- what the program does ---------------------------------------------------------------

    def write(self, data: bytes, stderr: bool = False) -> int:
        """Write as a program would; return how much the pipe took."""
        try:
            return os.write(self._errors if stderr else self._writes, data)
        except BlockingIOError:
            return 0

    def read(self, most: int = 65536) -> bytes | None:
        """Return input, b"" at its end, None when there is none yet."""
        try:
            return os.read(self._reads, most)
        except BlockingIOError:
            return None

    def exit(self, status: int = 0) -> None:
        """End; the caller tells the keeper, as SIGCHLD would."""
        if self._ended is None:
            self._ended = os.CLD_EXITED, status
            for fd in (self._reads, self._writes, self._errors):
                os.close(fd)

    # -- what the session asks for -----------------------------------------------------------

    def resize(self, rows: int, columns: int) -> None:
        self.told.append(("resize", rows, columns))

    def foreground(self) -> int:
        return self.pid

    def signal(self, *groups: int, number: int) -> None:
        self.told.append(("signal", number))

    def terminate(self) -> None:
        self.told.append(("term",))

    def kill(self) -> None:
        self.told.append(("kill",))

    def exit_status(self) -> tuple[int, int] | None:
        return self._ended

    def reap(self) -> None:
        self.told.append(("reaped",))


class Quiet(Exception):
    """Nothing more comes from the keeper, for now."""


class LoopSocket:
    """As much of a blocking socket as `tests.keeper.client` uses; waiting turns the loop."""

    def __init__(self, keeper: InProcess, sock: socket.socket) -> None:
        self._keeper, self._socket = keeper, sock
        sock.setblocking(False)

    def sendall(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._keeper.settle()
        self._keeper.settle()

    def recv(self, size: int) -> bytes:
        self._keeper.settle()
        try:
            return self._socket.recv(size)
        except BlockingIOError:
            raise Quiet from None

    def close(self) -> None:
        self._socket.close()
        self._keeper.settle()


class InProcess(Keeper):
    """Sessions, server and loop, without a process of their own.

    Args:
        policy: The policy file's text.
        real: Start real processes.
        times: Other waits than the keeper's.

    Attributes:
        processes: Those that were played, in the order of their start.
        time: The keeper's clock, in seconds.
    """

    def __init__(self, policy: str = "", real: bool = False, **times: float) -> None:
        self.home = tempfile.mkdtemp(prefix="keeper-")
        self.policy(policy)
        self.time = 0.0
        self.lines: list[str] = []
        self.spawned = 0
        self.processes: list[PlayedProcess] = []
        self.loop = Loop(self.lines.append, lambda: self.time)
        self.sessions = Sessions(
            self.loop,
            Times(**times),
            PolicyFile(self.home, None),
            self._spawn_real if real else self._play,
        )
        self.server = Server(self.sessions, None, self.lines.append)
        self.real = real

    def _play(self, command: Command, account: Account, extra: dict[bytes, bytes]) -> Process:
        self.spawned += 1
        self.processes.append(PlayedProcess(command, self.spawned))
        return self.processes[-1]

    def _spawn_real(self, command: Command, account: Account, extra: dict[bytes, bytes]) -> Process:
        self.spawned += 1
        return Process(command, account, extra)

    def socket(self) -> socket.socket:
        """Return the peer's side of a new connection."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.server.serve(theirs)
        return ours

    def connect(self) -> Any:
        return LoopSocket(self, self.socket())

    def settle(self, longest: float = 0.0) -> None:
        """Turn the loop until nothing happens."""
        for _ in range(_TURNS):
            self.sessions.children_changed()
            if not self.loop.turn(longest):
                return
        raise AssertionError("the loop does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        self.time += seconds
        self.settle()

    def until(self, condition: Callable[[], Any]) -> None:
        """Turn the loop for real processes, which take their own time."""
        for _ in range(1000):
            if condition():
                return
            self.settle(0.02)
        raise AssertionError("it did not happen")

    def watch(self, key: bytes, **fields: Any) -> View:
        """Open a view and expect OPENED."""
        view = View(self.connect())
        view.open(key, "-", view=True, **fields)
        assert view.refused is None, view.refused
        return view

    def attach(self, key: bytes, attempt: int, **fields: Any) -> View:
        """Attach as another terminal does, or with other positions; `everything` reads it."""
        resume = {"consumed": 0, "limit": 1 << 20, "events": 0}
        view = View(self.connect())
        view.open(key, "-", attempt=attempt, resume=resume | fields)
        assert view.refused is None, view.refused
        return view

    def described(self, key: bytes) -> dict[str, Any]:
        """Return what the call `sessions` tells of one."""
        control: Control = self.control()
        found = control.session(key)
        control.close()
        assert found is not None
        return found

    def stop(self) -> int:
        """End what is left; no fault may have happened."""
        for process in self.processes:
            process.exit()
        for session in tuple(self.sessions._sessions.values()):
            session.stop(None)
            if self.real:
                session.process.kill()
        self.settle(0.05 if self.real else 0.0)
        self.loop.close()
        shutil.rmtree(self.home, ignore_errors=True)
        faults = [line for line in self.lines if line.startswith("fault:")]
        assert not faults, faults
        return 0


class View(Stream):
    """An operator's end that reads what there is and then goes on."""

    def everything(self) -> bytes:
        """Take all frames that are there; return all of stdout so far."""
        try:
            while self.step():
                pass
        except Quiet:
            pass
        return self.stdout

    def closed(self) -> bool:
        """Say whether the keeper closed the connection, after what it sent."""
        try:
            while self.step():
                pass
        except Quiet:
            return False
        return True
