"""``rshell tail``: its words, and how lines are shown."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stderr

import click
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.main import run_command
from rshell.cli.tail import parse_count, parse_when, split_place
from rshell.cli.tail_lines import JsonTail, Style, TextTail, clean
from rshell.client import Outcome, TailLine, TailNotice
from rshell.handlers.tail import JournalEntry
from tests.cli.test_presenting import Screen

CONTEXT = click.Context(click.Command("tail"))
OPTION = click.Option(["-n"])


class WordsTests(SynchronousTestCase):
    def test_places(self) -> None:
        """A selector, a colon and a path; a label's value may hold a colon too."""
        for word, selector, path in (
            ("pump-1:/var/log/x", "pump-1", b"/var/log/x"),
            ("pump-1:x:y", "pump-1", b"x:y"),
            ("pump-1:~/x", "pump-1", b"~/x"),
            ("site in (a,b),rev=1:2:/x", "site in (a,b),rev=1:2", b"/x"),
            ("pump-1:/x:/y", "pump-1", b"/x:/y"),
            ("pump-1:\udcff", "pump-1", b"\xff"),
        ):
            place = split_place(word)
            self.assertEqual((selector, path), (place.selector, place.path))

    def test_counts(self) -> None:
        """-n is read as tail(1) does."""
        for text, found in (
            ("5", (5, None)),
            ("-5", (5, None)),
            ("+5", (None, 5)),
            ("0", (0, None)),
        ):
            self.assertEqual(found, parse_count(CONTEXT, OPTION, text))
        for text in ("", "x", "5k", "1e3", "++1", "9" * 20, "\u0665"):
            with self.assertRaises(click.BadParameter):
                parse_count(CONTEXT, OPTION, text)

    def test_times(self) -> None:
        """Spans are the device's to subtract; moments without a zone are of this machine's."""
        self.assertEqual((None, 1800.0), parse_when(CONTEXT, OPTION, "30m"))
        self.assertEqual((None, 90.0), parse_when(CONTEXT, OPTION, "90s ago"))
        self.assertEqual((0.5, None), parse_when(CONTEXT, OPTION, "@0.5"))
        self.assertEqual((86400.0, None), parse_when(CONTEXT, OPTION, "1970-01-02T00:00:00Z"))
        local = time.mktime((2026, 3, 1, 0, 0, 0, 0, 0, -1))
        self.assertEqual((local, None), parse_when(CONTEXT, OPTION, "2026-03-01"))
        today, _ = parse_when(CONTEXT, OPTION, "14:05")
        assert today is not None
        self.assertEqual((14, 5), time.localtime(today)[3:5])
        for text in ("", "soon", "25:00", "@", "@nan", "@1e400", "2026-13-01", "0", "1900-01-01"):
            with self.assertRaises(click.BadParameter):
                parse_when(CONTEXT, OPTION, text)

    def test_usage(self) -> None:
        """Words that make no sense get one line, before anything is connected."""
        for words in (
            ["pump-1"],
            ["pump-1:"],
            [":/var/log/syslog"],
            ["pump-1:/x", "--unit", "a.service"],
            ["pump-1", "--unit", "-x"],
            ["pump-1", "--journal", "-n", "+1"],
            ["pump-1:/x", "-n", "many"],
            ["pump-1:/x", "-v"],
            ["pump-1:/x", "--since", "yesterday noon"],
            ["pump-1:/x", "--rate", "-1"],
            ["pump-1:/x", "--grep", "x" * 2000],
            ["pump-1:" + "/x" * 2500],
            [],
        ):
            err = io.StringIO()
            with redirect_stderr(err):
                status = run_command(["--home", "/nonexistent", "tail", *words])
            self.assertEqual((2, 1), (status, err.getvalue().count("\n")), (words, err.getvalue()))


class TextTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.screen = Screen()

    def shown(self, style: Style, *lines: TailLine) -> str:
        """Return what lines look like."""
        presenter = TextTail("pump", style, self.screen.write)
        for line in lines:
            presenter.line_received(line)
        presenter.end(Outcome(status="ok"))
        self.assertEqual(b"", self.screen.err)
        out, self.screen.out = self.screen.out.decode("utf-8", "replace"), b""
        return out

    def test_plain_and_prefixed(self) -> None:
        """One file's lines are plain; names come before them where there are several."""
        one, two = TailLine(b"a", b"/1"), TailLine(b"b", b"/2")
        self.assertEqual("a\nb\n", self.shown(Style(), one, two))
        self.assertEqual("pump: a\npump: b\n", self.shown(Style(device=True), one, two))
        self.assertEqual(
            "pump:/1: a\npump:/2: b\n", self.shown(Style(device=True, file=True), one, two)
        )
        self.assertEqual(
            "==> /1 <==\na\na\n\n==> /2 <==\nb\n", self.shown(Style(headers=True), one, one, two)
        )

    def test_parts(self) -> None:
        """A piece is joined by its rest, or marked where names come before lines."""
        part, rest = TailLine(b"be", b"/1", part=True), TailLine(b"gin", b"/1", more=True)
        self.assertEqual("begin\n", self.shown(Style(), part, rest))
        self.assertEqual("be\n", self.shown(Style(), part))
        self.assertEqual("be\nx\ngin\n", self.shown(Style(), part, TailLine(b"x", b"/2"), rest))
        self.assertEqual("pump: be\npump+ gin\n", self.shown(Style(device=True), part, rest))

    def test_hostile(self) -> None:
        """Neither lines nor names nor messages reach a terminal as they are."""
        evil = b"\x1b[2J\x07a\tb\x9b\xff\xe2\x80\xae\0\r"
        self.assertEqual("\ufffd[2J\ufffda\tb\ufffd\ufffd\ufffd\ufffd", clean(evil))
        self.assertEqual(evil + b"\n", self._raw(evil))
        shown = self.shown(Style(device=True, file=True), TailLine(b"x", b"/\x1b[31m\n\t"))
        self.assertNotIn("\x1b", shown)
        self.assertEqual(1, shown.count("\n"))
        presenter = TextTail("pump", Style(), self.screen.write)
        presenter.notice_received(TailNotice("rotated", "a\nb\x1b[31m"))
        self.assertEqual("rshell: pump: a b\ufffd[31m\n", self.screen.err.decode())

    def _raw(self, data: bytes) -> bytes:
        TextTail("pump", Style(raw=True), self.screen.write).line_received(TailLine(data, b"/1"))
        out, self.screen.out = self.screen.out, b""
        return out

    def test_cut(self) -> None:
        """That something is missing at a line's end is shown."""
        self.assertEqual(
            "abc \u2026[1,000 bytes cut]\n", self.shown(Style(), TailLine(b"abc", b"/1", cut=1000))
        )

    def test_journal(self) -> None:
        """An entry shows its time, program and process; the lines of one entry stay together."""
        entry = JournalEntry(time=1_767_225_600_123_456, ident="app\x1b", pid="7")
        shown = self.shown(Style(), TailLine(b"one\ntwo\x1b", None, entry=entry))
        self.assertEqual("2026-01-01T00:00:00.123Z app\ufffd[7]: one\n    two\ufffd\n", shown)
        self.assertIn(
            "? ?: x", self.shown(Style(), TailLine(b"x", None, entry=JournalEntry(time=2**62)))
        )

    def test_quiet(self) -> None:
        """-q says nothing but that something may be missing."""
        presenter = TextTail("pump", Style(quiet=True), self.screen.write)
        presenter.notice_received(TailNotice("rotated", "x"))
        self.assertEqual(b"", self.screen.err)
        presenter.notice_received(TailNotice("dropped", "5 lines dropped", b"/1", 5))
        self.assertEqual(b"rshell: pump: /1: 5 lines dropped\n", self.screen.err)


class JsonTests(SynchronousTestCase):
    def test_objects(self) -> None:
        """Each line and notice is an object; bytes that are no UTF-8 are base64."""
        screen = Screen()
        presenter = JsonTail("pump", screen.write)
        presenter.line_received(TailLine(b"a\x1b", b"/1", 9, cut=3, part=True))
        presenter.line_received(TailLine(b"\xff", b"/\xff", 2, more=True))
        entry = JournalEntry(time=0, ident="app", unit="app.service", priority="6")
        presenter.line_received(TailLine(b"m", None, entry=entry))
        presenter.notice_received(TailNotice("dropped", "5 lines dropped", b"/1", 5))
        presenter.end(Outcome(status="ok", exit_code=0))
        found = [json.loads(line) for line in screen.out.splitlines()]
        stream = {"device": "pump", "stream": "stdout"}
        self.assertEqual(
            [
                {**stream, "file": "/1", "data": "a\x1b", "pos": 9, "cut_bytes": 3, "part": True},
                {**stream, "file_b64": "L/8=", "data_b64": "/w==", "pos": 2, "more": True},
                {
                    **stream,
                    "time": "1970-01-01T00:00:00.000Z",
                    "unit": "app.service",
                    "ident": "app",
                    "priority": "6",
                    "data": "m",
                },
                {
                    "device": "pump",
                    "event": "dropped",
                    "file": "/1",
                    "count": 5,
                    "message": "5 lines dropped",
                },
                {"device": "pump", "outcome": {"status": "ok", "exit_code": 0}},
            ],
            [
                dict(one.items())
                if "outcome" not in one
                else {**one, "outcome": {k: one["outcome"][k] for k in ("status", "exit_code")}}
                for one in found
            ],
        )
