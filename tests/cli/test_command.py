"""The whole command, as a child process, against a scripted gateway."""

from __future__ import annotations

import json
import os
import pty
import struct
import termios
from fcntl import F_GETFL, F_SETPIPE_SZ, fcntl, ioctl

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from rshell.handlers import ExecRequest
from tests.cli.rshell_process import LIVE, CliCase, RshellProcess, TerminalCase, listed
from tests.client.fake_gateway import (
    FakeStream,
    Flood,
    LastingStream,
    cats,
    prints,
    refuses,
    waits,
)


class RunTests(CliCase):
    async def test_one_device(self) -> None:
        """One device: output untouched on both channels, its exit status, its input."""
        self.gateway.devices["pump"] = prints(b"\x1b[1mout", b"err", status="exit", exit_code=7)
        done = await self.rshell("run", "pump", "--as", "root", "--", "ls", "-l")
        self.assertEqual((done.out, done.err, done.status), (b"\x1b[1mout", b"err", 7))
        (opened,) = self.gateway.requests
        self.assertEqual((opened.login, opened.request), ("root", {"argv": ["bHM=", "LWw="]}))

    async def test_input(self) -> None:
        """Standard input is passed on, however long, and its end too."""
        self.gateway.devices["pump"] = cats
        data = os.urandom(3_000_000)
        done = await self.rshell("run", "pump", "cat", stdin=data)
        self.assertEqual((done.status, done.err), (0, b""))
        self.assertEqual(done.out, data)

    async def test_regular_files(self) -> None:
        """Regular files, which epoll cannot watch, work as stdin and stdout."""
        self.gateway.devices["pump"] = cats
        source, target = self.mktemp(), self.mktemp()
        with open(source, "wb") as file:
            file.write(b"line\n" * 100_000)
        with open(source, "rb") as read, open(target, "wb") as write:
            process = self.start(
                "run", "pump", "cat", fds={0: read.fileno(), 1: write.fileno(), 2: "r"}
            )
            self.assertEqual(await process.ended, 0)
        with open(target, "rb") as file:
            self.assertEqual(file.read(), b"line\n" * 100_000)

    async def test_statuses(self) -> None:
        """Signals, timeouts and everything that is ours have their exit statuses."""

        def cut(stream: FakeStream) -> None:
            if stream.request.attempt == 1:
                stream.link.abort("cut")
            else:  # it asks again, and hears that nobody knows whether it ran
                stream.refuse("unknown", "")

        devices = self.gateway.devices
        devices["killed"] = prints(status="signal", signal="KILL")
        devices["slow"] = prints(status="timeout", message="timed out after 1 s")
        devices["away"] = refuses("offline", "last seen yesterday")
        devices["cut"] = cut
        for device, status, words in (
            ("killed", 137, b""),
            ("slow", 124, b"rshell: slow: timed out after 1 s\n"),
            ("away", 255, b"away: offline: last seen yesterday (see: rshell why away)\n"),
            ("cut", 255, b"the device cannot tell whether it ran before"),
            ("unknown", 255, b"there is no device unknown"),
        ):
            done = await self.rshell("run", device, "--", "x")
            self.assertEqual((done.status, done.out), (status, b""), device)
            self.assertIn(words, done.err)

    async def test_many(self) -> None:
        """Several: prefixed lines, absent ones said so, exit status 1 as not all succeeded."""
        self.gateway.answers["devices"] = [
            listed("d-1"),
            listed("d-2", "suspect"),
            listed("d-3", "lost"),
            listed("d-4", revoked=True),
        ]
        self.gateway.devices["d-1"] = prints(b"one\ntwo", b"err\n")
        self.gateway.devices["d-2"] = prints(b"three\n")
        done = await self.rshell("run", "d-*", "--", "x")
        self.assertEqual(sorted(done.out.splitlines()), [b"d-1: one", b"d-1: two", b"d-2: three"])
        self.assertIn(b"d-1: err\n", done.err)
        self.assertIn(b"rshell: d-3: offline: last seen 2026-01-01", done.err)
        self.assertNotIn(b"d-4", done.err)
        self.assertEqual(done.status, 1)

    async def test_glob_of_one(self) -> None:
        """A glob that matches one device behaves as its name does."""
        self.gateway.answers["devices"] = [listed("d-1")]
        self.gateway.devices["d-1"] = cats
        done = await self.rshell("run", "d-*", "cat", stdin=b"raw")
        self.assertEqual((done.out, done.status), (b"raw", 0))

    async def test_no_match(self) -> None:
        """A selector that matches nothing is an error of ours."""
        self.gateway.answers["devices"] = []
        done = await self.rshell("run", "d-*", "x")
        self.assertEqual((done.status, done.out), (255, b""))
        self.assertIn(b"rshell: no device matches d-*", done.err)

    async def test_json(self) -> None:
        """--json streams objects and ends each device with its outcome."""
        self.gateway.answers["devices"] = [listed("d-1"), listed("d-2", "lost")]
        self.gateway.devices["d-1"] = prints(b"\xff", b"e")
        done = await self.rshell("run", "--json", "d-*", "x")
        found = [json.loads(line) for line in done.out.splitlines()]
        self.assertIn({"device": "d-1", "stream": "stdout", "data_b64": "/w=="}, found)
        self.assertIn({"device": "d-1", "stream": "stderr", "data": "e"}, found)
        self.assertIn({"device": "d-1", "outcome": {"status": "ok"}}, found)
        offline = [line["outcome"] for line in found if line["device"] == "d-2"]
        self.assertEqual(offline[0]["status"], "offline")
        self.assertEqual((done.err, done.status), (b"", 1))

    async def test_interrupt(self) -> None:
        """One SIGINT cancels what runs, waits for its end, and the status is 130."""

        def behave(stream: FakeStream) -> None:
            waits(stream)
            stream.channel.write(b"ready\n")

        self.gateway.devices["pump"] = behave
        process = self.start("run", "pump", "x")
        await process.until(lambda: b"ready" in process.out)
        process.signal("INT")
        self.assertEqual(await process.ended, 130)
        self.assertEqual([kind for kind, _ in self.gateway.streams[0].events], ["cancel"])
        self.assertEqual(process.err, b"")

    async def test_interrupt_twice(self) -> None:
        """A second SIGINT leaves at once, though the device does not answer."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.write(b"ready\n")
            stream.on_event = lambda kind, body: process.signal("INT")

        self.gateway.devices["pump"] = behave
        process = self.start("run", "pump", "x")
        await process.until(lambda: b"ready" in process.out)
        process.signal("INT")
        self.assertEqual(await process.ended, 130)

    async def test_closed_stdout(self) -> None:
        """When our stdout's reader leaves, the command is cancelled and we go quietly with 141."""
        floods: list[Flood] = []
        self.gateway.devices["pump"] = lambda stream: floods.append(
            Flood(reactor, stream, b"yes\n")
        )
        process = self.start("run", "pump", "yes")
        await process.until(lambda: len(process.out) > 100_000)
        process.close_stdout()
        self.assertEqual((await process.ended, process.err), (141, b""))
        self.assertIn("cancel", [kind for kind, _ in self.gateway.streams[0].events])

    async def test_blocked_stdout(self) -> None:
        """While nobody reads our stdout the device stalls, and our pipe keeps its flags."""
        floods: list[Flood] = []
        self.gateway.devices["pump"] = lambda stream: floods.append(
            Flood(reactor, stream, b"yes\n")
        )
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        fcntl(write, F_SETPIPE_SZ, 4096)
        process = self.start("run", "-n", "pump", "yes", fds={0: "w", 1: write, 2: "r"})
        seen = -1
        while not floods or floods[0].written != seen:
            # Quiet for a while means stalled: a flood that is not held back never pauses.
            seen = floods[0].written if floods else -1
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.4, pause.callback, None)
            await pause
        self.assertLess(seen, 1_500_000)
        self.assertEqual(fcntl(write, F_GETFL) & os.O_NONBLOCK, 0)
        os.close(write)
        process.signal("INT")
        process.signal("INT")
        self.assertEqual(await process.ended, 130)


