"""Unit tests of the flight recorder: what it keeps, across crashes, and how it tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.handlers.flight import FlightRecord, FlightReport
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import MAX_PAYLOAD
from rshell.link.core.messages import Open, Outcome
from rshell_agent.flight_recorder import KEPT, DeviceTimes, FlightRecorder, recorded
from rshell_agent.flight_report import EVERY_SECONDS, FlightSender
from rshell_agent.flight_ring import FlightRing
from tests.agent.pair import LinkPair
from tests.agent.test_link_watch import Nobody


class RecorderCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        self.directory = self.home / "state" / "flight"
        self.home.mkdir(mode=0o700)
        (self.home / "state").mkdir(mode=0o700)
        self.clock = Clock()
        self.wall = 1_800_000_000.0
        self.recorder = self.start()

    def start(self, boot_id: str = "boot-1") -> FlightRecorder:
        times = DeviceTimes(lambda: 100 + self.clock.seconds(), lambda: self.wall, lambda: True)
        return FlightRecorder(self.directory, self.clock, boot_id, times)

    def on_disk(self) -> list[FlightRecord]:
        return recorded(self.home, 1000)

    def lines(self) -> int:
        return (self.directory / "records.jsonl").read_bytes().count(b"\n")


class RecorderTests(RecorderCase):
    def test_record(self) -> None:
        """A record has its number, both clocks, what happened, and no control characters."""
        self.recorder.note("tls", "bad\x1b[2J\n", target="gw:1", seconds=1.23456, code="x\ty")
        (record,) = self.recorder.unsent()
        self.assertEqual(
            FlightRecord(
                seq=1,
                boot_id="boot-1",
                mono_ms=100_000,
                wall_ms=1_800_000_000_000,
                clock_trusted=True,
                kind="tls",
                target="gw:1",
                message="bad?[2J?",
                seconds=1.235,
                details={"code": "x?y"},
            ),
            record,
        )

    def test_repeats_are_counted(self) -> None:
        """The same failure again and again is one record with a count and its last time."""
        for _ in range(50):
            self.clock.advance(60)
            self.recorder.note("dns", "not found", target="gw:1")
            self.recorder.note("tcp", "refused", target="gw2:1")
        dns, tcp = self.recorder.unsent()
        self.assertEqual((50, 160_000, 3_100_000), (dns.count, dns.mono_ms, dns.last_mono_ms))
        self.assertEqual(50, tcp.count)

    def test_a_welcome_ends_counting(self) -> None:
        """What fails again after a WELCOME is another failure; links are never counted."""
        for kind in ("dns", "welcomed", "lost", "dns", "welcomed", "lost"):
            self.recorder.note(kind, "same")
        self.assertEqual(6, len(self.recorder.unsent()))

    def test_writes_are_batched(self) -> None:
        """At most one write in ten seconds, each changed record once; a lost link is at once."""
        for _ in range(20):
            self.recorder.note("dns", "not found")
        self.clock.advance(9.9)
        self.assertFalse(self.directory.exists())
        self.clock.advance(0.1)
        self.assertEqual(1, self.lines())
        self.recorder.note("tcp", "refused")
        self.recorder.note("lost", "cut")
        self.clock.advance(0)
        self.assertEqual(3, self.lines())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_repeats_are_forgotten(self) -> None:
        """What a stranger says differently each time is counted no longer than it is kept."""
        for number in range(KEPT + 50):
            self.recorder.note("refused", f"overload: {number}")
        self.assertEqual(KEPT, len(self.recorder._open))

    def test_private(self) -> None:
        """The records are the agent's alone."""
        self.recorder.close("told to end")
        self.assertEqual(0o700, self.directory.stat().st_mode & 0o777)
        self.assertEqual(0o600, (self.directory / "records.jsonl").stat().st_mode & 0o777)

    def test_restart(self) -> None:
        """Numbers go on after a restart, and how the last run ended is said."""
        told = []
        for boot, clean in (("b1", True), ("b1", False), ("b2", True), ("b2", True)):
            recorder = self.start(boot)
            recorder.started("0.1")
            self.clock.advance(0)
            told.append(recorder.unsent()[-1].message)
            if clean:
                recorder.close("told to end")
        self.assertEqual(
            [
                "the first start",
                "the last run was ended",
                "the device was rebooted or lost power while the agent ran",
                "the last run was ended",
            ],
            told,
        )
        self.start("b2").started("0.1")
        self.clock.advance(0)
        again = self.start("b2")
        again.started("0.1")
        self.assertIn("broke off", again.unsent()[-1].message)
        numbers = [record.seq for record in again.unsent()]
        self.assertEqual(list(range(1, len(numbers) + 1)), numbers)

    def test_acknowledged(self) -> None:
        """What was acknowledged is not told again, also after a restart; nonsense is ignored."""
        for number in range(3):
            self.recorder.note("lost", str(number))
        for through in (0, -1, 4, 10**9):
            self.recorder.acknowledged(through)
        self.assertEqual(3, len(self.recorder.unsent()))
        self.recorder.acknowledged(2)
        self.recorder.acknowledged(1)
        self.assertEqual([3], [record.seq for record in self.recorder.unsent()])
        self.recorder.close("x")
        self.assertEqual([3, 4], [record.seq for record in self.start().unsent()])

    def test_told_records_do_not_change(self) -> None:
        """A repetition after a report is a new record: the gateway has the old one."""
        self.recorder.note("dns", "not found")
        self.recorder.unsent()
        self.recorder.note("dns", "not found")
        self.assertEqual([1, 1], [record.count for record in self.recorder.unsent()])

    def test_bounded(self) -> None:
        """Memory and disk are bounded, and the newest are kept."""
        for number in range(5000):
            self.recorder.note("lost", f"number {number}")
            self.clock.advance(0)
        self.assertEqual(KEPT, len(self.recorder._records))
        size = sum(path.stat().st_size for path in self.directory.iterdir())
        self.assertLessEqual(size, 2 * 64 * 1024)
        self.assertEqual("number 4999", self.on_disk()[-1].message)

    def test_reports_fit(self) -> None:
        """However long the records are, a report fits into one OPEN."""
        for number in range(200):
            more: dict[str, Any] = {f"key-{n}": "\N{SNOWMAN}" * 300 for n in range(3)}
            self.recorder.note("lost", f"{number} " + "\N{SNOWMAN}" * 300, **more)
        records = self.recorder.unsent()
        report = FlightReport(boot_id="b", mono_ms=1, records=records)
        request = Open(
            handler="gateway.flight", session=bytes(16), request=msgspec.to_builtins(report)
        )
        self.assertLess(len(msgspec.json.encode(request)), MAX_PAYLOAD)
        self.assertGreater(len(records), 2)

    def test_full_disk(self) -> None:
        """A disk that cannot be written costs records, not the agent."""
        (self.home / "state").rmdir()
        (self.home / "state").write_text("no directory")
        recorder = self.start()
        recorder.note("lost", "x")
        self.clock.advance(0)
        recorder.close("x")
        self.assertEqual(2, len(recorder.unsent()))
        recorder.acknowledged(2)


