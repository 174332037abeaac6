"""``rshell sessions`` and ``rshell attach``, and leaving a shell so that it lives on."""

from __future__ import annotations

import json
import os
import pty
from typing import Any

import msgspec
from twisted.internet.threads import deferToThread

from rshell.link.core.messages import Opened
from tests.cli.rshell_process import CliCase, RshellProcess, TerminalCase
from tests.client.fake_gateway import FakeStream

ID = "4f2a91c7" + "0" * 24


def listed(**more: Any) -> dict[str, Any]:
    """Return a session as the gateway lists it."""
    return {
        "session": ID,
        "device": "pump",
        "device_id": "pump",
        "device_state": "live",
        "operator": "alice",
        "handler": "shell",
        "login": "root",
        "state": "detached",
        "age_ms": 90_000,
        "detached_ms": 5_000,
        "attempt": 3,
        "viewers": 0,
        **more,
    }


def accept(stream: FakeStream, replay: int) -> None:
    """Accept, saying that so many of the bytes to come are old."""
    link: Any = stream.link
    real = link.accept

    def accepting(number: int, request: Any, opened: Opened, *more: Any) -> None:
        real(number, request, msgspec.structs.replace(opened, replay=replay), *more)

    link.accept = accepting
    stream.accept()
    link.accept = real


class SessionsTests(CliCase):
    async def test_list(self) -> None:
        """Each session has a line: what it is, how old, and whether somebody holds it."""
        self.gateway.answers["sessions"] = [
            listed(),
            listed(state="attached", viewers=2, login=None, device="evil\x1b[2J"),
            listed(state="finished", outcome={"status": "exit"}, device_state="lost"),
        ]
        done = await self.rshell("sessions", "site=berlin", "--all")
        heading, first, second, third = done.out.decode().splitlines()
        self.assertEqual(heading.split()[0], "SESSION")
        self.assertEqual(first.split()[:4], ["4f2a91c7", "pump", "shell", "root"])
        self.assertIn("90s", first)
        self.assertIn("  detached 5s  ", first)
        self.assertIn("  attached, 2 watching  ", second)
        self.assertNotIn("\x1b", second)
        self.assertIn("  finished: exit (device away)  ", third)
        (asked,) = self.gateway.requests
        self.assertEqual(asked.request, {"selector": "site=berlin", "all": True})

    async def test_columns(self) -> None:
        """Door, origin, idle time, bytes, recording and who watches have their columns."""
        used = {"idle_ms": 130_000, "bytes_in": 1234, "bytes_out": 28_400_000}
        came = {"door": "ssh", "address": "192.0.2.7:40000", "recorded": "input", "driver": "eve"}
        watchers = [{"operator": "bob"}, {"operator": "bob"}, {"operator": "z\x1b[1me"}]
        self.gateway.answers["sessions"] = [
            listed(state="attached", viewers=3, watchers=watchers, operator="ann", **used, **came)
        ]
        done = await self.rshell("sessions")
        line = done.out.decode().splitlines()[1]
        self.assertTrue(line.endswith("90s  2m    1.2k  28M  input  ssh   192.0.2.7:40000"), line)
        self.assertIn("attached by eve, watched by bob, z\N{REPLACEMENT CHARACTER}[1me  ", line)

    async def test_filters(self) -> None:
        """What is filtered by is asked for; another operator's need --all, which goes along."""
        self.gateway.answers["sessions"] = []
        for words, asked in (
            ((), {"selector": "", "all": False}),
            (("--device", "pump-*"), {"selector": "pump-*", "all": False}),
            (
                ("--operator", "bob", "--door", "ssh", "--state", "parked"),
                {"selector": "", "all": True, "operator": "bob", "door": "ssh", "state": "parked"},
            ),
        ):
            done = await self.rshell("sessions", *words)
            self.assertEqual(done.status, 0)
            self.assertEqual(self.gateway.requests[-1].request, asked)
        for words in (("pump", "--device", "pump"), ("--state", "asleep")):
            self.assertEqual((await self.rshell("sessions", *words)).status, 2)

    async def test_json(self) -> None:
        """--json has all there is."""
        self.gateway.answers["sessions"] = [listed()]
        done = await self.rshell("sessions", "--json")
        (found,) = json.loads(done.out)
        self.assertEqual((found["session"], found["detached_ms"]), (ID, 5_000))

    async def test_end(self) -> None:
        """--end takes the first digits, and ends that session and no other."""
        ended: list[Any] = []
        self.gateway.answers["sessions"] = [listed(), listed(session="ab" * 16)]
        self.gateway.answers["end-session"] = lambda request: ended.append(request) or {}
        done = await self.rshell("sessions", "--end", "4f2a")
        self.assertEqual((done.status, done.out), (0, b"ended 4f2a91c7 on pump\n"))
        self.assertEqual(ended, [{"session": ID}])

    async def test_which_one(self) -> None:
        """What names no session, several, or nothing that can be attached is refused in words."""
        away = listed(session="aa" * 16, device_state="lost")
        over = listed(session="bb" * 16, state="finished", outcome={"status": "ok"})
        self.gateway.answers["sessions"] = [listed(), listed(session=ID[:-1] + "1"), away, over]
        for words, status, reason in (
            (["4f2a"], 255, b"several sessions begin with 4f2a"),
            (["cccc"], 255, b"no session begins with cccc"),
            (["4f"], 255, b"four or more"),
            (["4F2A91C7"], 255, b"four or more"),
            (["aaaa"], 255, b"pump is away"),
            (["bbbb", "--watch"], 255, b"the session has ended"),
            (["4f2a", "--watch", "--take"], 2, b"either --watch or --take"),
        ):
            done = await self.rshell("attach", *words)
            self.assertEqual((done.status, done.out), (status, b""), words)
            self.assertIn(reason, done.err)
        self.assertEqual(self.gateway.streams, [])


