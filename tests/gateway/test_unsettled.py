"""Ends of sessions that neither an operator nor the device has."""

from __future__ import annotations

from rshell.gateway.unsettled import LOOK_SECONDS, MAX_UNSETTLED, SETTLE_SECONDS
from rshell.link.core.messages import SessionReport, Sessions
from tests.gateway.gate import SESSION, GateTestCase

_HAS_IT = SessionReport(
    session=SESSION, operator="ann", handler="shell", login="", state="running", age_ms=5
)


class UnsettledTests(GateTestCase):
    def left(self) -> None:
        """Both links are cut while the OPEN is on its way, and nobody comes back for it."""
        self.operator.call("shell", device="pump-1")
        self.fleet.pump()
        self.operator.wire.cut()
        self.away()

    def list_(self, *sessions: SessionReport) -> None:
        """The device is back and lists what it has."""
        self.back()
        self.device.link.sessions(Sessions(sessions=list(sessions)))
        self.fleet.pump()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            self.fleet.advance(5)
            self.fleet.pump()

    def outcomes(self) -> list[tuple[str | None, str | None]]:
        rows = self.fleet.audit("session.outcome")
        return [(row.record.status, row.record.code) for row in rows]

    def test_never_arrived(self) -> None:
        """An OPEN that was lost with its link, and its operator too: unknown, after the grace."""
        self.left()
        self.list_()
        self.wait(SETTLE_SECONDS - 10)
        self.assertEqual(self.outcomes(), [])
        self.wait(LOOK_SECONDS + 15)
        self.assertEqual(self.outcomes(), [("lost", "unknown")])
        self.wait(3 * LOOK_SECONDS)
        self.assertEqual((len(self.outcomes()), len(self.board.unsettled)), (1, 0))

    def test_lives(self) -> None:
        """What the device has lives on, however long."""
        self.left()
        self.list_(_HAS_IT)
        self.wait(3 * SETTLE_SECONDS)
        self.assertEqual(self.outcomes(), [])

    def test_device_is_away(self) -> None:
        """Of a device that is away, or has not told what it has, nothing is concluded."""
        self.left()
        self.fleet.advance(2 * SETTLE_SECONDS)
        self.fleet.pump()
        self.back()
        self.wait(2 * LOOK_SECONDS)
        self.assertEqual(self.outcomes(), [])
        self.device.link.sessions(Sessions())
        self.wait(2 * LOOK_SECONDS)
        self.assertEqual(self.outcomes(), [("lost", "unknown")])

    def test_operator_comes_back(self) -> None:
        """An operator who came back is not told off behind their back."""
        self.left()
        self.list_()
        self.operator = self.fleet.dial(self.ann, dial=2)
        self.operator.call("shell", device="pump-1", attempt=2)
        self.fleet.pump()
        self.device.accept()
        self.wait(2 * SETTLE_SECONDS)
        self.assertEqual(self.outcomes(), [])

    def test_next_start(self) -> None:
        """What an earlier run of the gateway left is taken up by the next."""
        self.left()
        self.board.stop()
        self.board.unsettled._since.clear()
        self.fleet.run(self.board.start())
        self.assertEqual(len(self.board.unsettled), 1)
        self.list_()
        self.wait(SETTLE_SECONDS + LOOK_SECONDS + 15)
        self.assertEqual(self.outcomes(), [("lost", "unknown")])

    def test_bounded(self) -> None:
        """However many are left, only so many are remembered."""
        for number in range(MAX_UNSETTLED + 5):
            self.board.unsettled.add("id", number.to_bytes(16))
        self.assertEqual(len(self.board.unsettled), MAX_UNSETTLED)
