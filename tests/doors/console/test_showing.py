"""What is drawn: safe text, colours, tables; and what Tab finds."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import CompletedCommand, Device, LinkRecord, Outcome, SessionInfo
from rshell.doors.console.completion import Completer
from rshell.doors.console.listings import Links, Sessions, metrics_of, why_of
from rshell.doors.console.painting import colour_source, safe_text, table
from rshell.doors.console.results import Done, DoneMany
from rshell.doors.console.screen import Screen
from tests.hostile import EVIL, hostile

HOSTILE = "x\x1b]0;owned\x07\x9b31m\u202ey"


def done(device: str, stdout: bytes = b"", **outcome: Any) -> Done:
    fields = {"status": "ok", **outcome}
    return Done.new(CompletedCommand(device, stdout, b"", Outcome(**fields)))


async def awaited(call: Any) -> Any:
    return await call


class HostileClient:
    """Tells the worst."""

    async def sessions(self, selector: str, **filters: Any) -> list[SessionInfo]:
        return [msgspec.convert(hostile(SessionInfo) | {"outcome": None}, SessionInfo)]

    async def devices(self, selector: str) -> list[Device]:
        return [msgspec.convert(hostile(Device) | {"state": "live"}, Device)]

    async def why(self, device: str, limit: int) -> list[LinkRecord]:
        return [msgspec.convert(hostile(LinkRecord), LinkRecord)]

    async def metrics(self) -> str:
        return f"x{{a={EVIL!r}}} 1\n{EVIL} 2\n"


class SafeTests(SynchronousTestCase):
    def assert_safe(self, text: str) -> None:
        for colour in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"):
            text = text.replace(colour, "")
        for line in text.split("\n"):
            self.assertTrue(line.isprintable(), repr(line))

    def test_hostile_output(self) -> None:
        """What devices say is neutralised in every look."""
        self.assert_safe(safe_text(HOSTILE))
        self.assert_safe(table(("A",), [(HOSTILE,)], 80))
        hostile = done(HOSTILE, HOSTILE.encode(), status="error", message=HOSTILE, result=HOSTILE)
        self.assert_safe(hostile.look(80))
        self.assert_safe(DoneMany([hostile, done("a")]).look(80))

    def test_listings(self) -> None:
        """Every listing of the console, of records that are hostile in each text."""
        client: Any = HostileClient()
        calls = (
            Sessions(client, client)(),
            Links(client)(),
            why_of(client, EVIL, 5),
            metrics_of(client, ""),
        )
        for call in calls:
            look = self.successResultOf(Deferred.fromCoroutine(awaited(call))).look(100)
            self.assertIn("rshell: all is well", look)
            self.assert_safe(look)

    def test_why_tells_a_duration_once(self) -> None:
        """How long something took is in its message, and not told twice."""
        record = LinkRecord(
            at="2026-11-22T12:00:00Z",
            source="agent",
            kind="welcomed",
            message="gw (127.0.0.1): as pump-1 (0.0 s)",
            seconds=0.04,
        )
        client: Any = HostileClient()
        client.why = lambda device, limit: succeed([record])
        look = self.successResultOf(Deferred.fromCoroutine(awaited(why_of(client, "p", 5))))
        self.assertEqual(look.look(100).count("0.0 s"), 1)

    def test_long(self) -> None:
        """What is shown has a limit, and says so."""
        text = safe_text("ab" * 1000, 100)
        self.assertIn("1,900 more characters", text)

    def test_folding(self) -> None:
        """Identical output is shown once, with who said it."""
        look = DoneMany([done("b", b"1\n"), done("a", b"1\n"), done("c", b"2\n")]).look(80)
        self.assertEqual(look.count("\n1\n"), 1)
        self.assertIn("a, b:", look)
        self.assertIn("3 of 3 succeeded", look)

    @given(st.text(max_size=40), st.text(alphabet="'\"\\(\n #x1", max_size=40))
    def test_colours(self, line: str, before: str) -> None:
        """Any text has as many colours as characters."""
        line = line.replace("\n", "")
        self.assertEqual(len(colour_source(before, line)), len(line))


class ScreenTests(SynchronousTestCase):
    def test_repaint(self) -> None:
        """A painting takes the place of the one before; other text is never painted over."""
        sent: list[bytes] = []
        screen = Screen(lambda data, stderr=False: sent.append(data))
        screen.repaint("a\nb")
        screen.repaint("c")
        self.assertEqual(sent, [b"a\r\nb\r\n", b"\x1b[2A\r\x1b[J", b"c\r\n"])
        screen.write("said")
        sent.clear()
        screen.repaint("d")
        self.assertEqual(sent, [b"d\r\n"])

    def test_taken(self) -> None:
        """While somebody has the screen nothing of ours gets there; then it is put in order."""
        sent: list[bytes] = []
        screen = Screen(lambda data, stderr=False: sent.append(data))
        write = screen.take(lambda _: None, lambda *_: None, lambda _: None)
        screen.write("ours")
        screen.repaint("ours")
        write(b"\x1b[?1049htheirs")
        screen.give_back()
        self.assertEqual(sent[0], b"\x1b[?1049htheirs")
        self.assertIn(b"\x1b[?1049l", sent[1])
        screen.give_back()
        self.assertEqual(len(sent), 2)

    def test_no_terminal(self) -> None:
        """Without a terminal there are neither colours nor paintings."""
        sent: list[tuple[bytes, bool]] = []
        screen = Screen(
            lambda data, stderr=False: sent.append((data, stderr)), columns=0, is_terminal=False
        )
        screen.repaint("x")
        screen.show("\x1b[31mred\x1b[0m", error=True)
        self.assertEqual(sent, [(b"red\n", True)])


class Names:
    async def device_names(self) -> list[str]:
        return ["pump-1", "pump-2", "valve"]

    def __getitem__(self, name: str) -> str:
        return name


class CompletionTests(SynchronousTestCase):
    def complete(self, text: str) -> tuple[int, list[str]]:
        namespace = {"fleet": Names(), "flag": 1, "bad": Bad()}
        return self.successResultOf(Deferred.fromCoroutine(Completer(namespace).complete(text)))

    def test_places(self) -> None:
        """Names, devices and attributes are found where they belong."""
        self.assertEqual(self.complete("x = fl"), (2, ["flag", "fleet", "float"]))
        self.assertEqual(self.complete("fleet['pu"), (2, ["pump-1", "pump-2"]))
        self.assertEqual(self.complete('await fleet["va'), (2, ['valve"]']))
        self.assertEqual(self.complete("fleet['pump-1'].upp"), (3, ["upper"]))
        self.assertEqual(self.complete("flag.bit_l"), (5, ["bit_length"]))
        for text in ("", "1 + ", "nothing.x", "bad.more.x", "flag['x", "fleet[", ")."):
            self.assertEqual(self.complete(text)[1], [], text)


class Bad:
    @property
    def more(self) -> Any:
        raise RuntimeError
