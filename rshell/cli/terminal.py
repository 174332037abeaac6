"""Our terminal in raw mode, always put back, and the ``~`` escapes of an interactive shell."""

from __future__ import annotations

import atexit
import os
import re
import termios
import tty
from typing import Any

__all__ = [
    "ESCAPE_HELP",
    "WATCH_HELP",
    "EscapeFilter",
    "RawTerminal",
    "terminal_size",
    "terminal_type",
]

ESCAPE_HELP = (
    "\r\nSupported escapes, at the beginning of a line:\r\n"
    " ~.  disconnect and end the shell\r\n"
    " ~d  detach: leave the shell running, for rshell attach\r\n"
    " ~?  this help\r\n"
    " ~~  one ~\r\n"
)
WATCH_HELP = "\r\nYou are watching: nothing that you type is sent. ~. or Ctrl-C leaves.\r\n"
_MAX_CELLS = 1000


class RawTerminal:
    """Raw mode of a terminal; `restore` and the process's end put the old mode back.

    Args:
        descriptor: Of the terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def enter(self) -> None:
        """Every key goes to the device from now on, Ctrl-C included.

        Raises:
            termios.error: It is no terminal.
        """
        if self._saved is None:
            self._saved = termios.tcgetattr(self._descriptor)
            # However the interpreter ends, a terminal without echo is not left behind.
            atexit.register(self.restore)
            tty.setraw(self._descriptor, termios.TCSANOW)

    def restore(self) -> None:
        """Put the mode back that `enter` found; nothing happens the second time."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        atexit.unregister(self.restore)
        try:
            # NOW, not DRAIN: a terminal stopped by Ctrl-S would hold us here for ever.
            termios.tcsetattr(self._descriptor, termios.TCSANOW, saved)
        except (termios.error, OSError):
            pass  # it hung up


class EscapeFilter:
    """Finds ``~.`` and its kin in what is typed; pure.

    Only a ``~`` typed first on a line counts, as with ssh.
    """

    def __init__(self) -> None:
        self._line_begins = True
        self._tilde = False

    def feed(self, data: bytes) -> tuple[bytes, list[str]]:
        """Take typed bytes.

        Returns:
            What goes to the device, and the commands that were found: ``quit`` and ``detach``
            (nothing after them counts) and ``help``.
        """
        if not self._tilde and not self._line_begins and b"~" not in data:
            self._line_begins = data[-1:] in (b"\r", b"\n") if data else self._line_begins
            return data, []
        passed = bytearray()
        commands: list[str] = []
        for byte in data:
            if self._tilde:
                self._tilde = False
                if byte == ord("."):
                    commands.append("quit")
                    return bytes(passed), commands
                if byte == ord("d"):
                    commands.append("detach")
                    return bytes(passed), commands
                if byte == ord("?"):
                    commands.append("help")
                    continue
                if byte != ord("~"):
                    passed += b"~"
            elif self._line_begins and byte == ord("~"):
                self._tilde = True
                continue
            passed.append(byte)
            self._line_begins = byte in b"\r\n"
        return bytes(passed), commands


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Return rows and columns of a terminal; 0 by 0 if it does not say."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return min(size.lines, _MAX_CELLS), min(size.columns, _MAX_CELLS)


def terminal_type(name: str) -> str:
    """Return ``$TERM`` if it can be passed on, else ``xterm``."""
    return name if re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", name, re.ASCII) else "xterm"
