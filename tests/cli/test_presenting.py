"""What sessions send, as an operator sees it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.presenting import (
    MAX_LINE_BYTES,
    JsonPresenter,
    PrefixPresenter,
    RawPresenter,
    _incomplete,
)
from rshell.handlers import Outcome

OK = Outcome(status="ok")


class Screen:
    """Collects what presenters write."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.writes: list[bytes] = []

    def write(self, data: bytes, stderr: bool) -> None:
        self.writes.append(data)
        if stderr:
            self.err += data
        else:
            self.out += data


class PrefixTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.screen = Screen()
        self.presenter = PrefixPresenter("pump", self.screen.write)

    def test_lines(self) -> None:
        """Each line gets the name in front, each on its own channel."""
        self.presenter.output(b"a\nb\n", False)
        self.presenter.output(b"e\n", True)
        self.presenter.end(OK)
        self.assertEqual(self.screen.out, b"pump: a\npump: b\n")
        self.assertEqual(self.screen.err, b"pump: e\n")

    def test_no_interleaving(self) -> None:
        """Only whole lines are written, so lines of other devices cannot come between."""
        self.presenter.output(b"half", False)
        self.assertEqual(self.screen.writes, [])
        self.presenter.output(b" full\nrest", False)
        self.assertEqual(self.screen.writes, [b"pump: half full\n"])

    def test_last_line(self) -> None:
        """A last line without a newline gets one."""
        self.presenter.output(b"x", False)
        self.presenter.output(b"y", True)
        self.presenter.end(OK)
        self.assertEqual((self.screen.out, self.screen.err), (b"pump: x\n", b"pump: y\n"))

    def test_long_line(self) -> None:
        """A line longer than the limit comes in pieces, the later ones marked, nothing lost."""
        line = b"z" * (2 * MAX_LINE_BYTES + 10)
        self.presenter.output(line[:100], False)
        self.presenter.output(line[100:] + b"\nnext\n", False)
        shown = self.screen.out.split(b"\n")
        self.assertEqual(
            [piece[:6] for piece in shown], [b"pump: ", b"pump+ ", b"pump+ ", b"pump: ", b""]
        )
        self.assertEqual(b"".join(piece[6:] for piece in shown[:3]), line)

    def test_exactly_the_limit(self) -> None:
        """A line of exactly the limit is one line."""
        self.presenter.output(b"z" * MAX_LINE_BYTES + b"\n", False)
        self.assertEqual(self.screen.out.count(b"\n"), 1)

    def test_failures_are_said(self) -> None:
        """A device that failed gets a line on stderr that says how."""
        self.presenter.end(Outcome(status="exit", exit_code=3))
        self.assertEqual(self.screen.err, b"rshell: pump: exit status 3\n")

    @given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=10))
    def test_nothing_is_lost(self, chunks: list[tuple[bytes, bool]]) -> None:
        """However output is cut, taking the prefixes away gives it back."""
        screen = Screen()
        presenter = PrefixPresenter("p", screen.write)
        for data, stderr in chunks:
            presenter.output(data, stderr)
        presenter.end(OK)
        for stderr, shown in ((False, screen.out), (True, screen.err)):
            sent = b"".join(data for data, channel in chunks if channel is stderr)
            lines = [line.removeprefix(b"p: ") for line in shown.split(b"\n")]
            self.assertEqual(b"\n".join(lines).removesuffix(b"\n"), sent.removesuffix(b"\n"))