class ListingTests(CliCase):
    async def test_devices(self) -> None:
        """A listing is an aligned table in which nothing of a device acts on the terminal."""
        self.gateway.answers["devices"] = [
            listed("pump-1", labels={"site": "berlin"}, agent_version="\x1b[31m1\n2"),
            listed("p-2", "lost", policy_error="line 3\x07"),
        ]
        done = await self.rshell("devices")
        lines = done.out.decode().splitlines()
        self.assertEqual(len(lines), 3)
        self.assertTrue(lines[0].startswith("NAME    STATE"))
        self.assertIn("site=berlin", lines[1])
        self.assertIn("lost (bad policy)", lines[2])
        self.assertIn("bad policy: line 3\ufffd", done.err.decode())
        self.assertNotIn("\x1b", done.out.decode())

    async def test_audit(self) -> None:
        """WHAT tells handler, login, what was asked and which row it ends; --json has it all."""
        begun = {
            "seq": 12,
            "at": LIVE,
            "kind": "session",
            "handler": "exec",
            "login": "root",
            "attempt": 1,
            "device_id": "0f9a",
            "summary": "rm -rf \x1b[2J/tmp/x",
        }
        ended = {**begun, "seq": 13, "refers": 12, "status": "ok", "summary": None}
        self.gateway.answers["audit"] = [ended, begun, {"seq": 1, "at": LIVE, "kind": "start"}]
        done = await self.rshell("audit")
        lines = done.out.decode().splitlines()
        self.assertIn("exec as root -> #12  ", lines[1])
        self.assertIn("exec as root: rm -rf \ufffd[2J/tmp/x", lines[2])
        self.assertNotIn("->", lines[3])
        rows = json.loads((await self.rshell("audit", "--json")).out)
        for row, sent in zip(rows, (ended, begun), strict=False):
            self.assertEqual({key: row[key] for key in sent}, sent)
        self.assertEqual(
            [rows[2][key] for key in ("refers", "attempt", "device_id", "summary")], [None] * 4
        )

    async def test_audit_of_files(self) -> None:
        """What a device tells of files is said to be reported, and which part of it this is."""
        row = {"seq": 3, "at": LIVE, "kind": "session.files", "handler": "sftp", "code": "part-1"}
        self.gateway.answers["audit"] = [{**row, "seq": 4, "code": "part-2"}, row]
        lines = (await self.rshell("audit")).out.decode().splitlines()
        self.assertRegex(lines[1], r"  sftp  +reported, part 2  ")
        self.assertRegex(lines[2], r"  sftp  +reported  ")

    async def test_audit_on_a_terminal(self) -> None:
        """On a terminal each row is one line: what was asked is clipped to it."""
        self.gateway.answers["audit"] = [
            {"seq": 1, "at": LIVE, "kind": "session", "handler": "exec", "summary": "word " * 99}
        ]
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
        process = self.start("audit", fds={0: "w", 1: slave, 2: "r"})
        self.assertEqual(await process.ended, 0)
        os.close(slave)
        lines = os.read(master, 10_000).decode().splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("exec: word word", lines[1])
        self.assertIn("…", lines[1])

    async def test_hostile_schemas(self) -> None:
        """A device whose schema is nonsense breaks neither the listing nor a call."""
        self.gateway.devices["pump"] = prints(b"hi\n")
        for schema in (
            {"properties": 5},
            {"properties": {"a": 5}},
            {"$defs": [], "$ref": "#/$defs/A"},
        ):
            self.gateway.answers["handlers"] = [{"name": "evil", "schema": schema}]
            done = await self.rshell("handlers", "pump")
            self.assertEqual((done.status, done.err), (0, b""))
            self.assertIn(b"evil", done.out)
            done = await self.rshell("call", "pump", "evil", "a=1")
            self.assertEqual((done.status, done.out, done.err), (0, b"hi\n", b""))

    async def test_json_before_and_after(self) -> None:
        """--json and --home are taken before and after the verb."""
        self.gateway.answers["devices"] = [listed("pump")]
        home = str(self.home)
        for words in (
            ["--json", "devices"],
            ["devices", "--json"],
            ["--home", home, "devices", "--json"],
            ["devices", "--home", home, "--json"],
        ):
            done = await self.rshell(*words)
            (device,) = json.loads(done.out)
            self.assertEqual(device["name"], "pump")
            for key in ("state", "labels", "gateway", "epoch", "address", "connected_at"):
                self.assertIn(key, device)

    async def test_errors(self) -> None:
        """Errors are one line on stderr, or an object on stdout with --json."""
        done = await self.rshell("devices")
        self.assertEqual((done.status, done.out), (255, b""))
        self.assertEqual(done.err.count(b"\n"), 1)
        self.assertTrue(done.err.startswith(b"rshell: role viewer may not use gateway.devices ("))
        done = await self.rshell("devices", "--json")
        error = json.loads(done.out)["error"]
        self.assertEqual((error["code"], done.err, done.status), ("policy", b"", 255))

    async def test_whose_usage(self) -> None:
        """What is wrong with a verb's option points to the help of that verb."""
        for words, verb in (
            (["sessions", "--end"], "rshell sessions"),
            (["--json", "sessions", "--colour"], "rshell sessions"),
            (["roles", "set", "x", "--select"], "rshell roles set"),
            (["run", "pump", "--timeout"], "rshell run"),
            (["--home"], "rshell"),
        ):
            done = await self.rshell(*words)
            self.assertEqual(2, done.status, words)
            self.assertIn(f"see: {verb} --help", (done.out + done.err).decode(), words)

    async def test_wrong_usage(self) -> None:
        """Wrong usage and bad selectors are status 2."""
        for words in (
            ["devices", "a,,b"],
            ["fly"],
            ["run", "pump"],
            ["handlers", "pump", "--gateway"],
            ["devices", "--columns", "colour"],
            ["devices", "-o", "wide", "--columns", "name"],
            ["call", "pump", "x", "--timeout", "soon"],
            ["label", "d", "novalue"],
            ["invite", "device", "--ttl", "soon"],
            ["invite", "device", "--name", "Bad Name"],
            ["revoke", "thing", "x"],
            ["rename", "pump"],
            ["rename", "pump", "Bad Name"],
        ):
            done = await self.rshell(*words)
            self.assertEqual((done.status, done.out), (2, b""), words)
            self.assertTrue(done.err.startswith(b"rshell: "), done.err)

    async def test_gateway_down(self) -> None:
        """Without endpoints.json the error says how to start the gateway."""
        (self.home / "endpoints.json").unlink()
        done = await self.rshell("devices")
        self.assertEqual(done.status, 255)
        self.assertIn(
            b"the gateway on this machine is not running (start it with: twistd", done.err
        )

    async def test_admin_verbs(self) -> None:
        """invite prints only the join string; label and revoke say what they did."""
        answers = self.gateway.answers
        answers["invite"] = {"join": "rsh1.abc", "expires_at": LIVE}
        answers["label"] = lambda request: listed("pump", labels=request["set"])
        answers["revoke"] = {"revoked": "pump", "links_closed": 1}
        answers["whoami"] = {"name": "alice", "roles": ["admin"]}
        done = await self.rshell("invite", "device", "--label", "a=b", "--ttl", "2h", "--uses", "3")
        self.assertEqual((done.out, done.status), (b"rsh1.abc\n", 0))
        self.assertEqual(
            self.gateway.requests[0].request,
            {"kind": "device", "name": None, "labels": {"a": "b"}, "ttl_s": 7200, "uses": 3},
        )
        done = await self.rshell("invite", "operator", "bob", "--role", "admin", "--json")
        told = {"join": "rsh1.abc", "expires_at": LIVE}
        self.assertLessEqual(told.items(), json.loads(done.out).items())
        done = await self.rshell("label", "pump", "x=y", "old-")
        self.assertEqual(done.out, b"pump: x=y\n")
        self.assertEqual(self.gateway.requests[-1].request["remove"], ["old"])
        done = await self.rshell("revoke", "device", "pump")
        self.assertEqual(done.out, b"revoked device pump, 1 link closed\n")
        answers["rename"] = lambda request: listed(request["name"], name_provisional=False)
        done = await self.rshell("rename", "pump", "pump-2")
        self.assertEqual((done.out, done.status), (b"pump is now pump-2\n", 0))
        self.assertEqual(self.gateway.requests[-1].request, {"device": "pump", "name": "pump-2"})
        done = await self.rshell("rename", "pump", "pump", "--json")
        self.assertEqual(json.loads(done.out)["name_provisional"], False)
        done = await self.rshell("whoami")
        self.assertIn(b"alice     admin", done.out)

    async def test_join_refuses_nonsense(self) -> None:
        """Something that is no join string is refused before anything is dialled."""
        done = await self.rshell("--home", self.mktemp(), "join", "-", stdin=b"hello\n")
        self.assertEqual(done.status, 255)
        self.assertIn(b"this is not a join string", done.err)


