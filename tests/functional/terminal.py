"""A person at a terminal: a program on a real pseudo-terminal, typed at and looked at."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Terminal"]


class Terminal:
    """A program whose controlling terminal is a pseudo-terminal of ours.

    Args:
        command: The program.
        environ: Its environment.
        cwd: Its directory.
        rows, columns: The window.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        environ: dict[str, str],
        cwd: Path,
        rows: int = 30,
        columns: int = 100,
    ) -> None:
        # Both sides stay open here: the mode can be looked at after the program is gone.
        self._master, self._slave = pty.openpty()
        self._set_size(rows, columns)
        self.seen = b""
        self._mark = 0
        self.initial = self.mode()
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environ,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=self._control,  # noqa: PLW1509  # one thread, and nothing else makes it the terminal
        )

    @staticmethod
    def _control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def mode(self) -> list[Any]:
        """Return the terminal's attributes."""
        return termios.tcgetattr(self._slave)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size, as a terminal emulator does; the kernel sends SIGWINCH."""
        # On the master: the signal goes to the foreground group of the terminal.
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes | str) -> None:
        """Type."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self._master, data) :]

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self._master, 65536)
        return True

    def expect(self, pattern: bytes | str, seconds: float = 15) -> re.Match[bytes]:
        """Wait for a pattern in what was shown since the last match.

        Raises:
            AssertionError: It did not come in time.
        """
        wanted = pattern.encode() if isinstance(pattern, str) else pattern
        deadline = time.monotonic() + seconds
        while True:
            match = re.compile(wanted, re.M).search(self.seen, self._mark)
            if match is not None:
                self._mark = match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {wanted!r} within {seconds:g} s: {self.seen[-800:]!r}")
            self._read(min(left, 0.2))

    def wait(self, seconds: float = 20) -> int:
        """Wait for the program's end, reading what it shows; return its status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {seconds:g} s: {self.seen[-800:]!r}")
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def hang_up(self) -> None:
        """Close the terminal's window under the program."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def close(self) -> None:
        """End the program and give the terminal back."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self._master != -1:
            self.hang_up()
