"""Terminal: conch's ServerProtocol, taught characters of several bytes and bad manners.

Conch hands every byte on as a key, keeps a control sequence that never ends for ever, and knows
the arrow keys of one of a terminal's two modes.  Here a key is a whole character, sequences have a
limit, and somebody may take over all that is typed.  What it is not: a line editor.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

from twisted.conch.insults import insults

__all__ = ["ConsoleTerminal"]

#: Bytes that wait while a line runs: a long paste.
MAX_HELD_BYTES = 64 * 1024
#: A control sequence longer than this is none.
MAX_SEQUENCE = 32
_ESCAPE, _CSI, _SS3 = b"escaped", b"bracket-escaped", b"low-function-escaped"
#: Cursor and position keys in application mode send ESC O and these.
_APPLICATION_KEYS = b"ABCDHF"
_ALT: Any = "alt"
_INTERRUPT = b"\x03"


class ConsoleTerminal(insults.ServerProtocol):
    """What is typed becomes keys; what is drawn becomes bytes.

    Args:
        make_protocol: Makes the line editor.

    Attributes:
        taken_by: Takes all bytes as they are, in place of the line editor.
    """

    def __init__(self, make_protocol: Callable[[], Any]) -> None:
        super().__init__(make_protocol)  # type: ignore[no-untyped-call]  # untyped in Twisted
        self.taken_by: Callable[[bytes], None] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sequence = bytearray()
        self._held = bytearray()

    def dataReceived(self, data: bytes) -> None:
        line: Any = self.terminalProtocol
        for index in range(len(data)):
            if self.taken_by is not None:
                self.taken_by(data[index:])
                return
            if line.busy:
                self._hold(data[index:])
                return
            self._byte(data[index : index + 1])
        line.typed()

    def _hold(self, data: bytes) -> None:
        """A line runs: keep what is typed for the next, or for who takes the terminal; but ^C."""
        _, key, after = data.rpartition(_INTERRUPT)
        if key:
            self._held.clear()
            line: Any = self.terminalProtocol
            line.handle_INT()
            self.dataReceived(after)
        elif len(self._held) + len(data) <= MAX_HELD_BYTES:
            self._held += data

    def release(self) -> None:
        """Take what was held as if it were typed now."""
        held, self._held = bytes(self._held), bytearray()
        self.dataReceived(held)

    def _byte(self, byte: bytes) -> None:
        line: Any = self.terminalProtocol
        if self.state == b"data":
            if byte == b"\x1b":
                self.state = _ESCAPE
                return
            for character in self._decoder.decode(byte):
                line.keystrokeReceived(character.encode(), None)
        elif self.state == _ESCAPE:
            self.state = b"data"
            if byte == b"[":
                self.state = _CSI
                self._sequence.clear()
            elif byte == b"O":
                self.state = _SS3
            elif byte == b"\x1b":
                self.state = _ESCAPE
            else:
                line.keystrokeReceived(byte, _ALT)
        elif self.state == _CSI:
            self._sequence += byte
            if 0x40 <= byte[0] <= 0x7E:
                self.state = b"data"
                self._handleControlSequence(bytes(self._sequence))
            elif byte[0] < 0x20 or byte[0] > 0x7E or len(self._sequence) > MAX_SEQUENCE:
                self.state = b"data"
        else:
            self.state = b"data"
            if byte in _APPLICATION_KEYS:
                self._handleControlSequence(byte)
            else:
                self._function_key(byte)

    def _handleControlSequence(self, buf: bytes) -> None:
        # Conch looks the last byte up as a name.
        if buf[-1:].isalpha() or buf[-1:] == b"~":
            super()._handleControlSequence(buf)  # type: ignore[no-untyped-call]  # untyped in Twisted

    def _function_key(self, byte: bytes) -> None:
        self._handleLowFunctionControlSequence(byte)  # type: ignore[no-untyped-call]  # likewise

    def loseConnection(self) -> None:
        # Without conch's reset, which would clear what a person wants to read.
        transport: Any = self.transport
        transport.loseConnection()
