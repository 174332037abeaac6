"""A console's surroundings for tests: a screen that is read, a fleet in memory with a console."""

from __future__ import annotations

from typing import Any

from rshell.doors.console.door import Consoles
from rshell.doors.console.session import ConsoleSession
from rshell.doors.console.watchdog import Watchdog
from rshell.gateway.callers import Caller
from rshell.handlers import Outcome
from tests.gateway.fleet import FleetTestCase

__all__ = ["ConsoleTestCase", "Person", "QuietWatchdog"]


class QuietWatchdog(Watchdog):
    """Takes no signals."""

    def __init__(self) -> None:
        self.inside = 0

    def enter(self) -> None:
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1


class Person:
    """Sits at a console: what they saw, and how it ended."""

    def __init__(self) -> None:
        self.opened = False
        self.seen = b""
        self.errors = b""
        self.outcome: Outcome | None = None

    def session_opened(self) -> None:
        self.opened = True

    def output_received(self, data: bytes, stderr: bool) -> None:
        if stderr:
            self.errors += data
        else:
            self.seen += data

    def session_ended(self, outcome: Outcome) -> None:
        assert self.outcome is None, "told twice"
        self.outcome = outcome


class ConsoleTestCase(FleetTestCase):
    """A fleet whose gateway serves consoles."""

    def setUp(self) -> None:
        super().setUp()
        self.watchdog = QuietWatchdog()
        self.consoles = Consoles(
            self.fleet.gateway, self.fleet.clock, self.fleet.door.vouch, self.watchdog
        )
        self.fleet.door.consoles = self.consoles

    def caller(self, name: str = "ann") -> Caller:
        operator = next(
            one for one in self.fleet.got(self.fleet.store.operators()) if one.name == name
        )
        return Caller(operator=operator, door="ssh", address="192.0.2.9:22")

    def turn(self) -> None:
        """Let what is under way come to rest."""
        for _ in range(30):
            self.fleet.clock.advance(0)
            self.fleet.pump()

    def sit(self, name: str = "ann", **request: Any) -> tuple[ConsoleSession, Person]:
        """Open a console at a terminal, or with ``line=``, a program."""
        person = Person()
        fields = request or {"terminal": {"rows": 24, "columns": 80}}
        session = self.consoles.for_door(self.caller(name), "shell", fields, person)
        session.start()
        self.turn()
        return session, person

    def type(self, session: ConsoleSession, text: str | bytes) -> None:
        session.write(text.encode() if isinstance(text, str) else text)
        self.turn()
