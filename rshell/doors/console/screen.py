"""Screen: where everything that is not the input line is written.

Text that is written while nobody's line runs appears above the prompt.  A table may be repainted in
place while a line runs, and a device's shell may have the whole terminal for a while.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from rshell.doors.console.painting import safe_text

__all__ = ["Screen"]

#: What puts a terminal in order after a program that had it: main screen, colours off, cursor
#: shown, keys and mouse as usual, no bracketed paste, no scroll region, insert mode off.
RESTORE = (
    b"\x1b[?1049l\x1b[0m\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l"
    b"\x1b[?2004l\x1b[r\x1b[4l\x1b(B\x0f"
)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Send(Protocol):
    """Takes bytes for the terminal, or for standard error where there is none."""

    def __call__(self, data: bytes, stderr: bool = False) -> None:
        """Take them."""


class Screen:
    """One console's screen.

    Args:
        send: Takes the bytes for the terminal.
        columns: Its width; 0 for none.
        is_terminal: Whether it can be repainted and taken over.

    Attributes:
        above_prompt: Writes safe text above the input line; None while a line runs.
        taken_by: Takes what is typed, while the terminal is somebody else's.
        resized: Told the new size meanwhile.
        flow: Told whether nobody takes what is sent; at once, and with each change.
    """

    def __init__(self, send: Send, *, columns: int = 80, is_terminal: bool = True) -> None:
        self.rows = 24
        self.columns = columns
        self.is_terminal = is_terminal
        self.term = "xterm"
        self.above_prompt: Callable[[str], None] | None = None
        self.taken_by: Callable[[bytes], None] | None = None
        self.taken_changed: Callable[[], None] = lambda: None
        self.resized: Callable[[int, int], None] | None = None
        self.flow: Callable[[bool], None] | None = None
        self._send = send
        self._painted = 0
        self._column_zero = True

    # -- text ------------------------------------------------------------------------------------

    def write(self, text: str, *, end: str = "\n") -> None:
        """Show anybody's text, made safe."""
        self.show(safe_text(text), end=end)

    def show(self, text: str, *, end: str = "\n", error: bool = False) -> None:
        """Show text that is safe, and may have colours of ours."""
        if self.taken_by is not None:
            return  # a program's screen: nothing of ours belongs there
        if self.above_prompt is not None:
            self.above_prompt(text + (end if end != "\n" else ""))
            return
        self._painted = 0
        if not self.is_terminal:
            text = _COLOURS.sub("", text)
        self._put(text + end, error)

    def print(self, *values: Any, sep: str = " ", end: str = "\n", **ignored: Any) -> None:
        """Print on this console, as ``print`` does; what a terminal would act on is replaced."""
        if ignored.get("file") is not None:
            print(*values, sep=sep, end=end, **ignored)  # noqa: T201  # into what was asked for
        else:
            self.write(sep.join(str(value) for value in values), end=safe_text(end))

    def repaint(self, text: str) -> None:
        """Show safe text in the place of what `repaint` has shown last."""
        if not self.is_terminal or self.above_prompt is not None or self.taken_by is not None:
            return
        lines = text.split("\n")[: max(1, self.rows - 2)]
        if self._painted:
            self._send(f"\x1b[{self._painted}A\r\x1b[J".encode())
        self._put("\n".join(lines) + "\n")
        self._painted = len(lines)

    def unpaint(self) -> None:
        """Take away what `repaint` has shown; something final takes its place."""
        if self._painted and self.taken_by is None:
            self._send(f"\x1b[{self._painted}A\r\x1b[J".encode())
        self._painted = 0

    def begin_line(self) -> None:
        """Go to the beginning of a line, if we are not there."""
        if not self._column_zero:
            self._put("\n")

    def _put(self, text: str, error: bool = False) -> None:
        if not text:
            return
        self._column_zero = text.endswith("\n")
        line_end = "\r\n" if self.is_terminal else "\n"
        data = text.replace("\n", line_end).encode("utf-8", "replace")
        self._send(data, error and not self.is_terminal)

    # -- somebody else's -------------------------------------------------------------------------

    def take(
        self,
        typed: Callable[[bytes], None],
        resized: Callable[[int, int], None],
        flow: Callable[[bool], None],
    ) -> Callable[[bytes], None]:
        """Hand the terminal over.

        Args:
            typed: Takes what is typed.
            resized: Told new sizes: rows, columns.
            flow: Told that the terminal takes nothing (True), and takes it again.

        Returns:
            What writes to the terminal, untouched.
        """
        self._painted = 0
        self.taken_by, self.resized, self.flow = typed, resized, flow
        self.taken_changed()
        return self._send

    def give_back(self) -> None:
        """It is the console's again."""
        if self.taken_by is None:
            return
        self.taken_by = self.resized = self.flow = None
        self.taken_changed()
        self._send(RESTORE)
        self._column_zero = False
