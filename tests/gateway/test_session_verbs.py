"""``gateway.sessions`` and ``gateway.end-session``."""

from __future__ import annotations

from typing import Any

from rshell.link.core.messages import Outcome, SessionReport, Sessions
from tests.gateway.ends import DeviceEnd, End, OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase

SESSION = b"S" * 16


class SessionVerbTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bob = self.fleet.add_operator("bob")
        self.operator: OperatorEnd
        self.device: DeviceEnd
        self.operator, self.device = self.both()

    def begin(self, end: OperatorEnd | None = None, /, **fields: Any) -> tuple[Talk, Talk]:
        """Open a session; return both ends."""
        talk = (end or self.operator).call("shell", **{"device": "pump-1", **fields})
        self.fleet.pump()
        far = self.device.accept()
        self.fleet.pump()
        return talk, far

    def ask(self, verb: str, end: End | None = None, /, **request: Any) -> Talk:
        talk = (end or self.operator).call(f"gateway.{verb}", request=request, session=b"V" * 16)
        self.fleet.pump()
        return talk

    def listed(self, end: End | None = None, /, **request: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.ask("sessions", end, **request).answer()
        return rows

    def back(self, *reports: SessionReport) -> None:
        """The device dials again and lists what it has."""
        self.device = self.fleet.dial(self.pump, dial=self.device.hello.dial + 1)
        self.device.link.sessions(Sessions(list(reports)))
        self.fleet.pump()

    def test_attached(self) -> None:
        """A session that somebody drives is listed with all there is to know."""
        self.begin(login="web")
        self.fleet.advance(3)
        (row,) = self.listed()
        started = row.pop("started_at")
        self.assertRegex(started, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
        self.assertEqual(
            row,
            {
                "session": SESSION.hex(),
                "device": "pump-1",
                "device_id": self.pump.owner,
                "device_state": "live",
                "operator": "ann",
                "handler": "shell",
                "login": "web",
                "state": "attached",
                "age_ms": 3000,
                "detached_ms": 0,
                "attempt": 1,
                "viewers": 0,
                "watchers": [],
                "outcome": None,
                "door": "link",
                "address": self.operator.wire.gateway.address.host
                + f":{self.operator.wire.gateway.address.port}",
                "terminal": True,
                "driver": "ann",
                "idle_ms": 3000,
                "bytes_in": 0,
                "bytes_out": 0,
                "recorded": None,
            },
        )

    def test_detached(self) -> None:
        """Without its operator it is detached; with its device away that is told too."""
        self.begin()
        self.operator.wire.cut()
        self.fleet.pump()
        self.operator = self.fleet.dial(self.ann)
        self.fleet.advance(5)
        (row,) = self.listed()
        self.assertEqual((row["state"], row["detached_ms"]), ("detached", 5000))
        self.device.wire.cut()
        self.fleet.pump()
        (row,) = self.listed()
        self.assertEqual((row["state"], row["device_state"]), ("detached", "lost"))

    def test_parked(self) -> None:
        """While an attempt is parked the session is so, and that attempt counts."""
        self.begin()
        self.device.wire.cut()
        self.fleet.pump()
        self.operator.ask("shell", attempt=4)
        self.fleet.pump()
        (row,) = self.listed()
        self.assertEqual((row["state"], row["attempt"]), ("parked", 4))

    def test_viewers(self) -> None:
        """Those who watch are counted, and do not drive."""
        self.begin()
        for _ in range(2):
            self.operator.ask("shell", view=True)
        self.fleet.pump()
        (row,) = self.listed()
        self.assertEqual((row["state"], row["viewers"]), ("attached", 2))

    def test_restart(self) -> None:
        """After a restart of the gateway the table is what the devices list."""
        self.begin()
        self.fleet.crash()
        self.operator = self.fleet.dial(self.ann)
        self.assertEqual(self.listed(), [])
        finished = SessionReport(
            session=SESSION,
            operator="ann",
            handler="shell",
            state="finished",
            attempt=2,
            outcome=Outcome(status="exit", exit_code=3),
        )
        self.back(finished)
        (row,) = self.listed()
        self.assertEqual((row["state"], row["attempt"]), ("finished", 2))
        self.assertEqual(row["outcome"], {"status": "exit", "exit_code": 3})

    def test_what_may_not_live_is_not_listed(self) -> None:
        """Sessions that a device makes up do not reach the table."""
        self.back(SessionReport(session=b"X" * 16, operator="ann", handler="shell"))
        self.assertEqual(self.listed(all=True), [])

    def test_finished(self) -> None:
        """A session whose outcome was taken is gone."""
        _, far = self.begin()
        far.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(self.listed(), [])

    def test_cancelled(self) -> None:
        """A session that its operator ended is gone."""
        talk, _ = self.begin()
        talk.channel.reset("cancelled", "")
        self.fleet.pump()
        self.assertEqual(self.listed(), [])

    def test_whose(self) -> None:
        """Own sessions; everybody's only with the word for it."""
        self.begin()
        bobs = self.fleet.dial(self.bob)
        self.begin(bobs, session=b"B" * 16)
        self.assertEqual([row["operator"] for row in self.listed(bobs)], ["bob"])
        self.assertEqual({row["operator"] for row in self.listed(bobs, all=True)}, {"ann", "bob"})

    def test_selector(self) -> None:
        """A selector picks devices; a bad one is refused."""
        self.begin()
        self.assertEqual(len(self.listed(selector="pump-*,state=live")), 1)
        self.assertEqual(self.listed(selector="valve-*"), [])
        self.assertEqual(self.ask("sessions", selector="a b").code, "bad-request")

    # -- ending --------------------------------------------------------------------------------

    def test_end(self) -> None:
        """Ending a session tells the device and whoever is attached, and is audited first."""
        talk, _ = self.begin()
        answer = self.ask("end-session", session=SESSION.hex()).answer()
        self.assertEqual(answer, {"ended": True})
        self.assertEqual([told.end for told in self.device.answers], [[SESSION]])
        self.assertEqual(talk.closed, ("cancelled", "ended by ann"))
        row, end = self.fleet.audit("gateway.end-session")
        self.assertEqual((end.refers, end.record.status), (row.seq, "ok"))
        self.assertEqual(
            row.record.details, {"request": {"session": SESSION.hex()}, "rule": "anyone"}
        )
        self.assertEqual(self.listed(), [])

    def test_end_detached(self) -> None:
        """A session that nobody is attached to, and that this process never saw, can be ended."""
        self.begin()
        self.fleet.crash()
        self.operator = self.fleet.dial(self.ann)
        self.back()
        self.device.answers.clear()
        self.ask("end-session", session=SESSION.hex()).answer()
        self.assertEqual([told.end for told in self.device.answers], [[SESSION]])

    def test_end_of_an_absent_devices(self) -> None:
        """With the device away nothing is promised."""
        self.begin()
        self.device.wire.cut()
        self.fleet.pump()
        self.assertEqual(self.ask("end-session", session=SESSION.hex()).code, "offline")

    def test_end_of_another_operators(self) -> None:
        """An administrator may end anybody's session."""
        talk, _ = self.begin()
        bobs = self.fleet.dial(self.bob)
        self.assertEqual(
            self.ask("end-session", bobs, session=SESSION.hex()).answer(), {"ended": True}
        )
        self.assertEqual(talk.closed, ("cancelled", "ended by bob"))

    def test_absurd_ages(self) -> None:
        """An age that no date can hold, of a device or an operator, breaks nobody's list."""
        self.begin()
        ages = {"age_ms": 2**63 - 1, "detached_ms": 5}
        self.back(SessionReport(session=SESSION, operator="ann", handler="shell", **ages))
        self.begin(session=b"B" * 16, attempt=2, age_ms=2**63 - 1)
        rows = self.listed()
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertLess(row["age_ms"], 367 * 86_400_000)

    def test_bad_ids(self) -> None:
        """What is no session id is a bad request, an unknown one is not found."""
        for bad in ("", "zz" * 16, "AB" * 16, SESSION.hex()[:8], SESSION.hex() + "\n", 7):
            self.assertEqual(self.ask("end-session", session=bad).code, "bad-request", bad)
        self.assertEqual(self.ask("end-session", session="0" * 32).code, "not-found")