class RingTests(RecorderCase):
    def test_torn_at_every_byte(self) -> None:
        """Wherever a power cut tears the last line, all before it is read, and writing goes on."""
        ring = FlightRing(self.directory)
        records = [FlightRecord(seq=n, kind="lost", message=f"m{n}") for n in (1, 2, 3)]
        ring.append(records, sync=True)
        path = self.directory / "records.jsonl"
        whole = path.read_bytes()
        second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        for cut in range(second, len(whole)):
            path.write_bytes(whole[:cut])
            expected = records[:2] if cut < len(whole) - 1 else records
            self.assertEqual(expected, FlightRing(self.directory).load())
            last = FlightRecord(seq=4, kind="start")
            FlightRing(self.directory).append([last], sync=False)
            self.assertEqual([*expected, last], FlightRing(self.directory).load(), cut)

    def test_garbage(self) -> None:
        """Lines that are no records, or of another version, are left out."""
        ring = FlightRing(self.directory)
        ring.append([FlightRecord(seq=1, kind="lost")], sync=False)
        with (self.directory / "records.jsonl").open("ab") as file:
            file.write(
                b'\x00\xff\n[]\n{"seq":0,"kind":"x"}\n{"seq":2,"kind":"X Y"}\n' + b"[" * 9999
            )
        self.assertEqual([1], [record.seq for record in ring.load()])

    def test_no_link_is_followed(self) -> None:
        """A symbolic link in the records' place is not written through."""
        self.directory.mkdir(mode=0o700)
        victim = self.home / "victim"
        victim.write_text("safe\n")
        os.symlink(victim, self.directory / "records.jsonl")
        ring = FlightRing(self.directory)
        self.assertRaises(OSError, ring.append, [FlightRecord(seq=1, kind="x")], sync=False)
        self.assertEqual("safe\n", victim.read_text())


