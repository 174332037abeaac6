"""Old output for a new terminal: everything but what the terminal would answer (rule R8).

A terminal that is shown a question (which terminal are you, where is the cursor, what colour is
the background) types its answer.  In a replay the program that asked is long past waiting, so the
answer would be typed into whatever reads now.  Questions are taken out; colours, cursor movement,
modes and titles stay.  Modes that make a terminal speak up by itself, as it gains focus for
example, are taken out as well.

Sources: ECMA-48, the VT510 manual, xterm's ctlseqs, kitty's and iTerm2's protocol pages.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["QuestionFilter"]

#: Strings longer than this are judged by their beginning and then passed on or dropped.
MAX_HELD_BYTES: Final = 4096
#: Modes of DECSET that make a terminal send something at once or unasked: focus, colour scheme,
#: size in band.
_TALKATIVE_MODES: Final = frozenset({b"1004", b"2031", b"2048"})
#: XTWINOPS that report (xterm ctlseqs); the others move or resize windows and are harmless.
_WINDOW_REPORTS: Final = frozenset({b"11", b"13", b"14", b"15", b"16", b"18", b"19", b"20", b"21"})
#: OSC commands whose text may hold a question mark and asks nothing: titles, folder, link, marks.
_PLAIN_OSC: Final = frozenset({b"0", b"1", b"2", b"7", b"8", b"133", b"633"})
_CSI: Final = re.compile(rb"([<=>?]?)([0-9;:]*)([ -/]*)([@-~])", re.DOTALL)
_C1: Final = {0x90: 0x50, 0x98: 0x58, 0x9A: 0x5A, 0x9B: 0x5B, 0x9D: 0x5D, 0x9E: 0x5E, 0x9F: 0x5F}
_ENQ, _BEL, _CAN, _SUB, _ESC, _ST = 0x05, 0x07, 0x18, 0x1A, 0x1B, 0x9C
#: The beginning of a character in UTF-8.
_UNFINISHED: Final = re.compile(
    rb"([\xc3-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)
_STRINGS: Final = frozenset(b"PX]^_")


class QuestionFilter:
    """Takes questions out of terminal output, however it is cut; pure.

    Attributes:
        idle: Whether nothing is held back: the next byte begins something of its own.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        #: What is being collected: "" nothing, "c2", "esc", "csi" or "string".
        self._state = ""
        self._kind = 0
        self._body = bytearray()
        self._passing = False
        self._utf8_left = 0

    @property
    def idle(self) -> bool:
        return self._state == ""

    def feed(self, data: bytes) -> bytes:
        """Return what of ``data``, and of what was held back, a terminal may be shown."""
        shown = bytearray()
        for byte in data:
            if self._state == "":
                self._text(byte, shown)
            elif self._state == "c2":
                self._second(byte, shown)
            elif self._state == "esc":
                self._escape(byte, shown)
            elif self._state == "csi":
                self._control(byte, shown)
            else:
                self._string(byte, shown)
        return bytes(shown)

    def _begin(self, state: str, *opening: int) -> None:
        self._state = state
        self._held = bytearray(opening)
        self._body = bytearray()

    def _release(self, shown: bytearray | None) -> None:
        """End what was collected; pass it on if ``shown`` is given."""
        if shown is not None:
            shown += self._held
        self._state = ""
        self._held = bytearray()
        self._body = bytearray()

    # -- text ------------------------------------------------------------------------------------

    def _text(self, byte: int, shown: bytearray) -> None:
        if self._utf8_left and 0x80 <= byte < 0xC0:
            self._utf8_left -= 1
            shown.append(byte)
            return
        self._utf8_left = 0 if byte < 0xE0 else 2 if byte < 0xF0 else 3
        if byte == _ESC:
            self._begin("esc", byte)
        elif byte == 0xC2:
            self._begin("c2", byte)
        elif 0xC3 <= byte < 0xE0:
            self._utf8_left = 1
            shown.append(byte)
        elif byte in _C1:
            self._opened(_C1[byte], byte)
        elif byte != _ENQ:
            shown.append(byte)

    def _second(self, byte: int, shown: bytearray) -> None:
        """After 0xC2: a C1 control in UTF-8, taken by terminals for its seven-bit form, or text."""
        if byte in _C1:
            self._opened(_C1[byte], 0xC2, byte)
            return
        self._release(shown)
        self._utf8_left = 1
        self._text(byte, shown)

    def _escape(self, byte: int, shown: bytearray) -> None:
        if byte == _ESC:
            self._release(shown)
            self._begin("esc", byte)
        elif byte in (_CAN, _SUB):
            self._held.append(byte)
            self._release(shown)
        else:
            self._opened(byte, *self._held, byte)
            if self._state == "esc":
                if 0x20 <= byte < 0x30:
                    return  # an intermediate: a final byte is to come
                self._release(shown)

    def _opened(self, kind: int, *opening: int) -> None:
        """The second byte of an escape sequence is known."""
        if kind == 0x5B:
            self._begin("csi", *opening)
        elif kind in _STRINGS:
            self._begin("string", *opening)
            self._kind = kind
            self._passing = False
        elif kind == 0x5A:  # DECID: which terminal are you
            self._release(None)
        else:
            self._begin("esc", *opening)

    # -- CSI -------------------------------------------------------------------------------------

    def _control(self, byte: int, shown: bytearray) -> None:
        if byte == _ESC:
            self._release(shown)
            self._begin("esc", byte)
        elif byte in (_CAN, _SUB):
            self._held.append(byte)
            self._release(shown)
        elif byte < 0x20:
            if byte != _ENQ:  # a control inside a sequence acts at once
                shown.append(byte)
        else:
            self._held.append(byte)
            self._body.append(byte)
            if 0x40 <= byte <= 0x7E:
                self._judge_control(shown)
            elif len(self._body) > MAX_HELD_BYTES:
                self._release(None)

    def _judge_control(self, shown: bytearray) -> None:
        parts = _CSI.fullmatch(bytes(self._body))
        if parts is None:
            self._release(shown)
            return
        prefix, parameters, between, final = parts.groups()
        if _asks(prefix, parameters, between, final):
            self._release(None)
            return
        modes = parameters.split(b";")
        if prefix == b"?" and final in (b"h", b"s", b"r") and _TALKATIVE_MODES & set(modes):
            kept = [mode for mode in modes if mode not in _TALKATIVE_MODES]
            opening = bytes(self._held[: len(self._held) - len(self._body)])
            self._held = bytearray(opening + b"?" + b";".join(kept) + between + final)
            self._release(shown if kept else None)
            return
        self._release(shown)

    # -- OSC, DCS, APC, PM, SOS --------------------------------------------------------------------

    def _string(self, byte: int, shown: bytearray) -> None:
        self._held.append(byte)
        escaped = len(self._held) >= 2 and self._held[-2] == _ESC
        ends = (
            byte in (_CAN, _SUB)
            or (byte == _ST and not self._utf8_in_string())
            or (byte == _BEL and self._kind == 0x5D)
            or (escaped and byte == 0x5C)
        )
        if ends:
            self._end_string(shown)
        elif escaped:
            # ESC ends a string; what follows it begins anew.
            del self._held[-2:]
            self._end_string(shown)
            self._begin("esc", _ESC)
            self._escape(byte, shown)
        elif byte != _ESC:
            self._body.append(byte)
            if len(self._body) > MAX_HELD_BYTES:
                self._shorten(shown)

    def _utf8_in_string(self) -> bool:
        """Whether 0x9C continues a character instead of ending the string."""
        last = bytes(self._held[-4:-1])
        return _UNFINISHED.search(last) is not None

    def _shorten(self, shown: bytearray) -> None:
        """Too long to hold: what has come so far decides."""
        if not self._passing:
            self._passing = not self._is_question()
        if self._passing:
            shown += self._held
        self._held = bytearray()
        # Enough of the beginning to judge the rest by.
        del self._body[64:]

    def _end_string(self, shown: bytearray) -> None:
        drop = not self._passing and self._is_question()
        self._release(None if drop else shown)

    def _is_question(self) -> bool:
        body = bytes(self._body)
        if self._kind == 0x50:  # DCS: DECRQSS, XTGETTCAP, DECRQTSR
            return bool(re.match(rb"[0-9;]*[$+][qu]", body))
        if self._kind == 0x5F:  # APC: kitty's graphics, which are acknowledged
            return body.startswith(b"G")
        if self._kind != 0x5D:
            return False
        number, _, text = body.partition(b";")
        if number in _PLAIN_OSC:
            return False
        # 52 sets or asks for the clipboard, 60 and 61 ask for what is allowed.
        return (
            number in (b"52", b"60", b"61")
            or b"?" in text
            or (number == b"1337" and (b"Report" in text or b"Request" in text))
        )


def _asks(prefix: bytes, parameters: bytes, between: bytes, final: bytes) -> bool:
    """Tell whether a terminal answers this control sequence."""
    match final:
        case b"c":  # DA1, DA2, DA3; with ? it is Linux's cursor shape
            return prefix != b"?"
        case b"n":  # DSR; with > it is a setting of xterm
            return prefix in (b"", b"?") and not between
        case b"p":  # DECRQM; without $ it resets
            return between == b"$"
        case b"q":  # XTVERSION; without > it is the cursor's shape
            return prefix == b">"
        case b"t":
            first = parameters.partition(b";")[0]
            return not prefix and not between and first in _WINDOW_REPORTS
        case b"u":  # kitty's keyboard, DECRQTSR, DECRQUPSS; plain it restores the cursor
            return prefix == b"?" or between in (b"$", b"&")
        case b"x":  # DECREQTPARM
            return not between
        case b"w":  # DECRQPSR
            return between == b"$"
        case b"y":  # DECRQCRA
            return between == b"*"
        case b"|":  # DECRQLP
            return between == b"'"
        case b"S":  # XTSMGRAPHICS; without ? it scrolls
            return prefix == b"?"
        case b"m":  # XTQMODKEYS
            return prefix == b"?"
        case _:
            return False
