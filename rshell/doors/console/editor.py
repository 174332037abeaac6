"""The line editor: conch's Manhole with a line that is drawn anew as a whole.

Conch's ColoredManhole writes a character here and a cursor movement there, which goes wrong with
lines wider than the terminal, with characters of several bytes, and with source that cannot be
cut into tokens.  Here the state is the truth and each change draws the one line again; what does
not fit scrolls sideways, as in readline's horizontal-scroll-mode.  What it is not: it runs nothing;
lines go to its owner, and while that is busy, what is typed waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, MutableSequence
from typing import Any, Protocol

from twisted.conch import manhole
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.doors.console.painting import RESET, cells, colour_source, safe_text

__all__ = ["ConsoleLine", "LineOwner"]

#: Characters of one line.
MAX_LINE = 8 * 1024
#: Lines of the history that are kept.
MAX_HISTORY = 1000
#: Candidates that are listed.
MAX_LISTED = 200
_BELL = b"\a"
_INDENT = b"    "


class LineOwner(Protocol):
    """Whom the line editor works for."""

    @property
    def busy(self) -> bool:
        """Whether a line runs: what is typed waits."""

    @property
    def before(self) -> str:
        """The lines of an incomplete statement, each with its newline."""

    def line_entered(self, line: str) -> None:
        """Return was pressed."""

    def interrupt(self) -> None:
        """Ctrl-C, also while a line runs."""

    def leave(self) -> None:
        """Ctrl-D on an empty line."""

    def complete(self, text: str) -> Awaitable[tuple[int, list[str]]]:
        """Return how many characters before the cursor are replaced, and by what."""


class ConsoleLine(manhole.Manhole):
    """One terminal's line.

    Args:
        owner: Takes the lines.
        history: Earlier lines; added to.
        colours: Whether to colour.
    """

    _log = Logger()

    def __init__(
        self, owner: LineOwner, history: MutableSequence[str], *, colours: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in Twisted
        self._owner = owner
        self._history = history
        self._colours = colours
        self._left = 0
        self._dirty = False
        self._draft = ""
        self._place = 0
        self._shown = False

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]  # untyped in Twisted
        terminal: Any = self.terminal
        self.keyHandlers |= {
            b"\x02": self.handle_LEFT,
            b"\x06": self.handle_RIGHT,
            b"\x08": self.handle_BACKSPACE,
            b"\x0b": self.handle_kill_end,
            b"\x0e": self.handle_DOWN,
            b"\x10": self.handle_UP,
            b"\x15": self.handle_kill_begin,
            b"\x17": self.handle_kill_word,
            terminal.INSERT: self.handle_nothing,
            b"\x1c": self.handle_nothing,
        }

    def initializeScreen(self) -> None:
        """Take the terminal as it is: what is on it stays."""
        self.mode = "insert"

    # -- keys ------------------------------------------------------------------------------------

    def keystrokeReceived(self, key: Any, modifier: Any) -> None:
        handler: Any = self.keyHandlers.get(key) if modifier is None else None
        if handler is not None:
            handler()
            self._dirty = True
        elif modifier is None and isinstance(key, bytes) and key.decode().isprintable():
            self.characterReceived(key, False)
        # else a key that means nothing here

    def typed(self) -> None:
        """All bytes that came together have been taken: draw, once."""
        if self._dirty and not self._owner.busy:
            self.drawInputLine()
        self._dirty = False

    def go_on(self) -> None:
        """The owner is not busy any more: a new prompt, and what was typed meanwhile."""
        self.drawInputLine()
        terminal: Any = self.terminal
        terminal.release()

    @property
    def busy(self) -> bool:
        """Whether keys have to wait."""
        return self._owner.busy

    def characterReceived(self, ch: bytes, moreCharactersComing: bool) -> None:
        if len(self.lineBuffer) >= MAX_LINE:
            self.terminal.write(_BELL)
            return
        self.lineBuffer.insert(self.lineBufferIndex, ch)
        self.lineBufferIndex += 1
        self._dirty = True

    def handle_nothing(self) -> None:
        """Keys that would do harm elsewhere: insert mode, the Manhole's way out."""

    def handle_LEFT(self) -> None:
        self.lineBufferIndex = max(0, self.lineBufferIndex - 1)

    def handle_RIGHT(self) -> None:
        self.lineBufferIndex = min(len(self.lineBuffer), self.lineBufferIndex + 1)

    def handle_HOME(self) -> None:
        self.lineBufferIndex = 0

    def handle_END(self) -> None:
        self.lineBufferIndex = len(self.lineBuffer)

    def handle_BACKSPACE(self) -> None:
        if self.lineBufferIndex:
            self.lineBufferIndex -= 1
            del self.lineBuffer[self.lineBufferIndex]

    def handle_DELETE(self) -> None:
        del self.lineBuffer[self.lineBufferIndex : self.lineBufferIndex + 1]

    def handle_kill_end(self) -> None:
        """Ctrl-K."""
        del self.lineBuffer[self.lineBufferIndex :]

    def handle_kill_begin(self) -> None:
        """Ctrl-U."""
        del self.lineBuffer[: self.lineBufferIndex]
        self.lineBufferIndex = 0

    def handle_kill_word(self) -> None:
        """Ctrl-W."""
        begin = self.lineBufferIndex
        while begin and self.lineBuffer[begin - 1] == b" ":
            begin -= 1
        while begin and self.lineBuffer[begin - 1] != b" ":
            begin -= 1
        del self.lineBuffer[begin : self.lineBufferIndex]
        self.lineBufferIndex = begin

    def handle_FF(self) -> None:
        self.terminal.eraseDisplay()
        self.terminal.cursorHome()

    # -- history ---------------------------------------------------------------------------------

    def handle_UP(self) -> None:
        if self._place < len(self._history):
            if not self._place:
                self._draft = self.text
            self._place += 1
            self._use(self._history[-self._place])

    def handle_DOWN(self) -> None:
        if self._place:
            self._place -= 1
            self._use(self._history[-self._place] if self._place else self._draft)

    @property
    def text(self) -> str:
        """The line as it stands."""
        return b"".join(self.lineBuffer).decode("utf-8", "replace")

    def _use(self, text: str) -> None:
        self.lineBuffer = [character.encode() for character in text]
        self.lineBufferIndex = len(self.lineBuffer)

    # -- the end of a line -----------------------------------------------------------------------

    def handle_RETURN(self) -> None:
        line = self.text
        self.lineBufferIndex = len(self.lineBuffer)
        self.drawInputLine()
        self.terminal.write(b"\r\n")
        self._shown = False
        self._clear()
        if line.strip() and (not self._history or self._history[-1] != line):
            self._history.append(line)
            del self._history[:-MAX_HISTORY]
        self._owner.line_entered(line)

    def _clear(self) -> None:
        self.lineBuffer = []
        self.lineBufferIndex = self._left = self._place = 0

    def handle_INT(self) -> None:
        if not self._owner.busy:
            self.lineBufferIndex = len(self.lineBuffer)
            self.drawInputLine()
            self.terminal.write(b"^C\r\n")
            self._shown = False
            self._clear()
        self._owner.interrupt()
        self._dirty = True

    def handle_EOF(self) -> None:
        if self.lineBuffer or self._owner.before:
            self.handle_DELETE()
        else:
            self.terminal.write(b"\r\n")
            self._shown = False
            self._owner.leave()

    # -- completion ------------------------------------------------------------------------------

    def handle_TAB(self) -> None:
        before = self.text[: self.lineBufferIndex]
        if not before.strip():
            for byte in (_INDENT[i : i + 1] for i in range(len(_INDENT))):
                self.characterReceived(byte, True)
            return
        state = (self.text, self.lineBufferIndex)

        def found(answer: tuple[int, list[str]]) -> None:
            # Somebody who types on has no use for it.
            if state == (self.text, self.lineBufferIndex) and not self._owner.busy:
                self._offer(*answer)

        completing = Deferred.fromCoroutine(_awaited(self._owner.complete(before)))
        completing.addCallback(found)
        completing.addErrback(lambda _: self.terminal.write(_BELL))

    def _offer(self, replaced: int, candidates: list[str]) -> None:
        if not candidates:
            self.terminal.write(_BELL)
            return
        common = _common_prefix(candidates)
        begin = self.lineBufferIndex - replaced
        if len(common) > replaced or len(candidates) == 1:
            self.lineBuffer[begin : self.lineBufferIndex] = [c.encode() for c in common]
            self.lineBufferIndex = begin + len(common)
            self.drawInputLine()
        else:
            self.write_above(_columns(candidates[:MAX_LISTED], self.width))

    # -- drawing ---------------------------------------------------------------------------------

    def terminalSize(self, width: int, height: int) -> None:
        """The window has changed."""
        self.width, self.height = max(20, width), max(2, height)
        if self._shown:
            self.drawInputLine()

    def drawInputLine(self) -> None:
        prompt = self.ps[bool(self._owner.before)].decode()
        line = self.text
        widths = [cells(character) for character in line]
        room = self.width - len(prompt) - 1
        cursor = min(self.lineBufferIndex, len(line))
        self._left = min(self._left, cursor)
        while sum(widths[self._left : cursor]) > room:
            self._left += 1
        end, taken = self._left, 0
        while end < len(line) and taken + widths[end] <= room:
            taken += widths[end]
            end += 1
        colours = colour_source(self._owner.before, line) if self._colours else [""] * len(line)
        drawn = "".join(_coloured(line, colours, self._left, end))
        forward = len(prompt) + sum(widths[self._left : cursor])
        self.terminal.write(f"\r{prompt}{drawn}\x1b[K\r\x1b[{forward}C".encode())
        self._shown, self._dirty = True, False

    def write_above(self, text: str) -> None:
        """Write safe text at the prompt's place, and the prompt below it."""
        if self._shown:
            self.terminal.write(b"\r\x1b[K")
        self.terminal.write(text.encode("utf-8", "replace") + b"\n")
        if self._shown:
            self.drawInputLine()


async def _awaited(answer: Awaitable[tuple[int, list[str]]]) -> tuple[int, list[str]]:
    return await answer


def _common_prefix(words: list[str]) -> str:
    first, last = min(words), max(words)
    for index, character in enumerate(first):
        if last[index : index + 1] != character:
            return first[:index]
    return first


def _coloured(line: str, colours: list[str], begin: int, end: int) -> list[str]:
    parts: list[str] = []
    last = ""
    for index in range(begin, end):
        if colours[index] != last:
            parts += [RESET] if last else []
            parts.append(colours[index])
            last = colours[index]
        parts.append(line[index])
    return [*parts, RESET] if last else parts


def _columns(words: list[str], width: int) -> str:
    """Return words in columns, from left to right."""
    column = max(len(word) for word in words) + 2
    each = max(1, width // column)
    rows = [words[i : i + each] for i in range(0, len(words), each)]
    return safe_text("\n".join("".join(w.ljust(column) for w in row).rstrip() for row in rows))
