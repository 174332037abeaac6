"""The audit log over a link: filters, following, checking; ends that wait; rows to a syslog."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from rshell.gateway import audit_feed
from rshell.gateway.audit_feed import EVERY_SECONDS
from rshell.gateway.audit_shipping import parse_target
from rshell.link.core.messages import Outcome
from rshell.store.records import AuditRecord
from tests.functional.processes import REQUIRE_ALL
from tests.gateway.ends import OperatorEnd, Talk
from tests.gateway.fleet import Fleet, FleetTestCase


class AskingCase(FleetTestCase):
    def ask(self, end: OperatorEnd, verb: str, **request: Any) -> Talk:
        talk = end.call(f"gateway.{verb}", request=request)
        self.fleet.pump()
        return talk

    def append(self, count: int = 1, kind: str = "t", **fields: Any) -> None:
        for _ in range(count):
            self.fleet.got(self.fleet.store.append_audit(AuditRecord(kind=kind, **fields)))

    @property
    def last(self) -> int:
        return self.fleet.got(self.fleet.store.audit_head())[0]


class FollowTests(AskingCase):
    def setUp(self) -> None:
        super().setUp()
        self.end = self.fleet.dial(self.ann)

    def rows(self, **request: Any) -> Talk:
        return self.ask(self.end, "audit-rows", **request)

    def test_from_the_beginning(self) -> None:
        """Pages go on where the last one ended, to the end of the log."""
        self.append(7, "x")
        seen, after = [], 0
        while True:
            answer = self.rows(after=after, limit=3, kind="x").answer()
            if not answer["rows"]:
                break
            seen += [row["seq"] for row in answer["rows"]]
            after = answer["through"]
        self.assertEqual(seen, list(range(self.last - 6, self.last + 1)))

    def test_waits_for_a_row(self) -> None:
        """Without a new row the answer waits, and rows of another kind do not end the waiting."""
        talk = self.rows(wait_ms=20_000, kind="x")
        self.append(kind="y")
        self.fleet.pump()
        self.assertIsNone(talk.outcome)
        self.append(kind="x")
        self.fleet.pump()
        answer = talk.answer()
        self.assertEqual([row["kind"] for row in answer["rows"]], ["x"])
        self.assertEqual(answer["through"], self.last)

    def test_nothing_comes(self) -> None:
        """After the time it was given the answer is empty, and goes on from there."""
        talk = self.rows(wait_ms=5_000, kind="x")
        self.append(kind="y")
        self.fleet.advance(4)
        self.assertIsNone(talk.outcome)
        self.fleet.advance(2)
        self.assertEqual(talk.answer(), {"rows": [], "through": self.last})

    def test_whole(self) -> None:
        """Whole rows have what their hash covers."""
        self.append(kind="x", details={"a": 1})
        (row,) = self.rows(after=0, kind="x", whole=True).answer()["rows"]
        self.assertEqual((row["details"], row["opens"]), ({"a": 1}, False))
        self.assertEqual((len(row["hash"]), len(row["previous_hash"])), (64, 64))

    def test_bad_requests(self) -> None:
        """What makes no sense is refused."""
        for request in (
            {"after": -1},
            {"limit": 0},
            {"wait_ms": 10**6},
            {"session": "xyz"},
            {"since_ms": -5},
            {"kind": "x" * 100},
            {"nonsense": 1},
        ):
            self.assertEqual(self.rows(**request).code, "bad-request", request)

    def test_filters_of_the_listing(self) -> None:
        """The listing takes the same filters; times are milliseconds."""
        self.append(kind="x", status="refused", operator="bob", handler="exec")
        now = int(self.fleet.wall() * 1000)
        rows = self.ask(
            self.end, "audit", status="refused", handler="exec", since_ms=now - 5, operator="bob"
        ).answer()
        self.assertEqual([row["kind"] for row in rows], ["x"])
        later = self.ask(self.end, "audit", since_ms=now + 60_000).answer()
        self.assertEqual(later, [])


class CheckpointTests(AskingCase):
    def checkpoints(self) -> int:
        return len(self.fleet.audit("checkpoint"))

    def test_after_many_rows(self) -> None:
        """So many rows are signed together, at once."""
        self.patch(audit_feed, "EVERY_ROWS", 20)
        self.append(21)
        self.assertEqual(self.checkpoints(), 1)

    def test_after_an_hour(self) -> None:
        """A quiet day's rows are signed after an hour; without rows nothing is."""
        self.append(3)
        self.fleet.advance(EVERY_SECONDS + 60, step=20)
        self.assertEqual(self.checkpoints(), 1)
        self.fleet.advance(2 * EVERY_SECONDS, step=20)
        self.assertEqual(self.checkpoints(), 1)

    def test_when_it_stops(self) -> None:
        """A gateway that stops signs what there is; the next one can check it."""
        self.append(3)
        self.fleet.run(self.fleet.gateway.stop())
        self.assertEqual(self.checkpoints(), 1)
        self.fleet.crash()
        end = self.fleet.dial(self.ann)
        verdict = self.ask(end, "audit-verify").answer()
        self.assertTrue(verdict["sound"], verdict)
        self.assertEqual(verdict["checkpoints"], 1)
        self.assertEqual(verdict["head"].partition(":")[0], str(verdict["rows"]))

    def test_keys(self) -> None:
        """A public key that is none is refused; another gateway's key finds the checkpoint."""
        self.append(3)
        self.fleet.run(self.fleet.gateway.audit_feed.sign())
        end = self.fleet.dial(self.ann)
        self.assertEqual(self.ask(end, "audit-verify", keys=["x"]).code, "bad-request")
        self.assertEqual(self.ask(end, "audit-verify", against="7").code, "bad-request")
        own = self.ask(end, "audit-key").answer()["key"]
        self.assertTrue(self.ask(end, "audit-verify", keys=[own]).answer()["sound"])
        # the fleets of a test run share a template's key: make another one
        from rshell.access.audit_key import load_or_make

        other = load_or_make(Path(self.mktemp_dir())).public_pem()
        verdict = self.ask(end, "audit-verify", keys=[other]).answer()
        self.assertIn("not known here", verdict["reason"])

    def mktemp_dir(self) -> str:
        path = self.mktemp()
        os.mkdir(path)
        return path