class CallTests(CliCase):
    async def test_call(self) -> None:
        """Any handler is called with typed arguments, and its result is shown."""
        self.gateway.answers["handlers"] = [
            {"name": "exec", "summary": "s", "schema": msgspec.json.schema(ExecRequest)}
        ]
        self.gateway.devices["pump"] = prints(b"out\n", status="ok", result={"n": 1})
        done = await self.rshell("call", "pump", "exec", "argv=ls", "timeout_ms=50")
        self.assertEqual((done.out, done.status), (b'out\n{\n  "n": 1\n}\n', 0))
        self.assertEqual(self.gateway.requests[-1].request, {"argv": ["bHM="], "timeout_ms": 50})
        for words, reason in ((["nope"], b"has no handler"), (["exec", "timeout_ms=x"], b"whole")):
            done = await self.rshell("call", "pump", *words)
            self.assertEqual((done.status, done.out), (255, b""))
            self.assertIn(reason, done.err)


class ShellTests(TerminalCase):
    """The shell on a terminal."""

    def shell(self) -> RshellProcess:
        return self.on_terminal("shell", "pump")

    async def test_session(self) -> None:
        """Size and TERM are told, keys pass raw, a resize is told, the status is the shell's."""
        self.echoing()
        process = self.shell()
        await process.until(lambda: b"ready" in process.out)
        (opened,) = self.gateway.requests
        self.assertEqual(
            opened.request, {"terminal": {"rows": 40, "columns": 100, "term": "vt220"}}
        )
        self.assertNotEqual(termios.tcgetattr(self.slave), self.before)
        os.write(self.master, b"\x03x")
        await process.until(lambda: b"\x03x" in process.out)
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        process.signal("WINCH")
        await process.until(lambda: b"50x120" in process.out)
        self.gateway.streams[0].finish(status="exit", exit_code=4)
        self.assertEqual(await process.ended, 4)
        self.assert_restored()

    async def test_escape(self) -> None:
        """~. disconnects, and the terminal is as before."""
        self.echoing()
        process = self.shell()
        await process.until(lambda: b"ready" in process.out)
        os.write(self.master, b"a\r~?~.")
        self.assertEqual(await process.ended, 255)
        self.assertIn(b"Supported escapes", process.err)
        self.assertIn(b"disconnected from pump", process.err)
        self.assert_restored()

    async def test_signals(self) -> None:
        """SIGTERM and SIGHUP end it with the terminal as before."""
        for name, status in (("TERM", 143), ("HUP", 129)):
            self.echoing()
            process = self.shell()
            await process.until(lambda process=process: b"ready" in process.out)
            process.signal(name)
            self.assertEqual(await process.ended, status)
            self.assert_restored()

    async def test_lost_link(self) -> None:
        """When the link breaks the shell goes on over the next one: nothing lost, or said."""
        shells: list[LastingStream] = []

        def behave(stream: FakeStream) -> None:
            if shells:
                shells[0].go_on(stream)
                return
            shells.append(shell := LastingStream(stream))
            shell.channel.write(b"ready\r\n")

        self.gateway.devices["pump"] = behave
        process = self.shell()
        await process.until(lambda: b"ready" in process.out)
        self.gateway.links[0].abort("cut")
        shells[0].channel.write(b"meanwhile\r\n")
        await process.until(lambda: b"meanwhile" in process.out)
        os.write(self.master, b"typed")
        await shells[0].until(b"typed")
        shells[0].finish(status="exit", exit_code=4)
        self.assertEqual(await process.ended, 4)
        self.assertEqual((process.out, process.err), (b"ready\r\nmeanwhile\r\n", b""))
        first, again = self.gateway.requests
        self.assertEqual((again.session, again.attempt), (first.session, 2))
        self.assert_restored()

    async def test_refused(self) -> None:
        """A shell that is refused never touches the terminal."""
        self.gateway.devices["pump"] = refuses("policy", "shell is not enabled")
        process = self.shell()
        self.assertEqual(await process.ended, 255)
        self.assertIn(b"rshell: pump: refused: shell is not enabled", process.err)
        self.assert_restored()

    async def test_without_a_terminal(self) -> None:
        """Input from a pipe: no terminal is asked for, and all of it is passed on, to its end."""
        self.gateway.devices["pump"] = cats
        done = await self.rshell("shell", "pump", stdin=b"~.\nexit\n")
        self.assertEqual((done.out, done.err, done.status), (b"~.\nexit\n", b"", 0))
        (opened,) = self.gateway.requests
        self.assertEqual(opened.request, {"terminal": None})

    async def test_outputs_without_a_terminal(self) -> None:
        """Without a terminal stdout and stderr stay apart, and the status is the shell's."""
        self.gateway.devices["pump"] = prints(b"out", b"err", status="exit", exit_code=3)
        done = await self.rshell("shell", "pump")
        self.assertEqual((done.out, done.err, done.status), (b"out", b"err", 3))

    async def test_full_disk(self) -> None:
        """A shell whose output cannot be written ends, the terminal as before, with a line."""
        self.echoing()
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        process = self.start("shell", "pump", fds={0: self.slave, 1: full, 2: "r"})
        self.assertEqual(await process.ended, 255)
        self.assertEqual(
            process.err, b"rshell: cannot write standard output: No space left on device\n"
        )
        self.assertEqual(self.gateway.streams[0].events[-1][0], "cancel")
        self.assert_restored()
