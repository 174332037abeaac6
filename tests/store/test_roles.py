"""Roles and who has them."""

from __future__ import annotations

import sqlite3
from typing import Any

from alembic import command
from alembic.config import Config

from rshell.store import database
from rshell.store.errors import InUse, LimitReached, NotFound
from rshell.store.records import AuditRecord, Grant
from rshell.store.roles import MAX_GRANTS
from rshell.store.times import MINUTE
from tests.store.fixture import StoreTestCase, spki

GRANT = Grant(select="site=berlin", handlers=("exec",), logins=("web",), forward=("localhost:80",))


class RoleTests(StoreTestCase):
    def test_made_and_changed(self) -> None:
        """A role is kept with its grants in order, replaced or added to, over restarts."""
        other = Grant(handlers=("tail",))
        made = self.got(self.store.put_role("ops", [GRANT], "ann"))
        self.assertEqual((made.grants, made.changed_by), ((GRANT,), "ann"))
        self.got(self.store.put_role("ops", [other, GRANT], "bob", add=True))
        self.got(self.store.put_role("boss", [Grant(admin=True)], "ann"))
        self.reopen()
        boss, ops = self.got(self.store.roles())
        self.assertEqual(boss.grants, (Grant(admin=True),))
        self.assertEqual((ops.grants, ops.changed_by), ((GRANT, other), "bob"))
        self.got(self.store.put_role("ops", [other], "ann"))
        self.assertEqual(self.got(self.store.roles())[1].grants, (other,))

    def test_limits(self) -> None:
        """A role has so many grants; what is too much changes nothing."""
        many = [Grant(handlers=(f"h{number}",)) for number in range(MAX_GRANTS)]
        self.got(self.store.put_role("ops", many, "ann"))
        self.failureResultOf(self.store.put_role("ops", [GRANT], "ann", add=True), LimitReached)
        self.assertEqual(len(self.got(self.store.roles())[0].grants), MAX_GRANTS)

    def test_operators(self) -> None:
        """An operator has a set of roles."""
        self.got(self.store.add_operator("bob", ("ops",), spki("bob")))
        bob = self.got(self.store.set_operator_roles("bob", ("tail", "ops"), ("nope",)))
        self.assertEqual(bob.roles, ("ops", "tail"))
        found = self.got(self.store.operator_by_spki(spki("bob")))
        assert found is not None
        self.assertEqual(found.operator, bob)
        bob = self.got(self.store.set_operator_roles("bob", (), ("ops", "tail")))
        self.assertEqual(bob.roles, ())
        self.failureResultOf(self.store.set_operator_roles("eve", ("ops",)), NotFound)
        self.got(self.store.revoke_operator("bob"))
        self.failureResultOf(self.store.set_operator_roles("bob", ("ops",)), NotFound)

    def test_removed(self) -> None:
        """A role in use stays; by force it is taken from everybody, invites included."""
        for name in ("ops", "tail"):
            self.got(self.store.put_role(name, [GRANT], "ann"))
        for name in ("bob", "eve"):
            self.got(self.store.add_operator(name, ("ops", "tail")))
        self.got(self.store.revoke_operator("eve"))
        error = self.failureResultOf(self.store.remove_role("ops"), InUse)
        self.assertEqual(error.getErrorMessage(), "role ops is in use: bob have it")
        token = self.invite(kind="operator", name="zoe", roles=("ops",))
        error = self.failureResultOf(self.store.remove_role("ops"), InUse)
        self.assertIn("an invite gives it", error.getErrorMessage())
        self.assertEqual(self.got(self.store.remove_role("ops", force=True)), ["bob"])
        # Also from who was revoked: an invite may bring them back.
        roles = [one.roles for one in self.got(self.store.operators())]
        self.assertEqual(roles, [("tail",), ("tail",)])
        self.assertEqual([role.name for role in self.got(self.store.roles())], ["tail"])
        (kept,) = self.got(self.store.tokens())
        self.assertEqual((kept.id, kept.revoked), (token.id, True))
        self.failureResultOf(self.store.remove_role("ops"), NotFound)

    def test_an_old_invite_is_no_use(self) -> None:
        """An invite that has expired does not keep a role."""
        self.got(self.store.put_role("ops", [GRANT], "ann"))
        self.invite(kind="operator", name="zoe", roles=("ops",))
        self.now += 61 * MINUTE
        self.assertEqual(self.got(self.store.remove_role("ops")), [])

    def test_seen(self) -> None:
        """Operators were last seen when the newest row of theirs was written."""
        for name in ("bob", "eve"):
            self.got(self.store.add_operator(name, ()))
        for _ in range(2):
            self.now += MINUTE
            self.got(self.store.append_audit(AuditRecord(kind="x", operator="bob")))
        self.assertEqual(self.got(self.store.operators_seen()), {"bob": self.now})


class MigrationTests(StoreTestCase):
    def test_one_role_becomes_a_list(self) -> None:
        """Operators and invites of an older store keep the role that they had."""
        path = self.path.with_name("old.sqlite")
        engine = database.open_writer(path)
        self._migrate(engine, "0003")
        engine.dispose()
        with sqlite3.connect(path) as old:
            old.execute("INSERT INTO operators VALUES ('ann', 'active', 'admin', 1)")
            for number, role in ((1, "'admin'"), (2, "NULL")):
                old.execute(
                    "INSERT INTO tokens (id, secret_hash, kind, uses_max, uses, expires_at, name,"
                    " role, labels, created_by, created_at, revoked) VALUES "
                    f"(x'{number:016x}', zeroblob(32), 'operator', 1, 0, 9, 'bob', {role}, '{{}}',"
                    f" 'ann', {number}, 0)"
                )
        old.close()
        self.path = path
        self.store = self.open()
        (ann,) = self.got(self.store.operators())
        self.assertEqual((ann.name, ann.roles), ("ann", ("admin",)))
        found = [token.roles for token in self.got(self.store.tokens())]
        self.assertEqual(found, [(), ("admin",)])
        self.assertEqual(self.got(self.store.roles()), [])

    @staticmethod
    def _migrate(engine: Any, revision: str) -> None:
        config = Config()
        config.set_main_option("script_location", str(database._MIGRATIONS))
        config.set_main_option("path_separator", "os")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