class AttachTests(TerminalCase):
    def begin(self, *options: str, **info: Any) -> RshellProcess:
        """Attach to the one session there is."""
        self.gateway.answers["sessions"] = [listed(**info)]
        return self.on_terminal("attach", "4f2a", *options)

    @property
    def stream(self) -> FakeStream:
        """The only stream so far."""
        (stream,) = self.gateway.streams
        return stream

    async def test_driving(self) -> None:
        """It goes on from 0 by the next attempt, our size is told, and keys go to it."""
        self.echoing()
        process = self.begin()
        await process.until(lambda: b"40x100" in process.out)
        request = self.stream.request
        self.assertEqual(
            (request.session.hex(), request.attempt, request.view, request.device),
            (ID, 4, False, "pump"),
        )
        assert request.resume is not None
        self.assertEqual((request.resume.consumed, request.resume.events), (0, 0))
        os.write(self.master, b"x\x03")
        await process.until(lambda: b"x\x03" in process.out)
        self.stream.finish(status="exit", exit_code=4)
        self.assertEqual(await process.ended, 4)
        self.assertEqual(process.err, b"")
        self.assert_restored()

    async def test_old_questions(self) -> None:
        """What asks the terminal is taken out of exactly the bytes that are old (rule R8)."""
        old = b"old\x1b[c\x1b[1mbold\x1b[0"  # its last question is cut by the end of the replay
        new = b"c\x1b[cnew"

        def behave(stream: FakeStream) -> None:
            accept(stream, len(old))
            stream.channel.write(old + new)
            stream.finish(status="ok")

        self.gateway.devices["pump"] = behave
        process = self.begin()
        self.assertEqual(await process.ended, 0)
        self.assertEqual(process.out, b"old\x1b[1mbold\x1b[cnew")

    async def test_nothing_old(self) -> None:
        """Without a replay every byte is as it came."""

        def behave(stream: FakeStream) -> None:
            accept(stream, 0)
            stream.channel.write(b"\x1b[c")
            stream.finish(status="ok")

        self.gateway.devices["pump"] = behave
        process = self.begin()
        self.assertEqual(await process.ended, 0)
        self.assertEqual(process.out, b"\x1b[c")

    async def test_gap(self) -> None:
        """Output that is gone is marked, at its place on a terminal."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.send_event("gap", {"bytes": 12_345})
            stream.channel.write(b"after")
            stream.finish(status="ok")

        self.gateway.devices["pump"] = behave
        process = self.begin()
        self.assertEqual(await process.ended, 0)
        self.assertIn(
            b"\x1b[0;7mrshell: 12,345 bytes of earlier output were shown elsewhere, "
            b"or are not kept any more\x1b[0m",
            process.err,
        )
        self.assertEqual(process.out, b"after")

    async def test_watching(self) -> None:
        """Who watches sends nothing at all, and leaves with Ctrl-C; the session goes on."""
        self.echoing()
        process = self.begin("--watch")
        await process.until(lambda: b"ready" in process.out)
        request = self.stream.request
        self.assertEqual((request.view, request.resume), (True, None))
        os.write(self.master, b"rm -rf\r~?")
        await process.until(lambda: b"You are watching" in process.err)
        process.signal("WINCH")
        self.stream.channel.write(b"more")
        await process.until(lambda: b"more" in process.out)
        os.write(self.master, b"\x03")
        self.assertEqual(await process.ended, 0)
        self.assertEqual(await self.stream.closed, "cancelled")
        self.assertEqual((bytes(self.stream.input), self.stream.events), (b"", []))
        self.assertIn(b"rshell: left pump\n", process.err)
        self.assert_restored()

    async def test_left(self) -> None:
        """To look on no longer is no failure: by ~., by ~d, and when the terminal goes away."""
        self.echoing()
        for leave in (b"\r~.", b"\r~d", None):
            self.gateway.streams.clear()
            process = self.begin("--watch")
            await process.until(lambda process=process: b"ready" in process.out)
            if leave is None:
                process.signal("HUP")
            else:
                os.write(self.master, leave)
            self.assertEqual(await process.ended, 0, leave)
            self.assertEqual(await self.stream.closed, "cancelled")

    async def test_too_slow(self) -> None:
        """Who watches is told that what is missing was left out for them."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.send_event("gap", {"bytes": 7})
            stream.finish(status="ok")

        self.gateway.devices["pump"] = behave
        process = self.begin("--watch")
        self.assertEqual(await process.ended, 0)
        self.assertIn(b"rshell: 7 bytes of output were left out: this end was too ", process.err)

    async def test_held_by_somebody(self) -> None:
        """A session that somebody holds is watched, and said so; --take takes it over."""
        self.echoing()
        process = self.begin(state="attached")
        await process.until(lambda: b"ready" in process.out)
        self.assertIn(b"somebody holds this session; watching it", process.err)
        self.assertTrue(self.stream.request.view)
        process.signal("TERM")
        self.assertEqual(await process.ended, 143)
        self.assertEqual(await self.stream.closed, "cancelled")
        self.gateway.streams.clear()
        process = self.begin("--take", state="attached")
        await process.until(lambda: b"40x100" in process.out)
        self.assertEqual((self.stream.request.view, self.stream.request.attempt), (False, 4))
        self.stream.channel.reset("duplicate", "attempt 5 took over")
        self.assertEqual(await process.ended, 255)
        self.assertIn(b"taken over by another attach", process.err)
        self.assert_restored()

    async def test_command(self) -> None:
        """A command is attached to without a terminal: its output and its status come."""

        def behave(stream: FakeStream) -> None:
            accept(stream, 5)
            stream.channel.write(b"\x1b[cok")
            stream.channel.write_stderr(b"err")
            stream.finish(status="exit", exit_code=7)

        self.gateway.devices["pump"] = behave
        process = self.begin(handler="exec")
        self.assertEqual(await process.ended, 7)
        self.assertEqual((process.out, process.err), (b"\x1b[cok", b"err"))
        self.assertEqual((bytes(self.stream.input), self.stream.events), (b"", []))


