"""Exit statuses, tables, durations, escapes, and how a command's words are run."""

from __future__ import annotations

import click
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.choosing import names_one
from rshell.cli.main import VERBS, cli
from rshell.cli.options import parse_duration, written_as
from rshell.cli.run import command_of, run
from rshell.cli.shell import notice_line
from rshell.cli.statuses import of_many, of_one
from rshell.cli.tables import clip_column, format_plain
from rshell.cli.terminal import EscapeFilter, terminal_type
from rshell.client.errors import RshellError
from rshell.handlers import Outcome


class NoticeTests(SynchronousTestCase):
    def test_line(self) -> None:
        """A notice begins at the left, also one that came just before the terminal was raw."""
        for terminal, started, line in (
            (True, True, b"\r\nrshell: x\r\n"),
            (True, False, b"rshell: x\r\n"),
            (False, True, b"rshell: x\n"),
            (False, False, b"rshell: x\n"),
        ):
            self.assertEqual(notice_line("x", terminal, started), line)


class StatusTests(SynchronousTestCase):
    def test_one(self) -> None:
        """One device: its own status, 128+n, 124, and 255 for what is ours."""
        for outcome, status in (
            (Outcome(status="ok"), 0),
            (Outcome(status="exit", exit_code=3), 3),
            (Outcome(status="exit", exit_code=255), 255),
            (Outcome(status="exit"), 255),
            (Outcome(status="signal", signal="KILL"), 137),
            (Outcome(status="signal", signal="TERM"), 143),
            (Outcome(status="signal", signal="NOVEL"), 255),
            (Outcome(status="signal"), 255),
            (Outcome(status="timeout"), 124),
            (Outcome(status="offline"), 255),
            (Outcome(status="refused"), 255),
            (Outcome(status="lost"), 255),
            (Outcome(status="error"), 255),
            (Outcome(status="new word"), 255),
        ):
            self.assertEqual(of_one(outcome), status, outcome)

    def test_many(self) -> None:
        """Several devices: 0 only if all succeeded."""
        ok = Outcome(status="ok")
        self.assertEqual(of_many([ok, ok]), 0)
        self.assertEqual(of_many([ok, Outcome(status="exit", exit_code=9)]), 1)


class CommandTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Several words run as they are, one with shell characters runs as a line."""
        for words, options, expected in (
            (["uptime"], {}, ([b"uptime"], None)),
            (["ls", "a b", "|"], {}, ([b"ls", b"a b", b"|"], None)),
            (["a | b"], {}, (None, b"a | b")),
            (["echo"], {"as_line": True}, (None, b"echo")),
            (["echo", "$HOME"], {"as_line": True}, (None, b"echo $HOME")),
            (["my prog"], {"as_argv": True}, ([b"my prog"], None)),
            (["caf\udce9"], {}, ([b"caf\xe9"], None)),
        ):
            chosen = {"as_line": False, "as_argv": False, **options}
            self.assertEqual(command_of(words, **chosen), expected)

    def parsed(self, *words: str) -> dict[str, object]:
        return run.make_context("run", list(words)).params

    def test_options_end_at_the_command(self) -> None:
        """Options before and after the selector are ours, those after the command are its own."""
        for words in (
            ["--timeout", "5", "pump", "--as", "root", "--", "ls", "-l", "--json"],
            ["pump", "--timeout", "5", "--as=root", "ls", "-l", "--json"],
        ):
            params = self.parsed(*words)
            self.assertEqual(params["selector"], "pump")
            self.assertEqual(params["command"], ("ls", "-l", "--json"))
            self.assertEqual((params["timeout"], params["login"]), (5.0, "root"))

    def test_wrong_usage(self) -> None:
        """No command, a bad timeout and a bad concurrency are usage errors."""
        for words in (
            ["pump"],
            ["pump", "--timeout", "0", "--", "x"],
            ["--concurrency", "0", "p", "x"],
        ):
            self.assertRaises(click.UsageError, self.parsed, *words)

    def test_names_one(self) -> None:
        """Plain names and ids are opened without a listing, all else is looked up."""
        for text in ("pump-17", "0f9a3b52-1111-4222-8333-444455556666"):
            self.assertTrue(names_one(text))
        for text in ("pump-*", "a=b", "name in (a,b)", "pump,site=x"):
            self.assertFalse(names_one(text))


class DurationTests(SynchronousTestCase):
    def parse(self, text: str) -> object:
        return parse_duration(None, None, text)  # type: ignore[arg-type]  # neither is used

    def test_units(self) -> None:
        """Seconds, minutes, hours, days and weeks."""
        for text, seconds in (
            ("90", 90),
            ("90s", 90),
            ("2m", 120),
            ("1h", 3600),
            ("1d", 86_400),
            ("1w", 604_800),
        ):
            self.assertEqual(self.parse(text), seconds)

    def test_refused(self) -> None:
        """Nothing, zero, negative and unknown units are refused."""
        for text in ("", "0", "0h", "-1h", "1y", "1.5h", "\N{ARABIC-INDIC DIGIT ONE}", "1h30m"):
            self.assertRaises(click.BadParameter, self.parse, text)


class WrittenAsTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """What is written otherwise is refused in words; what is not given is left alone."""
        check = written_as("[0-9a-f]{4}", "four digits")

        def checked(text: str | None) -> str | None:
            return check(None, None, text)  # type: ignore[arg-type]  # neither is used

        self.assertEqual([None, "01af"], [checked(None), checked("01af")])
        for text in ("", "01a", "01aff", "01af\n", "01AF", "\x1b[2J"):
            with self.assertRaises(RshellError) as caught:
                checked(text)
            self.assertEqual("four digits", caught.exception.message)


class TableTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Columns are aligned by what they take on a terminal, without trailing spaces."""
        table = format_plain(("A", "B"), [("x", "1"), ("日本", "2"), ("", "")])
        self.assertEqual(table, "A     B\nx     1\n日本  2\n\n")

    def test_clipped(self) -> None:
        """One column gives way so that the table fits, down to a smallest width."""
        rows = [["1", "日本" * 20, "end"], ["22", "short", "x"]]
        for width, room in ((60, 51), (30, 21), (5, 16)):
            long, short = clip_column(("A", "WHAT", "B"), rows, 1, width)
            self.assertEqual((long[0], long[2], short), ("1", "end", rows[1]))
            self.assertTrue(long[1].endswith("本…") or long[1].endswith("日…"), long)
            self.assertEqual(len(long[1]), (room - 1) // 2 + 1)
        self.assertEqual(clip_column(("A", "WHAT", "B"), rows, 1, 89), rows)


class EscapeTests(SynchronousTestCase):
    def feed(self, *chunks: bytes) -> tuple[bytes, list[str]]:
        escapes = EscapeFilter()
        passed, commands = b"", []
        for chunk in chunks:
            data, found = escapes.feed(chunk)
            passed += data
            commands += found
        return passed, commands

    def test_quit(self) -> None:
        """~. at the beginning of a line disconnects; nothing after it is sent."""
        self.assertEqual(self.feed(b"~.x"), (b"", ["quit"]))
        self.assertEqual(self.feed(b"ls\r", b"~", b"."), (b"ls\r", ["quit"]))
        self.assertEqual(self.feed(b"a\n~.ls"), (b"a\n", ["quit"]))

    def test_not_at_the_beginning(self) -> None:
        """Elsewhere a ~ is a ~."""
        self.assertEqual(self.feed(b"cd ~.\r"), (b"cd ~.\r", []))
        self.assertEqual(self.feed(b"x", b"~", b"."), (b"x~.", []))

    def test_others(self) -> None:
        """~~ is one ~, ~? helps, and any other pair is passed on."""
        self.assertEqual(self.feed(b"~~.x"), (b"~.x", []))
        self.assertEqual(self.feed(b"~?ls\r"), (b"ls\r", ["help"]))
        self.assertEqual(self.feed(b"~/bin\r"), (b"~/bin\r", []))

    @given(st.lists(st.sampled_from([b"~", b".", b"?", b"\r", b"a", b"\n"]), max_size=20))
    def test_cut_anywhere(self, keys: list[bytes]) -> None:
        """Typed key by key or pasted at once, the result is the same."""
        one_by_one, at_once = self.feed(*keys), self.feed(b"".join(keys))
        if "quit" in at_once[1]:
            self.assertEqual(one_by_one[0][: len(at_once[0])], at_once[0])
        else:
            self.assertEqual(one_by_one, at_once)

    def test_terminal_type(self) -> None:
        """A $TERM that the protocol does not take is xterm."""
        self.assertEqual(terminal_type("screen-256color"), "screen-256color")
        for name in ("", "a b", "x" * 65, "vt100;reboot", "é"):
            self.assertEqual(terminal_type(name), "xterm")


class HelpTests(SynchronousTestCase):
    def test_every_verb(self) -> None:
        """Every verb but the demo, which needs more, has a help text with an example."""
        context = cli.make_context("rshell", ["whoami"])
        for verb in sorted(set(VERBS) - {"demo"}):
            command = cli.get_command(context, verb)
            assert command is not None
            text = command.get_help(click.Context(command, info_name=verb))
            self.assertIn("--home", text)
            self.assertIn("--json", text)
            if verb != "whoami":
                self.assertIn(f"rshell {verb}", text)
