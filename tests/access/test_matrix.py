"""The golden table of who may do what: every verb, handler, command and door has a row."""

from __future__ import annotations

import pkgutil

from twisted.trial.unittest import SynchronousTestCase

import rshell.doors
from rshell.cli.main import VERBS as COMMANDS
from rshell.gateway.role_services import BUILT_IN
from rshell.gateway.verbs import VERBS
from tests.access.matrix import COLUMNS, GOLDEN, MatrixTestCase


class CompleteTests(SynchronousTestCase):
    def test_verbs(self) -> None:
        """A verb that is added without a decision for every kind of asker fails here."""
        self.assertEqual(set(GOLDEN["link"]), set(VERBS))
        self.assertLessEqual({n for n in GOLDEN["ask"] if n.startswith("gateway.")}, set(VERBS))

    def test_handlers(self) -> None:
        """So does a handler that agents bring."""
        self.assertEqual({row.split()[0] for row in GOLDEN["handlers"]} - {"plugin"}, BUILT_IN)

    def test_commands(self) -> None:
        """So does a command, and what it asks for is in the table."""
        self.assertEqual(set(GOLDEN["cli"]), set(COMMANDS))
        known = {*VERBS, *BUILT_IN, "console", "handler", "local"}
        for command, asked in GOLDEN["cli"].items():
            self.assertLessEqual(set(asked), known, command)
        told = {name for asked in GOLDEN["cli"].values() for name in asked}
        for verb, entry in VERBS.items():
            if "operator" in entry.peers and verb != "gateway.renew":
                self.assertIn(verb, told, "no command asks for it")

    def test_doors(self) -> None:
        """So does a door."""
        doors = {module.name for module in pkgutil.iter_modules(rshell.doors.__path__)}
        self.assertLessEqual(doors, set(GOLDEN["doors"]))

    def test_rows_are_whole(self) -> None:
        """Every row says something for every column."""
        for section in ("link", "handlers", "sessions", "console"):
            for name, row in GOLDEN[section].items():
                self.assertEqual(len(row), len(COLUMNS), name)


class ColumnTests(MatrixTestCase):
    def _column(self, column: str) -> None:
        """Ask for everything in a column; the verbs last, for some change the fleet."""
        index = COLUMNS.index(column)
        end = self.fleet.dial(self.peer(column))
        for section, ask in (
            ("handlers", self.handler_result),
            ("sessions", self.session_result),
            ("console", self.console_result),
            ("link", self.verb_result),
        ):
            rows = GOLDEN[section]
            got = {name: ask(end, name, column) for name in sorted(rows)}
            self.assertEqual(got, {name: row[index] for name, row in rows.items()})

    def test_nobody(self) -> None:
        """Who is not registered gets no answer to anything."""
        self._column("nobody")

    def test_revoked(self) -> None:
        """Nor does who was revoked."""
        self._column("revoked")

    def test_device(self) -> None:
        """A device may renew and report on itself, and nothing else (rule G1)."""
        self._column("device")

    def test_none(self) -> None:
        """Nothing is granted by default."""
        self._column("none")

    def test_one_site(self) -> None:
        """A role for one handler on one site as one login grants that."""
        self._column("berlin")

    def test_another_site(self) -> None:
        """And devices elsewhere do not exist for it."""
        self._column("elsewhere")

    def test_watch(self) -> None:
        """A role for reading reads."""
        self._column("watch")

    def test_fleet(self) -> None:
        """A role for everything on every device administrates nothing."""
        self._column("fleet")

    def test_admin(self) -> None:
        """An administrator may everything that is asked by operators at all."""
        self._column("admin")
        for name, entry in VERBS.items():
            expected = "ok" if "operator" in entry.peers else "not-found"
            if name != "gateway.handlers":  # of a device that has told none
                self.assertEqual(GOLDEN["link"][name][COLUMNS.index("admin")], expected, name)

    def test_refusals_are_audited(self) -> None:
        """Every verb that was refused for the role has a row that says so."""
        end = self.fleet.dial(self.peer("berlin"))
        index = COLUMNS.index("berlin")
        for name, row in GOLDEN["link"].items():
            if row[index] != "policy" or VERBS[name].open_to_all:
                continue
            self.verb_result(end, name, "berlin")
            (refused,) = self.fleet.audit(name, operator="berlin-1")
            self.assertEqual((refused.record.status, refused.record.code), ("refused", "policy"))
