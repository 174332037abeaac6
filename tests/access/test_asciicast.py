"""asciicast v2: what is written can be read strictly, and what is none is refused."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.access.asciicast import (
    BadCast,
    CastEvent,
    CastHeader,
    TextPieces,
    event_line,
    header_line,
    parse_header,
    read_cast,
)

HEADER = CastHeader(columns=80, rows=24, timestamp=1_795_000_000, title="ann on p", term="xterm")


class FormatTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """Header and events come back as they were written."""
        text = header_line(HEADER) + event_line(0, "o", '\x1b[1m\r\n"\\é😀\x00\u2028')
        text += event_line(1_500, "r", "100x40") + event_line(1_500, "m", "gap")
        header, events = read_cast(text)
        self.assertEqual(header, HEADER)
        self.assertEqual(
            list(events),
            [
                CastEvent(0.0, "o", '\x1b[1m\r\n"\\é😀\x00\u2028'),
                CastEvent(1.5, "r", "100x40"),
                CastEvent(1.5, "m", "gap"),
            ],
        )

    def test_as_others_read_it(self) -> None:
        """Each line is JSON of the documented shape, without a control character in it."""
        text = header_line(HEADER) + event_line(61_007, "o", "\x07\x7f\x80")
        first, second = text.decode().splitlines()
        self.assertEqual(
            json.loads(first),
            {
                "version": 2,
                "width": 80,
                "height": 24,
                "timestamp": 1_795_000_000,
                "title": "ann on p",
                "env": {"TERM": "xterm"},
            },
        )
        self.assertEqual(json.loads(second), [61.007, "o", "\x07\x7f\x80"])
        self.assertNotIn("\x07", text.decode())

    @given(st.lists(st.binary(max_size=8)))
    def test_pieces(self, parts: list[bytes]) -> None:
        """However bytes are cut, the text is that of the whole."""
        pieces = TextPieces()
        text = "".join(map(pieces.feed, parts)) + pieces.end()
        self.assertEqual(text, b"".join(parts).decode("utf-8", "replace"))

    def test_cut_character(self) -> None:
        """A character that arrives in two pieces is one; one that never ends is marked."""
        pieces = TextPieces()
        self.assertEqual(pieces.feed(b"a\xf0\x9f"), "a")
        self.assertEqual(pieces.feed(b"\x98\x80b\xc3"), "😀b")
        self.assertEqual(pieces.end(), "\ufffd")
        self.assertEqual(pieces.feed(b"\xff\xfec"), "\ufffd\ufffdc")

    def test_bad(self) -> None:
        """What is none says in which line."""
        good = header_line(HEADER)
        for text, words in (
            (b"", "line 1"),
            (b"\n", "line 1: no JSON"),
            (b'{"version": 1}\n', "line 1: no header"),
            (b'{"version": 2, "width": 0, "height": 3}\n', "width"),
            (b'{"version": 2, "width": true, "height": 3}\n', "width"),
            (b'{"version": 2, "width": 3, "height": 3, "env": 7}\n', "env"),
            (b'{"version": 2, "width": 3, "height": 3, "timestamp": "x"}\n', "timestamp"),
            (good + b"[1.0, 'o']\n", "line 2: no JSON"),
            (good + b'[1.0, "o"]\n', "line 2: no event"),
            (good + b'[-1, "o", ""]\n', "line 2: the time"),
            (good + b'[true, "o", ""]\n', "line 2: the time"),
            (good + b'[1, "z", ""]\n', "line 2: an unknown code"),
            (good + b'[1, "r", "0x5"]\n', "COLUMNSxROWS"),
            (good + b'[2, "o", ""]\n[1, "o", ""]\n', "line 3: time goes back"),
            (good + b'[1, "o", ""]', "line 2: does not end"),
            (good + b"[" * 5000 + b"\n", "line 2: no JSON"),
        ):
            with self.assertRaises(BadCast) as caught:
                _, events = read_cast(text)
                list(events)
            self.assertIn(words, str(caught.exception), text[:80])

    def test_header_alone(self) -> None:
        """A header needs no more than a size."""
        self.assertEqual(
            parse_header(b'{"version":2,"width":1,"height":2}'),
            CastHeader(columns=1, rows=2, timestamp=0),
        )