class SenderTests(RecorderCase):
    """Reports over a link to a gateway that answers as the test wants."""

    def setUp(self) -> None:
        super().setUp()
        self.pair = LinkPair()
        self.clock = self.pair.clock
        self.told: list[dict[str, Any]] = []
        self.answer: Any = lambda report: report["records"][-1]["seq"]
        self.pair.gateway_owner.requested = self._requested
        self.sender = FlightSender(
            self.recorder, TimerWheel(self.clock), self.clock, lambda low, high: high
        )

    def _requested(self, link: Any, number: int, request: Open) -> None:
        self.told.append(request.request)
        through = self.answer(request.request)
        if through is None:
            link.refuse(number, "overload", "later")
            return
        channel = StreamChannel(link, Nobody())
        channel.accept(number, request)
        channel.write(msgspec.json.encode({"through": through}))
        channel.finish(Outcome(status="ok"))

    def pass_seconds(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.pair.pump()
            seconds -= 1.0

    def test_after_welcome(self) -> None:
        """Reports follow WELCOME within the spread and four seconds, until all is told."""
        for number in range(150):
            self.recorder.note("lost", f"number {number}")
        self.sender.link_welcomed(self.pair.device, 20.0)
        self.pass_seconds(23)
        self.assertEqual([], self.told)
        self.pass_seconds(20)
        self.assertEqual(
            list(range(1, 151)), [r["seq"] for report in self.told for r in report["records"]]
        )
        self.assertEqual([], self.recorder.unsent())
        for report in self.told:
            self.assertEqual("boot-1", report["boot_id"])

    def test_news(self) -> None:
        """What happens on a link that lives is told within ten minutes; nothing new is nothing."""
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(10)
        self.assertEqual([], self.told)
        self.recorder.note("clock", "the clock was set forward")
        self.pass_seconds(EVERY_SECONDS)
        self.assertEqual(1, len(self.told))

    def test_not_taken(self) -> None:
        """What a gateway refuses, or acknowledges wrongly, is told again later, not at once."""
        self.recorder.note("lost", "x")
        self.answer = lambda report: None
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(60)
        self.assertEqual(1, len(self.told))
        self.answer = lambda report: "many"
        self.pass_seconds(EVERY_SECONDS)
        self.assertEqual(2, len(self.told))
        self.assertEqual(1, len(self.recorder.unsent()))

    def test_link_lost(self) -> None:
        """With the link everything stops; the next link begins anew."""
        self.recorder.note("lost", "x")
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.sender.stop()
        self.pass_seconds(EVERY_SECONDS)
        self.assertEqual([], self.told)

    def test_stopped_while_asking(self) -> None:
        """A report that is given up leaves no timer, though its link goes on for a while."""
        self.recorder.note("lost", "x")
        self.pair.gateway_owner.requested = lambda link, number, request: self.told.append({})
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(10)
        self.sender.stop()
        self.pass_seconds(2 * EVERY_SECONDS)
        self.assertEqual([{}], self.told)