class JsonTests(SynchronousTestCase):
    def shown(self, *chunks: tuple[bytes, bool], outcome: Outcome = OK) -> list[dict[str, object]]:
        screen = Screen()
        presenter = JsonPresenter("pump", screen.write)
        for data, stderr in chunks:
            presenter.output(data, stderr)
        presenter.end(outcome)
        self.assertEqual(screen.err, b"")
        return [json.loads(line) for line in screen.out.splitlines()]

    def test_text(self) -> None:
        """Output is one object a chunk, the outcome the last."""
        self.assertEqual(
            self.shown((b"a\n", False), (b"b", True), outcome=Outcome(status="exit", exit_code=1)),
            [
                {"device": "pump", "stream": "stdout", "data": "a\n"},
                {"device": "pump", "stream": "stderr", "data": "b"},
                {"device": "pump", "outcome": {"status": "exit", "exit_code": 1}},
            ],
        )

    def test_bytes(self) -> None:
        """Output that is no UTF-8 is base64."""
        self.assertEqual(self.shown((b"\xff\x00", False))[0]["data_b64"], "/wA=")

    def test_cut_character(self) -> None:
        """A character that is cut between two chunks stays text."""
        euro = "€".encode()
        found = self.shown((b"1" + euro[:1], False), (euro[1:] + b"2", False))
        self.assertEqual([line.get("data") for line in found[:-1]], ["1", "€2"])

    def test_unfinished_character_at_the_end(self) -> None:
        """A character that never completes is shown as bytes, before the outcome."""
        found = self.shown((b"\xe2\x82", False))
        self.assertEqual(found[0]["data_b64"], "4oI=")
        self.assertIn("outcome", found[1])

    @given(st.text(min_size=1, max_size=20), st.data())
    def test_cut_anywhere(self, text: str, data: st.DataObject) -> None:
        """UTF-8 text, cut anywhere, is always shown as text and nothing is lost."""
        encoded = text.encode()
        cut = data.draw(st.integers(0, len(encoded)))
        found = self.shown((encoded[:cut], False), (encoded[cut:], False))
        self.assertEqual("".join(str(line["data"]) for line in found[:-1]), text)

    @given(st.binary(max_size=12))
    def test_at_most_three_bytes_wait(self, data: bytes) -> None:
        """Whatever the bytes are, at most three are held back."""
        self.assertLessEqual(_incomplete(data), 3)


class RawTests(SynchronousTestCase):
    def test_untouched(self) -> None:
        """One device's bytes pass as they are, without anything about its exit status."""
        screen = Screen()
        presenter = RawPresenter("pump", screen.write)
        presenter.output(b"\x1b[31m\xff", False)
        presenter.output(b"e", True)
        presenter.end(Outcome(status="exit", exit_code=1))
        self.assertEqual((screen.out, screen.err), (b"\x1b[31m\xff", b"e"))

    def test_after_the_grace(self) -> None:
        """A command whose link did not come back may still run: it says how to go on."""
        screen = Screen()
        lost = Outcome(status="lost", code="link-lost", message="the link was gone for 60 s")
        RawPresenter("pump", screen.write).end(lost)
        first, second = screen.err.splitlines()
        self.assertIn(b"the link was gone for 60 s", first)
        self.assertIn(b"rshell attach", second)
        screen = Screen()
        RawPresenter("pump", screen.write).end(Outcome(status="lost", code="lost"))
        self.assertNotIn(b"rshell attach", screen.err)

    def test_hostile_message(self) -> None:
        """What a device says about its failure cannot drive the terminal."""
        screen = Screen()
        RawPresenter("pump", screen.write).end(Outcome(status="error", message="\x1b]0;x\x07\n!"))
        self.assertNotIn(b"\x1b", screen.err)
        self.assertEqual(screen.err.count(b"\n"), 1)


class GapTests(SynchronousTestCase):
    def test_said(self) -> None:
        """Output that is missing is said: in words on stderr, to programs as an object."""
        for presenter in (RawPresenter, PrefixPresenter):
            screen = Screen()
            presenter("pump", screen.write).gap(12_345)
            self.assertEqual(screen.err, b"rshell: pump: 12,345 bytes of output are gone\n")
        screen = Screen()
        JsonPresenter("pump", screen.write).gap(7)
        self.assertEqual(json.loads(screen.out), {"device": "pump", "gap_bytes": 7})
