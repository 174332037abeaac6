"""Device names, labels and printable text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.access.labels import BadLabel, parse_label, parse_label_changes
from rshell.access.names import BadName, check_name, suggest_name
from rshell.access.printable import printable

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
SOME_ID = "0b5f3c1e-8d7a-4e57-9f0a-6d1f2e3c4b5a"


class Names(SynchronousTestCase):
    def test_good(self) -> None:
        """Names within the rule are accepted as they are."""
        for name in ("a", "0", "pump-17", "a" * 63, "a-", "console2", "in"):
            self.assertEqual(check_name(name), name)

    def test_bad(self) -> None:
        """Everything else is refused: too long, upper case, reserved, like an id."""
        for name in ("", "-a", "A", "a_b", "a.b", "a" * 64, "a\n", "\u0661", "console", SOME_ID):
            self.assertRaises(BadName, check_name, name)

    def test_suggestions(self) -> None:
        """A host name becomes the name one would choose."""
        for hostname, name in {
            "pump-17": "pump-17",
            "Pump-17.site.local": "pump-17",
            "raspberry_pi": "raspberry-pi",
            "Müller's Gerät": "muller-s-gerat",
            "10.0.0.17": "10-0-0-17",
            "localhost": "device",
            "localhost.localdomain": "device",
            "": "device",
            "...": "device",
            "北京": "device",
            "console": "device-console",
            "--x--": "x",
            "\x1b[2Jx": "2jx",
            SOME_ID: f"device-{SOME_ID}",
            "x" * 62 + "-y": "x" * 62,
        }.items():
            self.assertEqual(suggest_name(hostname), name, hostname)

    @given(st.text())
    @SETTINGS
    def test_every_suggestion_is_valid(self, hostname: str) -> None:
        """Whatever a host is called, the suggestion keeps the rule and stays as it is."""
        name = check_name(suggest_name(hostname))
        self.assertEqual(suggest_name(name), name)


class Labels(SynchronousTestCase):
    def test_good(self) -> None:
        """Keys and values within the syntax are taken apart at the first '='."""
        for text, expected in {
            "site=berlin": ("site", "berlin"),
            "a=": ("a", ""),
            "A.b_c-9=x:/y@z+1.0-_": ("A.b_c-9", "x:/y@z+1.0-_"),
            "k" * 63 + "=" + "v" * 253: ("k" * 63, "v" * 253),
        }.items():
            self.assertEqual(parse_label(text), expected)

    def test_bad(self) -> None:
        """What is outside the syntax is refused, and so are the names selectors use."""
        for text in (
            *("", "a", "=x", "-a=x", "a b=c", "a=b c", "a=b,c", "a=b=c", "a=*", "a=\n", "a\n=b"),
            *("é=x", "a=é", "k" * 64 + "=x", "k=" + "v" * 254, "name=x", "id=x", "state=live"),
        ):
            self.assertRaises(BadLabel, parse_label, text)

    def test_changes(self) -> None:
        """A list of words says what to set and what to remove."""
        changes = parse_label_changes(["a=1", "b-", "c=x-"])
        self.assertEqual((changes.put, changes.remove), ({"a": "1", "c": "x-"}, frozenset("b")))

    def test_bad_changes(self) -> None:
        """A key named twice, or no key at all, is refused."""
        for words in (["a=1", "a=2"], ["a=1", "a-"], ["a-", "a-"], ["-"], ["x"], ["name-"]):
            self.assertRaises(BadLabel, parse_label_changes, words)


class Printable(SynchronousTestCase):
    def test_ordinary_text(self) -> None:
        """Ordinary text of any language passes unchanged."""
        for text in ("", "pump 17", "Gerät 北京 😀", "a\u0301"):
            self.assertEqual(printable(text), text)

    def test_controls(self) -> None:
        """C0, C1, DEL, bidirectional and invisible characters are seen, not acted on."""
        hostile = (*range(32), *range(0x7F, 0xA0), 0x200B, 0x200E, 0x202E, 0x2066, 0xFEFF, 0xD800)
        for code in hostile:
            shown = printable(f"a{chr(code)}b")
            self.assertIn(shown, ("a\ufffdb", "a b"), hex(code))
        self.assertEqual(
            printable("\x1b]0;x\x07\x9b2J\u202ecba"), "\ufffd]0;x\ufffd\ufffd2J\ufffdcba"
        )

    def test_one_line(self) -> None:
        """White space of any kind becomes a space, so a text stays one line."""
        self.assertEqual(printable("a\r\nb\tc\u2028d\u00a0e"), "a  b c d e")

    def test_limit(self) -> None:
        """A text longer than the limit is cut to it and says so."""
        self.assertEqual(printable("abcdef", 6), "abcdef")
        self.assertEqual(printable("abcdefg", 6), "abcde…")
        self.assertEqual(printable("ab", 1), "…")
        self.assertRaises(ValueError, printable, "a", 0)

    @given(st.text(), st.integers(1, 50))
    @SETTINGS
    def test_always_printable(self, text: str, limit: int) -> None:
        """The result is printable and within the limit, whatever goes in."""
        shown = printable(text, limit)
        self.assertTrue(shown.isprintable())
        self.assertEqual(len(shown), min(len(text), limit))
        self.assertEqual(printable(shown, limit), shown)
