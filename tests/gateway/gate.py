"""A session at the gate: both ends connected, links to cut, and later attempts."""

from __future__ import annotations

from typing import Any

from rshell.store.records import Grant
from tests.gateway.ends import Ask, DeviceEnd, OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase

__all__ = ["SESSION", "GateTestCase"]

SESSION = b"S" * 16


class GateTestCase(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.operator: OperatorEnd
        self.device: DeviceEnd
        self.operator, self.device = self.both()
        self.board = self.fleet.gateway.switchboard

    def begin(self, **fields: Any) -> tuple[Talk, Talk]:
        """Open the session; return both ends."""
        talk = self.operator.call("shell", device="pump-1", **fields)
        self.fleet.pump()
        far = self.device.accept()
        self.fleet.pump()
        return talk, far

    def ops(self) -> str:
        """Make a role that may do everything on every device, and administrates nothing."""
        return self.fleet.add_role("ops", Grant(handlers=("*",), logins=("*",), forward=("*",)))

    def ask(self, end: OperatorEnd | None = None, /, **fields: Any) -> Ask:
        asked = (end or self.operator).ask("shell", **fields)
        self.fleet.pump()
        return asked

    def away(self) -> None:
        """Cut the device's link."""
        self.device.wire.cut()
        self.fleet.pump()

    def back(self) -> DeviceEnd:
        """The device dials again."""
        self.device = self.fleet.dial(self.pump, dial=self.device.hello.dial + 1)
        self.fleet.pump()
        return self.device

    def told(self) -> list[tuple[str | None, str | None]]:
        """Return status and code of every row that ends an attempt."""
        rows = self.fleet.audit("session")
        return [(r.record.status, r.record.code) for r in rows if r.refers is not None]
