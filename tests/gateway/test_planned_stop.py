"""SIGTERM: every peer is told when to come back, and no session has failed."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rshell.gateway.core import RESTART_SECONDS
from rshell.link.core.messages import Positions
from tests.gateway.fleet import FleetTestCase


class PlannedStopTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.operator, self.device = self.both()

    def stop(self) -> None:
        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.fleet.advance(4)
        self.fleet.got(stopped)

    def ends(self) -> list[tuple[str | None, str | None]]:
        rows = self.fleet.audit("session")
        return [(r.record.status, r.record.code) for r in rows if r.refers is not None]

    def test_everybody_is_told(self) -> None:
        """Devices and operators get GOAWAY shutdown with a time to wait, and are closed."""
        self.stop()
        for end in (self.operator, self.device):
            assert end.goaway is not None
            self.assertEqual(end.goaway.code, "shutdown")
            self.assertEqual(end.goaway.retry_min_ms, RESTART_SECONDS * 1000)
            self.assertIsNotNone(end.lost)

    def test_operators_do_not_wait_for_the_fleet(self) -> None:
        """The spread of devices is the fleet's, that of operators their own."""
        for n in range(40):
            self.fleet.dial(self.fleet.enrol(f"valve-{n}"))
        self.fleet.gateway.admission.rate = 20.0
        self.stop()
        assert self.operator.goaway is not None
        assert self.device.goaway is not None
        self.assertEqual(self.operator.goaway.retry_spread_ms, 50)
        self.assertGreaterEqual(self.device.goaway.retry_spread_ms, 41 * 50)

    def test_sessions_go_on(self) -> None:
        """Attempts are detached: the device keeps its session, the operator may resume."""
        talk = self.operator.call("shell", device="pump-1")
        self.fleet.pump()
        far = self.device.accept()
        self.fleet.pump()
        self.stop()
        self.assertEqual((talk.code, far.code), ("link-lost", "link-lost"))
        self.assertEqual(self.ends(), [("detached", "link-lost")])
        self.fleet.crash()  # the next process
        self.assertEqual(self.fleet.audit("session", status="interrupted"), [])

    def test_unanswered_and_parked(self) -> None:
        """So are attempts that the device has not answered, and those that wait for one."""
        away = self.fleet.enrol("pump-2")
        self.operator.call("shell", device="pump-1")
        self.operator.ask(
            device=away.name, session=b"P" * 16, attempt=2, resume=Positions(0, 4096, 0)
        )
        self.fleet.pump()
        self.stop()
        self.assertEqual(self.ends(), [("detached", "link-lost")] * 2)
        self.assertEqual(len(self.fleet.gateway.switchboard), 0)
        self.assertEqual(len(self.fleet.gateway.switchboard.parking), 0)

    def test_row_being_written(self) -> None:
        """An attempt whose row is being written when the gateway stops has not failed either."""
        self.fleet.threads.hold("write")
        self.operator.ask()
        self.fleet.pump()
        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.fleet.advance(4)
        self.fleet.threads.release()
        self.fleet.pump()
        self.fleet.got(stopped)
        self.assertEqual(self.ends(), [("detached", "link-lost")])

    def test_nobody_is_let_in(self) -> None:
        """An operator who is being judged when the gateway stops is told to come back later."""
        self.fleet.threads.hold("write")
        late = self.fleet.dial(self.ann, dial=2)
        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.fleet.threads.release()
        self.fleet.advance(4)
        self.fleet.got(stopped)
        self.assertEqual((late.told, late.welcome), ("shutdown", None))

    def test_device_that_is_being_judged(self) -> None:
        """A device whose handshake ends while the gateway stops is not made live any more."""
        pump = self.fleet.enrol("pump-2")
        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        late = self.fleet.dial(pump)
        self.fleet.advance(4)
        self.fleet.got(stopped)
        self.assertEqual((late.told, late.welcome), ("shutdown", None))
        assert late.goaway is not None
        self.assertEqual(late.goaway.retry_min_ms, RESTART_SECONDS * 1000)

    def test_nobody_there(self) -> None:
        """Without a single link it stops at once."""
        for end in (self.operator, self.device):
            end.wire.cut()
        self.fleet.pump()
        self.fleet.got(Deferred.fromCoroutine(self.fleet.gateway.stop()))
