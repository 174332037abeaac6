"""QuestionFilter: what a terminal would answer is not shown to it a second time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.replay import MAX_HELD_BYTES, QuestionFilter

ASKED = [
    b"\x05",
    b"\x1bZ",
    b"\x1b[c",
    b"\x1b[0c",
    b"\x1b[>c",
    b"\x1b[>0c",
    b"\x1b[=c",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?996n",
    b"\x1b[?2026$p",
    b"\x1b[4$p",
    b"\x1b[?u",
    b"\x1b[1$u",
    b"\x1b[x",
    b"\x1b[1x",
    b"\x1b[1;1;1;1;2;2*y",
    b"\x1b[14t",
    b"\x1b[18t",
    b"\x1b[21t",
    b"\x1b[>q",
    b"\x1b[>0q",
    b"\x1b[1$w",
    b"\x1b['|",
    b"\x1b[?1;1;0S",
    b"\x1b[?4m",
    b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b]10;?\x07",
    b"\x1b]11;?\x1b\\",
    b"\x1b]4;1;?\x07",
    b"\x1b]52;c;?\x07",
    b"\x1b]52;c;aGVsbG8=\x07",
    b"\x1b]1337;ReportCellSize\x07",
    b"\x1b_Gi=1,a=q;AAAA\x1b\\",
    b"\x9bc",
    b"\xc2\x9b6n",
    b"\x9d11;?\x9c",
    b"\x90$qm\x9c",
    b"\x1b[?1004h",
    b"\x1b[?2048h",
]
SHOWN = [
    b"plain text\r\n",
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[2J\x1b[H",
    b"\x1b[?25l\x1b[?1049h",
    b"\x1b[?5c",
    b"\x1b[!p",
    b"\x1b[2 q",
    b"\x1b[u",
    b"\x1b[>1u",
    b"\x1b[8;24;80t",
    b"\x1b[22;0t",
    b"\x1b7\x1b8",
    b"\x1b(B",
    b"\x1b#8",
    b"\x1b]0;what? a title\x07",
    b"\x1b]8;;http://x/?q\x1b\\link\x1b]8;;\x1b\\",
    b"\x1bPq#0;2;0;0;0#0~~@@vv\x1b\\",
    b"\x1b[3S",
    b"\x1b[>4;2m",
    "grüße ❤ 日本 \u201c".encode(),
    "\u045b".encode(),  # its bytes end in one that would be CSI alone
    b"\x1b[?1000;1006h",
    b"\x1b]0;\xd1\x9c title\x07",
]


def filtered(data: bytes) -> bytes:
    return QuestionFilter().feed(data)


class QuestionTests(SynchronousTestCase):
    def test_questions_vanish(self) -> None:
        """Each question is taken out, and the text around it stays."""
        for question in ASKED:
            self.assertEqual(filtered(b"before" + question + b"after"), b"beforeafter", question)

    def test_all_else_stays(self) -> None:
        """What terminals do not answer passes byte for byte."""
        for output in SHOWN:
            self.assertEqual(filtered(output + b"."), output + b".", output)

    def test_cut_anywhere(self) -> None:
        """One byte at a time gives the same as all at once."""
        whole = b"".join(a + b for a, b in zip(SHOWN, ASKED, strict=False))
        one = QuestionFilter()
        self.assertEqual(b"".join(one.feed(bytes([b])) for b in whole), filtered(whole))
        self.assertTrue(one.idle)

    def test_other_modes_stay(self) -> None:
        """Of several modes only those that make a terminal speak are taken out."""
        self.assertEqual(filtered(b"\x1b[?1000;1004;1006h"), b"\x1b[?1000;1006h")
        self.assertEqual(filtered(b"\x1b[?1004l"), b"\x1b[?1004l")

    def test_idle(self) -> None:
        """A sequence that is not complete is held, and told to be."""
        one = QuestionFilter()
        self.assertEqual(one.feed(b"x\x1b[6"), b"x")
        self.assertFalse(one.idle)
        self.assertEqual(one.feed(b"n"), b"")
        self.assertTrue(one.idle)

    def test_cancelled(self) -> None:
        """CAN ends a sequence, which then is no question."""
        self.assertEqual(filtered(b"\x1b[6\x18n"), b"\x1b[6\x18n")

    def test_controls_inside(self) -> None:
        """A control inside a sequence acts at once, and does not hide the question."""
        self.assertEqual(filtered(b"\x1b[6\nn!"), b"\n!")

    def test_escape_ends_a_string(self) -> None:
        """An escape sequence inside a string ends it, and is judged by itself."""
        self.assertEqual(filtered(b"\x1b]11;?\x1b[6nrest"), b"rest")

    def test_long_strings(self) -> None:
        """A long image passes, a long question does not, and neither is held as a whole."""
        image = b"\x1bPq" + b"~" * (3 * MAX_HELD_BYTES) + b"\x1b\\"
        self.assertEqual(filtered(image + b"."), image + b".")
        clipboard = b"\x1b]52;c;" + b"A" * (3 * MAX_HELD_BYTES) + b"\x07"
        self.assertEqual(filtered(clipboard + b"."), b".")

    @given(st.binary(max_size=300), st.integers(0, 300))
    def test_any_bytes(self, data: bytes, cut: int) -> None:
        """Any bytes, cut anywhere, give the same, and never more than came."""
        one = QuestionFilter()
        parts = one.feed(data[:cut]) + one.feed(data[cut:])
        self.assertEqual(parts, filtered(data))
        self.assertLessEqual(len(parts), len(data))
