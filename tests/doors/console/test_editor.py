"""The input line: keys in, one drawn line out, whatever the bytes."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.doors.console.editor import MAX_LINE, ConsoleLine
from rshell.doors.console.terminal import MAX_HELD_BYTES, ConsoleTerminal

LEFT, RIGHT, UP, DOWN = b"\x1b[D", b"\x1b[C", b"\x1b[A", b"\x1b[B"


class Owner:
    """Takes lines, and is busy when told."""

    def __init__(self) -> None:
        self.busy = False
        self.before = ""
        self.lines: list[str] = []
        self.interrupts = 0
        self.left = 0
        self.answer: Deferred[tuple[int, list[str]]] = Deferred()

    def line_entered(self, line: str) -> None:
        self.lines.append(line)

    def interrupt(self) -> None:
        self.interrupts += 1

    def leave(self) -> None:
        self.left += 1

    def complete(self, text: str) -> Awaitable[tuple[int, list[str]]]:
        self.asked = text
        return self.answer


class Drawn:
    def __init__(self) -> None:
        self.bytes = b""

    def write(self, data: bytes) -> None:
        self.bytes += data

    def loseConnection(self) -> None:
        pass


class EditorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.owner = Owner()
        self.history: list[str] = []
        self.line = ConsoleLine(self.owner, self.history)
        self.terminal = ConsoleTerminal(lambda: self.line)
        self.drawn = Drawn()
        transport: Any = self.drawn
        self.terminal.makeConnection(transport)

    def type(self, *keys: bytes | str) -> None:
        for key in keys:
            self.terminal.dataReceived(key.encode() if isinstance(key, str) else key)

    def shown(self) -> tuple[str, int]:
        """Return the line as it was drawn last, and the column of the cursor."""
        last = self.drawn.bytes.decode().rpartition("\r>>> ")[2]
        text, _, rest = last.partition("\x1b[K\r")
        column = int(re.findall(r"\x1b\[(\d+)C", rest)[-1])
        return re.sub(r"\x1b\[\d+m", "", text), column

    def test_editing(self) -> None:
        """The usual keys do the usual things."""
        for keys, line in (
            ((b"abc", LEFT, LEFT, b"X"), "aXbc"),
            ((b"abc", b"\x01", b"X", b"\x05", b"Y"), "XabcY"),
            ((b"abc", b"\x1b[H", b"\x1b[3~", b"\x1b[F", b"\x7f"), "b"),
            ((b"one two  ", b"\x17"), "one "),
            ((b"one two", LEFT, LEFT, b"\x0b"), "one t"),
            ((b"one two", LEFT, LEFT, b"\x15"), "wo"),
            ((b"ab", b"\x1bOD", b"\x02", b"\x02", b"\x06", b"\x08"), "b"),
            ((LEFT, RIGHT, b"\x7f", b"\x1b[2~", b"\x1b\x1b[D"), ""),
        ):
            self.type(*keys, b"\r")
            self.assertEqual(self.owner.lines.pop(), line, keys)

    def test_characters(self) -> None:
        """A character of several bytes is one key, and a wide one takes two columns."""
        self.type("h\u00e9\u4e2d"[:2], "\u4e2d".encode()[:2])
        self.assertEqual(self.shown(), ("h\u00e9", 6))
        self.type("\u4e2d".encode()[2:])
        self.assertEqual(self.shown(), ("h\u00e9\u4e2d", 8))
        self.type(b"\x7f\x7f\r")
        self.assertEqual(self.owner.lines, ["h"])

    def test_sideways(self) -> None:
        """A line wider than the window is never drawn wider; the cursor stays in view."""
        self.line.terminalSize(30, 10)
        text = "x = " + "0123456789" * 12
        for key in [*text, *[LEFT] * 60, *[RIGHT] * 20]:
            self.type(key)
            drawn, column = self.shown()
            self.assertLessEqual(len(drawn), 25)
            self.assertLessEqual(column, 29)
        self.type(b"\r")
        self.assertEqual(self.owner.lines, [text])

    def test_history(self) -> None:
        """Up and down go through earlier lines, and what was begun comes back."""
        self.type("one\r", "two\r", "two\r", " \r", "dra", UP, UP)
        self.assertEqual((self.history, self.shown()[0]), (["one", "two"], "one"))
        self.type(UP, DOWN, DOWN)
        self.assertEqual(self.shown()[0], "dra")

    def test_busy(self) -> None:
        """While a line runs keys wait, as bytes; Ctrl-C gets through, and forgets them."""
        self.owner.busy = True
        self.type("ab", b"\xe4\xb8", b"x" * (2 * MAX_HELD_BYTES))
        self.assertEqual(self.drawn.bytes, b"")
        self.owner.busy = False
        self.line.go_on()
        self.assertEqual(self.shown()[0], "ab")  # of the last character a byte is missing
        self.owner.busy = True
        self.type("lost", b"\x03", "kept")
        self.owner.busy = False
        self.line.go_on()
        self.assertEqual((self.owner.interrupts, self.shown()[0]), (1, "ab\ufffdkept"))

    def test_end_of_input(self) -> None:
        """Ctrl-D leaves on an empty line, and deletes on another."""
        self.type("ab", b"\x01\x04\r")
        self.assertEqual((self.owner.lines, self.owner.left), (["b"], 0))
        self.type(b"\x04")
        self.assertEqual(self.owner.left, 1)

    def test_too_long(self) -> None:
        """A line has a limit."""
        self.type(b"x" * (MAX_LINE + 10), b"\r")
        self.assertEqual(len(self.owner.lines[0]), MAX_LINE)

    def test_completion(self) -> None:
        """What is common is inserted; the rest is listed; late answers count for nothing."""
        self.type("fl\t")
        self.owner.answer.callback((2, ["fleet", "flex"]))
        self.assertEqual(self.shown()[0], "fle")
        self.owner.answer = Deferred()
        self.type("\t")
        self.owner.answer.callback((3, ["fleet", "flex\x1b"]))
        self.assertIn("fleet  flex\ufffd".encode(), self.drawn.bytes)
        self.owner.answer = Deferred()
        self.type("\t", "e")
        self.owner.answer.callback((3, ["flea"]))
        self.assertEqual(self.shown()[0], "flee")
        self.owner.answer = Deferred()
        self.type("\t")
        self.owner.answer.errback(ValueError())
        self.type(b"\x15\t", "1\r")
        self.assertEqual(self.owner.lines, ["    1"])

    def test_taken(self) -> None:
        """Who has taken the terminal gets every byte, also those behind a key of ours."""
        taken = bytearray()
        self.terminal.taken_by = taken.extend
        self.type(b"\x1b[A\x03\xff", "x")
        self.assertEqual((bytes(taken), self.owner.interrupts), (b"\x1b[A\x03\xffx", 0))

    @given(st.lists(st.binary(max_size=12), max_size=12))
    def test_any_bytes(self, keys: list[bytes]) -> None:
        """No bytes raise, and after Ctrl-C the line takes text again."""
        self.setUp()
        self.type(*keys)
        # Twice: the first may end a control sequence.
        self.type(b"\x03\x03\x03", b"\x15", b"ok\r")
        self.assertEqual(self.owner.lines[-1][-2:], "ok")