class LeavingTests(TerminalCase):
    """A shell that is left, in any way but ~., lives on."""

    async def begin(self) -> RshellProcess:
        self.echoing()
        process = self.on_terminal("shell", "pump")
        await process.until(lambda: b"ready" in process.out)
        return process

    async def assert_lives_on(self) -> None:
        """The device heard of a broken link, and neither of an end of input nor a cancel."""
        (stream,) = self.gateway.streams
        self.assertEqual(await stream.closed, "link-lost")
        self.assertEqual([kind for kind, _ in stream.events if kind != "window"], [])

    async def test_escape(self) -> None:
        """~d leaves it running and tells how to continue."""
        process = await self.begin()
        os.write(self.master, b"a\r~d")
        self.assertEqual(await process.ended, 255)
        await self.assert_lives_on()
        wanted = self.gateway.requests[0].session.hex()[:8]
        self.assertIn(f"continue it with: rshell attach {wanted}\n".encode(), process.err)
        self.assert_restored()

    async def test_hangup_signal(self) -> None:
        """SIGHUP leaves it running."""
        process = await self.begin()
        process.signal("HUP")
        self.assertEqual(await process.ended, 129)
        await self.assert_lives_on()

    async def test_closed_terminal(self) -> None:
        """A terminal that goes away under it leaves it running, whatever notices that first."""
        master, slave = pty.openpty()
        ended: list[bool] = []

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.on_eof = lambda: ended.append(True)
            stream.channel.write(b"ready")

        self.gateway.devices["pump"] = behave
        process = self.start("shell", "pump", fds={0: slave, 1: slave, 2: slave}, TERM="vt220")
        os.close(slave)
        self.assertEqual(await deferToThread(os.read, master, 100), b"ready")
        (stream,) = self.gateway.streams
        os.close(master)
        stream.channel.write(b"output for nobody")
        await process.ended
        await self.assert_lives_on()
        self.assertEqual(ended, [])

    async def test_away(self) -> None:
        """While the link is away a line says so; ~. then leaves, for nobody can be told more."""
        process = await self.begin()
        await self.gateway.close_port()
        self.gateway.links[0].abort("cut")
        await process.until(lambda: b"retrying, ~. quits" in process.err)
        self.assertRegex(process.err, rb"pump: link lost \d+ s")
        os.write(self.master, b"\r~.")
        self.assertEqual(await process.ended, 255)
        await self.assert_lives_on()
        self.assertIn(b"continue it with: rshell attach ", process.err)
        self.assert_restored()

    async def test_terminated_while_away(self) -> None:
        """SIGTERM while the link is away leaves at once, and tells what lives on."""
        process = await self.begin()
        await self.gateway.close_port()
        self.gateway.links[0].abort("cut")
        await process.until(lambda: b"link lost" in process.err)
        process.signal("TERM")
        self.assertEqual(await process.ended, 143)
        self.assertIn(b"continue it with: rshell attach ", process.err)
        self.assert_restored()

    async def test_hangup_while_opening(self) -> None:
        """A shell that nobody has seen yet does not live on."""

        def behave(stream: FakeStream) -> None:
            stream.link.watch(stream.number, stream.channel)
            process.signal("HUP")

        self.gateway.devices["pump"] = behave
        process = self.on_terminal("shell", "pump")
        self.assertEqual(await process.ended, 129)
        (stream,) = self.gateway.streams
        self.assertEqual(await stream.closed, "cancelled")
        self.assertNotIn(b"rshell attach", process.err)
