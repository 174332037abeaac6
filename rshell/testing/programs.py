"""Programs that a simulated device can run, and the process that runs one.

A program is driven by the fleet, never by the kernel's scheduler; it reads and writes real pipes,
so that the keeper sees what a real process would show it.  ``PROGRAMS`` has those that every device
knows; give a device more with ``fleet.add_device(name, programs={...})``.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = [
    "PROGRAMS",
    "Program",
    "ProgramIO",
    "SimulatedProcess",
    "command_line",
    "exchange_report",
    "pattern",
    "program_for",
]

_PIECE_BYTES = 16 * 1024
_HARMLESS = (signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


def pattern(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that look random and are the same for the same seed."""
    return random.Random(seed).randbytes(size)


class ProgramIO:
    """What a program can do: read, write, wait, exit.

    Attributes:
        argv: Its command line; a shell has none.
        exited: Set by `exit` and by signals: (exit status or None, signal number or None).
        signals: Those that do not end a program, as they came.
        rows: The terminal's size, 0 without one.
        columns: Likewise.
    """

    def __init__(
        self, argv: list[bytes], stdin: int, stdout: int, stderr: int, clock: Callable[[], float]
    ) -> None:
        self.argv = argv
        self.exited: tuple[int | None, int | None] | None = None
        self.rows = self.columns = 0
        self.signals: list[int] = []
        self.now = clock
        self._fds = {"stdin": stdin, "stdout": stdout, "stderr": stderr}

    def argument(self, number: int, default: int = 0) -> int:
        """Return an argument as a number."""
        return int(self.argv[number]) if len(self.argv) > number else default

    def read(self, size: int = _PIECE_BYTES) -> bytes | None:
        """Return input, None while there is none, b"" at its end."""
        try:
            return os.read(self._fds["stdin"], size)
        except BlockingIOError:
            return None

    def write(self, data: bytes, *, stderr: bool = False) -> int:
        """Write what fits into the pipe; return how much that was.

        Writing to a pipe whose reader is gone ends the program, as SIGPIPE does.
        """
        if not data:
            return 0
        try:
            return os.write(self._fds["stderr" if stderr else "stdout"], data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.exited = (None, int(signal.SIGPIPE))
            return 0

    def exit(self, status: int = 0) -> None:
        """End."""
        if self.exited is None:
            self.exited = (status, None)

    def close(self) -> None:
        """Close the program's ends."""
        fds, self._fds = self._fds, {}
        for fd in set(fds.values()):
            os.close(fd)


class Program(Protocol):
    """Something to run."""

    def step(self, io: ProgramIO) -> bool:
        """Do a little; return whether anything was done, or there is a use in asking again now."""


class Cat:
    """``cat``: copies input to output."""

    def __init__(self) -> None:
        self._held = b""
        self._ended = False

    def step(self, io: ProgramIO) -> bool:
        moved = False
        if not self._held and not self._ended:
            data = io.read()
            self._held, self._ended = data or b"", data == b""
            moved = data is not None
        if self._held:
            count = io.write(self._held)
            self._held = self._held[count:]
            moved = moved or count > 0
        if self._ended and not self._held:
            io.exit()
        return moved


class Exchange:
    """``exchange BYTES [SEED]``: writes a `pattern` while it reads to the end of input.

    Then it says on standard error how many bytes of what SHA-256 it has read, and which signals
    it got (USR1 and USR2 do not end it), and exits with 0; see `exchange_report`.
    """

    def __init__(self) -> None:
        self._out: bytes | None = None
        self._digest = hashlib.sha256()
        self._count = 0
        self._ended = False

    def step(self, io: ProgramIO) -> bool:
        if self._out is None:
            self._out = pattern(io.argument(1), io.argument(2))
        moved = False
        if not self._ended:
            data = io.read()
            if data is not None:
                moved = True
                self._digest.update(data)
                self._count += len(data)
                self._ended = not data
        if self._out:
            count = io.write(self._out[:_PIECE_BYTES])
            self._out = self._out[count:]
            moved = moved or count > 0
        if self._ended and not self._out:
            digest = self._digest.hexdigest()
            io.write(_report(self._count, digest, io.signals), stderr=True)
            io.exit()
        return moved


def _report(count: int, digest: str, signals: list[int]) -> bytes:
    names = " ".join(signal.Signals(number).name for number in signals)
    return f"{count} {digest} {names}\n".encode()


def exchange_report(data: bytes, signals: Sequence[str] = ()) -> bytes:
    """Return what ``exchange`` says on standard error of this input and these signals."""
    numbers = [int(signal.Signals[f"SIG{name}"]) for name in signals]
    return _report(len(data), hashlib.sha256(data).hexdigest(), numbers)


class Ticks:
    """``ticks SECONDS COUNT``: writes a numbered line every so often, then exits."""

    def __init__(self) -> None:
        self._written = 0
        self._next: float | None = None

    def step(self, io: ProgramIO) -> bool:
        if self._next is None:
            self._next = io.now() + io.argument(1)
        if io.now() < self._next:
            return False
        line = b"tick %d\n" % (self._written + 1)
        if io.write(line) == 0:
            return False
        self._written += 1
        self._next += io.argument(1)
        if self._written >= io.argument(2):
            io.exit()
        return True


class Exit:
    """``exit STATUS``."""

    def step(self, io: ProgramIO) -> bool:
        io.exit(io.argument(1))
        return True


class Sleep:
    """``sleep SECONDS``."""

    def __init__(self) -> None:
        self._until: float | None = None

    def step(self, io: ProgramIO) -> bool:
        if self._until is None:
            self._until = io.now() + io.argument(1)
        if io.now() >= self._until:
            io.exit()
            return True
        return False


class Shell:
    """A login shell that knows ``exit [N]`` and says every other line back after a prompt."""

    def __init__(self) -> None:
        self._in = b""
        self._out = b"$ "
        self._status: int | None = None

    def step(self, io: ProgramIO) -> bool:
        moved = False
        if self._status is None and len(self._out) < _PIECE_BYTES:
            data = io.read()
            moved = data is not None
            if data == b"" or (data and b"\x04" in data):
                self._status = 0
            elif data:
                self._obey(data)
        count = io.write(self._out)
        self._out = self._out[count:]
        if self._status is not None and not self._out:
            io.exit(self._status)
        return moved or count > 0

    def _obey(self, data: bytes) -> None:
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"exit":
                self._status = int(number or b"0")
                return
            self._out += b"said: " + line + b"\n$ "


#: What every simulated device knows, by the first word of the command line; "" is the login shell.
PROGRAMS: Mapping[str, Callable[[], Program]] = {
    "": Shell,
    "cat": Cat,
    "exchange": Exchange,
    "exit": Exit,
    "sleep": Sleep,
    "ticks": Ticks,
}


class SimulatedProcess:
    """One process as the keeper's sessions use it: its descriptors, its end, signals to it.

    Args:
        program: What it runs.
        argv: Its command line.
        size: Rows and columns of its terminal, or None.
        pid: Its number.
        clock: Seconds.
        ended: Called when it has exited, as SIGCHLD would.
    """

    touched: int | None = None  # simulated workers touch no files

    def __init__(
        self,
        program: Program,
        argv: list[bytes],
        size: tuple[int, int] | None,
        pid: int,
        clock: Callable[[], float],
        ended: Callable[[], None],
    ) -> None:
        self.pid = pid
        self.terminal = size is not None
        self.slave: int | None = None
        self.status, told = os.pipe()
        os.close(told)  # it runs
        input_end, stdin = os.pipe()
        output, output_end = os.pipe()
        self.stdin: int | None = stdin
        self.outputs: dict[int, bool] = {output: False}
        error_end = output_end
        if not self.terminal:
            error, error_end = os.pipe()
            self.outputs[error] = True
        for fd in {input_end, output_end, error_end, stdin, self.status, *self.outputs}:
            os.set_blocking(fd, False)
        self.io = ProgramIO(argv, input_end, output_end, error_end, clock)
        if size is not None:
            self.resize(*size)
        self._program = program
        self._ended = ended
        self._reported = False

    def step(self) -> bool:
        """Let the program do a little; return whether anything happened."""
        if self._reported:
            return False
        moved = self.io.exited is None and self._program.step(self.io)
        if self.io.exited is None:
            return moved
        self._reported = True
        self.io.close()
        self._ended()
        return True

    def abandon(self, *, starting: bool) -> None:
        """The keeper was killed: close what it held, which ends the program too."""
        held = [self.stdin, *self.outputs, self.status if starting else None]
        for fd in held:
            if fd is not None:
                os.close(fd)
        if not self._reported:
            self._reported = True
            self.io.close()

    # -- what the keeper calls -------------------------------------------------------------------

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        self.io.rows, self.io.columns = rows, columns

    def foreground(self) -> int:
        """Return the process group."""
        return self.pid

    def signal(self, *groups: int, number: int) -> None:
        """Send a signal; most of them end a program."""
        if number in _HARMLESS:
            self.io.signals.append(number)
        elif self.io.exited is None:
            self.io.exited = (None, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.signal(self.pid, number=int(signal.SIGTERM))

    def kill(self) -> None:
        """End it."""
        self.signal(self.pid, number=int(signal.SIGKILL))

    def exit_status(self) -> tuple[int, int] | None:
        """Return waitid's code and status once it has ended."""
        if not self._reported or self.io.exited is None:
            return None
        status, number = self.io.exited
        if number is not None:
            return os.CLD_KILLED, number
        return os.CLD_EXITED, status or 0

    def reap(self) -> None:
        """Nothing to let go of."""


def program_for(command: Any, programs: Mapping[str, Callable[[], Program]]) -> Program | None:
    """Return a new program for a keeper's checked command, None if there is no such."""
    name = "" if command.kind == "shell" else command_line(command)[0].decode(errors="replace")
    made = programs.get(name)
    return None if made is None else made()


def command_line(command: Any) -> list[bytes]:
    """Return a command's words; a line is split at blanks."""
    if command.kind == "shell":
        return []
    words: list[bytes] = list(command.argv) if command.line is None else command.line.split()
    return words or [b"?"]