class SpoolTests(FleetTestCase):
    """A store on a file system that is full: a real one, since SQLite has its own ideas of full."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can mount")
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(self.root)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            if REQUIRE_ALL:
                raise AssertionError(done.stderr)
            raise SkipTest(f"cannot mount: {done.stderr!r}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.root)], check=True)
        self.fleet = Fleet(self, self.root / "home")
        self.ann = self.fleet.add_operator("ann")
        self.pump = self.fleet.enrol("pump-1")
        self.operator, self.device = self.both()
        self.filler = self.root / "filler"

    def fill(self) -> None:
        with self.filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def begin(self, session: bytes) -> Talk:
        self.operator.call("exec", device="pump-1", session=session)
        self.fleet.pump()
        here = self.device.accept()
        self.fleet.pump()
        return here

    def wear_out(self) -> None:
        """Use up what room the store has taken already."""
        for _ in range(3_000):
            failed = self.fleet.store.append_audit(AuditRecord(kind="t", details={"x": "y" * 4000}))
            result: list[Any] = []
            failed.addBoth(result.append)
            if not isinstance(result[0], int):
                return
        raise AssertionError("the store never was full")

    def test_full(self) -> None:
        """On a full disk nothing new runs; what ends is written once there is room."""
        here, other = self.begin(b"A" * 16), self.begin(b"B" * 16)
        self.fill()
        self.wear_out()
        refused = self.operator.call("exec", device="pump-1", session=b"C" * 16)
        self.fleet.pump()
        self.assertEqual(refused.code, "store-unavailable")
        self.assertEqual(len(self.device.requests), 2)
        here.channel.finish(Outcome(status="exit", exit_code=7))
        self.fleet.pump()
        self.assertEqual(len(self.fleet.gateway.audit_spool), 1)
        self.assertEqual(self.fleet.audit("session", status="exit"), [])
        self.filler.unlink()
        self.fleet.advance(6)
        (row,) = self.fleet.audit("session", status="exit")
        self.assertEqual((row.record.exit_code, row.record.session), (7, (b"A" * 16).hex()))
        other.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(len(self.fleet.audit("session", status="ok")), 1)
        self.assertTrue(self.fleet.got(self.fleet.store.verify_audit()).sound)

    def test_killed_while_full(self) -> None:
        """A gateway that is killed meanwhile finds the ends again, before it calls them lost."""
        here = self.begin(b"A" * 16)
        self.begin(b"B" * 16)
        self.fill()
        self.wear_out()
        here.channel.finish(Outcome(status="exit", exit_code=7))
        self.fleet.pump()
        self.filler.unlink()
        self.fleet.crash()
        (row,) = self.fleet.audit("session", status="exit")
        self.assertEqual(row.record.exit_code, 7)
        (lost,) = self.fleet.audit("session", status="interrupted")
        self.assertEqual(lost.record.session, (b"B" * 16).hex())
        self.fleet.crash()
        self.assertEqual(len(self.fleet.audit("session", status="exit")), 1)


class ShippingTests(FleetTestCase):
    def setUp(self) -> None:
        self.syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.syslog.bind(("127.0.0.1", 0))
        self.syslog.setblocking(False)
        self.addCleanup(self.syslog.close)
        where = f"udp:127.0.0.1:{self.syslog.getsockname()[1]}"
        self.fleet = Fleet(self, syslog=where)

    def append(self, kind: str) -> None:
        self.fleet.got(self.fleet.store.append_audit(AuditRecord(kind=kind)))

    def received(self) -> list[str]:
        lines = []
        while True:
            try:
                lines.append(self.syslog.recv(4096).decode().split()[5])
            except BlockingIOError:
                return lines

    def test_each_row(self) -> None:
        """Rows arrive as they are written, and after a restart from where it was."""
        self.append("one")
        self.append("two")
        self.assertEqual(self.received(), ["one", "two"])
        self.fleet.run(self.fleet.gateway.stop())
        self.assertEqual(self.received(), ["checkpoint"])
        self.append("between")
        self.fleet.crash()
        self.append("three")
        self.assertEqual(self.received(), ["between", "three"])

    def test_udp_port_that_closes(self) -> None:
        """Nothing is lost while nobody listens there, at a host that says so; order is kept."""
        self.append("zero")
        self.assertEqual(self.received(), ["zero"])
        address = self.syslog.getsockname()
        self.syslog.close()
        for kind in ("one", "two", "three"):
            self.append(kind)
            self.fleet.advance(3)
        self.syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.syslog.close)
        self.syslog.bind(address)
        self.syslog.setblocking(False)
        self.append("four")
        self.fleet.advance(3)
        self.append("five")
        self.fleet.advance(3)
        found = self.received()
        self.assertEqual(list(dict.fromkeys(found)), ["one", "two", "three", "four", "five"])
        self.assertLess(len(found), 8)

    def test_unix_socket_that_comes_later(self) -> None:
        """A syslog that is away gets everything when it is back."""
        path = Path(self.mktemp()).absolute()
        short = f"/proc/self/cwd/{os.path.relpath(path)}"
        self.fleet = Fleet(self, syslog=f"unix:{short}")
        self.append("one")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(os.path.relpath(path))
        listener.setblocking(False)
        self.syslog = listener
        self.fleet.advance(2)
        self.append("two")
        self.assertEqual(self.received(), ["one", "two"])

    def test_targets(self) -> None:
        """Where to send is checked at the start."""
        self.assertEqual(parse_target("unix:/dev/log"), (socket.AF_UNIX, "/dev/log"))
        self.assertEqual(parse_target("udp:[::1]:514"), (socket.AF_INET6, ("::1", 514)))
        for bad in ("", "unix:dev/log", "udp:host:514", "udp:1.2.3.4", "udp:1.2.3.4:0", "tcp:x"):
            self.assertRaises(ValueError, parse_target, bad)
