"""What devices tell of their links, and the one time line an operator gets."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.flights import EARLIEST, Flights, placed
from rshell.gateway.why_services import duration
from rshell.handlers.flight import FlightReport
from rshell.store.flight import MAX_ROWS
from tests.gateway.ends import End
from tests.gateway.test_verbs import VerbTestCase

NOW = 1_800_000_000_000_000


def report(*records: dict[str, Any], **more: Any) -> FlightReport:
    body = {"boot_id": "b1", "mono_ms": 100_000, "records": list(records), **more}
    return msgspec.convert(body, FlightReport)


def record(seq: int, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "kind": "lost", **more}


class PlacingTests(SynchronousTestCase):
    """How a device's times become the gateway's."""

    def test_same_boot(self) -> None:
        """Of the same boot: as long before the receipt as the device's monotonic clock says."""
        (row,) = placed(report(record(1, boot_id="b1", mono_ms=40_000, wall_ms=0)), NOW)
        self.assertEqual((NOW - 60_000_000, "monotonic"), (row.at, row.placed))

    def test_wall(self) -> None:
        """Of another boot: by the wall clock if it was trusted and is no nonsense."""
        wall = NOW // 1000 - 5_000
        (row,) = placed(report(record(1, boot_id="b0", wall_ms=wall, clock_trusted=True)), NOW)
        self.assertEqual((NOW - 5_000_000, "wall"), (row.at, row.placed))
        for bad in (
            {"wall_ms": wall},
            {"wall_ms": NOW // 1000 + 301_000, "clock_trusted": True},
            {"wall_ms": -(2**53), "clock_trusted": True},
            {"wall_ms": 0, "clock_trusted": True},
        ):
            (row,) = placed(report(record(1, boot_id="b0", **bad)), NOW)
            self.assertEqual("order", row.placed, bad)

    def test_order(self) -> None:
        """What has no time stands just before what follows it."""
        rows = placed(
            report(
                record(1, boot_id="b0"),
                record(2, boot_id="b0"),
                record(3, boot_id="b1", mono_ms=70_000),
                record(4, boot_id="b0"),
            ),
            NOW,
        )
        self.assertEqual([1, 2, 3, 4], [row.seq for row in rows])
        self.assertEqual([NOW - 30_000_000] * 3 + [NOW], [row.at for row in rows])

    def test_hostile_numbers(self) -> None:
        """No number moves a record into the future or before all history."""
        for bad in (
            {"boot_id": "b1", "mono_ms": 2**53},
            {"boot_id": "b1", "mono_ms": 0},
            {"wall_ms": 2**53, "clock_trusted": True},
        ):
            for mono in (0, 100_000, 2**53):
                (row,) = placed(report(record(1, **bad), mono_ms=mono), NOW)
                self.assertLessEqual(row.at, NOW)
                self.assertGreaterEqual(row.at, EARLIEST)

    def test_texts(self) -> None:
        """What a terminal would act on is made harmless, nested values become short text."""
        (row,) = placed(
            report(
                record(
                    1,
                    message="\x1b[2J",
                    target="gw\u202e",
                    boot_id="\x07",
                    details={"a\n": "\x1b", "b": [1, {"c": 2}], "n": 7, "f": 1.5, "big": 2**63},
                )
            ),
            NOW,
        )
        told = repr([row.message, row.target, row.boot_id, row.details])
        for bad in ("\\x1b", "\\u202e", "\\x07", "\\n"):
            self.assertNotIn(bad, told)
        self.assertEqual((7, 1.5), (row.details["n"], row.details["f"]))
        self.assertEqual("[1, {'c': 2}]", row.details["b"])

    def test_count(self) -> None:
        """Of what repeated, the time from first to last is the duration."""
        (row,) = placed(report(record(1, mono_ms=1_000, count=9, last_mono_ms=31_000)), NOW)
        self.assertEqual((9, 30.0), (row.details["count"], row.seconds))


class RefusalTests(SynchronousTestCase):
    def test_counted_and_bounded(self) -> None:
        """The same refusal is counted; devices and refusals are bounded, the newest stay."""
        now = [1]
        flights = Flights(lambda: 0.0, lambda: now[0])
        for at in (1, 5, 9):
            now[0] = at
            flights.refused("d", "a:1", "auth", "no")
        (refusal,) = flights.refusals("d")
        self.assertEqual((3, 1, 9), (refusal.count, refusal.at, refusal.until))
        for number in range(100):
            flights.refused("d", "a:1", "auth", f"no {number}")
        self.assertEqual("no 99", flights.refusals("d")[-1].message)
        self.assertEqual(20, len(flights.refusals("d")))
        for number in range(3000):
            flights.refused(f"d{number}", "a:1", "auth", "no")
        self.assertEqual([], flights.refusals("d"))
        self.assertEqual(1, len(flights.refusals("d2999")))


class DurationTests(SynchronousTestCase):
    def test_words(self) -> None:
        """A duration is said in its two largest units."""
        for seconds, text in (
            (0, "0.0 s"),
            (0.44, "0.4 s"),
            (12.4, "12 s"),
            (60, "1 min"),
            (185, "3 min 5 s"),
            (10_920, "3 h 2 min"),
            (86_401, "1 d"),
            (200_000, "2 d 7 h"),
        ):
            self.assertEqual(text, duration(seconds))


class FlightTests(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: End = self.fleet.dial(self.pump)
        self.operator: End = self.fleet.dial(self.ann)

    def tell(self, *records: dict[str, Any], **more: Any) -> Any:
        body = {"boot_id": "b1", "mono_ms": 100_000, "records": list(records), **more}
        return self.ask(self.device, "gateway.flight", **body)

    def why(self, **more: Any) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.ask(
            self.operator, "gateway.why", device="pump-1", **more
        ).answer()
        return answer

    def test_time_line(self) -> None:
        """Device and gateway are one line, oldest first, with durations and the state now."""
        self.fleet.advance(120)
        self.device.link.abort("cut")
        self.fleet.pump()
        self.fleet.advance(30)
        self.device = self.fleet.dial(self.pump, dial=2)
        dns = record(
            7, boot_id="b1", mono_ms=80_000, kind="dns", target="gw:7411", message="not found",
            count=4, last_mono_ms=95_000,
        )  # fmt: skip
        self.assertEqual({"through": 7}, self.tell(dns).answer())
        rows = self.why()
        self.assertEqual(
            [
                ("gateway", "live"),
                ("gateway", "lost"),
                ("agent", "dns"),
                ("gateway", "live"),
                ("gateway", "now"),
            ],
            [(row["source"], row["kind"]) for row in rows],
        )
        self.assertEqual([row["at"] for row in rows], sorted(row["at"] for row in rows))
        first, lost, dns, back, now = rows
        self.assertIsNone(first["seconds"])
        self.assertIn("the link lived 2 min", lost["message"])
        self.assertAlmostEqual(120, lost["seconds"], delta=1)
        self.assertEqual("gw:7411: not found (4 times within 15 s)", dns["message"])
        self.assertEqual("monotonic", dns["details"]["clock"])
        self.assertIn("after 30 s away", back["message"])
        self.assertEqual("live", now["details"]["state"])
        self.assertEqual(rows[-2:], self.why(limit=2)[-2:])
        self.assertEqual(2, len(self.why(limit=2)))

    def test_away(self) -> None:
        """Of a device that is away the line ends with since when."""
        self.device.link.abort("cut")
        self.fleet.pump()
        self.fleet.advance(90)
        self.assertIn("lost: away for 1 min", self.why()[-1]["message"])

    def test_away_after_a_crash(self) -> None:
        """A link whose end a killed gateway never wrote hides no later absence."""
        self.fleet.crash()
        self.operator = self.fleet.dial(self.ann)
        for dial in (2, 3):
            self.device = self.fleet.dial(self.pump, dial=dial)
            self.fleet.advance(20)
            self.device.link.abort("cut")
            self.fleet.pump()
            self.fleet.advance(40)
        self.device = self.fleet.dial(self.pump, dial=4)
        lives = [row["message"] for row in self.why() if row["kind"] == "live"]
        self.assertEqual(len(lives), 4)
        for text in lives[2:]:
            self.assertIn("after 40 s away", text)

    def test_set_clock(self) -> None:
        """How long a link lives is not told by the wall clock."""
        self.fleet.advance(90)
        self.fleet._began += 3600
        self.assertIn("connected for 1 min 30 s", self.why()[-1]["message"])

    def test_refused(self) -> None:
        """A refusal of ours is part of it, counted."""
        self.fleet.enrol("valve-1")
        for dial in (2, 3):
            self.fleet.dial(self.pump.changed(spki=b"x" * 32), dial=dial)
        (refused,) = [row for row in self.why() if row["kind"] == "refused"]
        self.assertEqual(("auth", 2), (refused["details"]["code"], refused["details"]["count"]))

    def test_told_again(self) -> None:
        """A report whose answer was lost is told again, and kept once."""
        for _ in range(2):
            self.assertEqual(
                {"through": 3}, self.tell(record(3, message="x"), record(1), record(3)).answer()
            )
        self.assertEqual(2, len([row for row in self.why() if row["source"] == "agent"]))

    def test_bounded(self) -> None:
        """Of each device the newest records are kept, whatever its numbers are."""
        for first in (1_000, 2_000, 3_000, 4_000, 5_000, 6_000):
            records = [record(first + n, boot_id="b1", mono_ms=first + n) for n in range(100)]
            self.assertEqual({"through": first + 99}, self.tell(*records).answer())
            self.fleet.advance(1)
        self.tell(record(1, message="a new disk counts from one"))
        rows = self.fleet.got(self.fleet.store.flight_rows(self.pump.owner, 10_000))
        self.assertEqual(MAX_ROWS, len(rows))
        self.assertIn(1, [row.seq for row in rows])
        self.assertNotIn(1_000, [row.seq for row in rows])

    def test_throttled(self) -> None:
        """A device that tells too often is refused, and no row of another suffers."""
        codes = [self.tell(record(n)).code for n in range(1, 40)]
        self.assertEqual("overload", codes[-1])
        other = self.fleet.dial(self.fleet.enrol("pump-2"))
        talk = self.ask(other, "gateway.flight", records=[record(1)])
        self.assertEqual({"through": 1}, talk.answer())

    def test_hostile_reports(self) -> None:
        """What is no report is refused as a whole."""
        good = record(1)
        for bad in (
            [],
            [good] * 101,
            [{}],
            [{"seq": 1}],
            [record(0)],
            [record(2**53 + 1)],
            [record(1.5)],  # type: ignore[arg-type]  # hostile
            [record(1, kind="X")],
            [record(1, kind="lost\n")],
            [record(1, kind="x" * 33)],
            [record(1, message="x" * 513)],
            [record(1, seconds=-1)],
            [record(1, seconds=1e10)],
            [record(1, details={str(n): n for n in range(13)})],
            [record(1, details={"x" * 33: 1})],
            [record(1, extra=1)],
            [record(1, boot_id="x" * 65)],
            [record(1, mono_ms=-1)],
            [record(1, count=0)],
            "x",
        ):
            code, _ = self.refused(
                self.device, "gateway.flight", boot_id="b1", mono_ms=1, records=bad
            )
            self.assertEqual("bad-request", code, bad)
        self.assertEqual([], self.fleet.got(self.fleet.store.flight_rows(self.pump.owner, 10)))

    def test_older_link(self) -> None:
        """Only the device's current link may tell."""
        renewing = self.fleet.dial(self.pump.changed(expired=True), instance=b"J" * 16)
        code, _ = self.refused(renewing, "gateway.flight", records=[record(1)])
        self.assertEqual("offline", code)

    def test_unknown_device(self) -> None:
        """A device that is not there, or is revoked, has no line."""
        self.assertEqual("not-found", self.refused(self.operator, "gateway.why", device="x")[0])
        self.ask(self.operator, "gateway.revoke", kind="device", name="pump-1")
        self.assertEqual(
            "not-found", self.refused(self.operator, "gateway.why", device="pump-1")[0]
        )

    def test_limits(self) -> None:
        """The limit is bounded."""
        for bad in (0, 1_001, "5", None):
            code, _ = self.refused(self.operator, "gateway.why", device="pump-1", limit=bad)
            self.assertEqual("bad-request", code)


class ClockStepTests(VerbTestCase):
    """A wall clock that is set at the gateway: nothing of the links depends on it."""

    def test_steps(self) -> None:
        """-1 h, +1 h, 1970 to now: no link is dropped, heartbeats go on, devices come back."""
        operator, device = self.both()
        began = self.fleet._began
        for number, set_to in enumerate((began - 3600, began + 3600, 0.0, began), start=2):
            self.fleet._began = set_to
            self.fleet.advance(200)
            self.assertFalse(device.link.closed)
            self.assertFalse(operator.link.closed)
            self.assertEqual("live", self.fleet.listed(operator)["pump-1"]["state"])
            self.assertEqual(
                "now", self.ask(operator, "gateway.why", device="pump-1").answer()[-1]["kind"]
            )
            device = self.fleet.dial(self.pump, dial=number)
            self.assertIsNotNone(device.welcome)
