"""Operators, their keys and their invites."""

from __future__ import annotations

from rshell.store.errors import NameTaken, NotFound, StoreError
from rshell.store.records import Refusal, TokenRefused
from tests.store.fixture import HASH, StoreTestCase, spki


class Operators(StoreTestCase):
    def join(self, number: int, key: str, role: str = "admin", by: str = "admin") -> str:
        """Invite and enrol operator ann; return the role she then has."""
        token = self.invite(number, kind="operator", name="ann", roles=(role,), created_by=by)
        return self.got(self.store.enrol_operator(self.use(token, key))).roles[0]

    def test_local_administrator(self) -> None:
        """An operator can be made without an invite and is found by key."""
        made = self.got(self.store.add_operator("admin", ("admin",), spki("a"), 77))
        found = self.got(self.store.operator_by_spki(spki("a")))
        assert found is not None
        self.assertEqual((found.operator, found.key.not_after), (made, 77))
        self.assertIsNone(found.refusal(self.now))
        self.failureResultOf(self.store.add_operator("admin", ("admin",)), NameTaken)
        self.failureResultOf(self.store.add_operator("b", ("admin",), spki("a")), StoreError)
        self.assertIsNone(self.got(self.store.operator("b")))

    def test_joining(self) -> None:
        """An invite makes the operator; a second one adds a machine."""
        self.join(1, "laptop")
        self.join(2, "phone")
        self.assertEqual([o.name for o in self.got(self.store.operators())], ["ann"])
        keys = self.got(self.store.keys_of("operator", "ann"))
        self.assertEqual({key.spki for key in keys}, {spki("laptop"), spki("phone")})

    def test_joining_is_repeatable(self) -> None:
        """The same use enrols once."""
        token = self.invite(kind="operator", name="ann", roles=("admin",))
        first = self.got(self.store.enrol_operator(self.use(token, "a")))
        self.assertEqual(self.got(self.store.enrol_operator(self.use(token, "a"))), first)
        grant = self.use(token, "a")
        self.assertEqual(self.got(self.store.keep_certificate(grant, "PEM", 3)), "PEM")

    def test_an_invite_does_not_change_a_role(self) -> None:
        """An invite with another role than the operator has is refused."""
        self.join(1, "laptop", "reader")
        token = self.invite(2, kind="operator", name="ann", roles=("admin",))
        grant = self.use(token, "phone")
        self.failureResultOf(self.store.enrol_operator(grant), StoreError)
        self.assertIsNone(self.got(self.store.operator_by_spki(spki("phone"))))

    def test_revoking(self) -> None:
        """A revoked operator's keys are refused, and so are open invites for and by them."""
        self.join(1, "laptop")
        for_her = self.invite(2, kind="operator", name="ann", roles=("admin",))
        by_her = self.invite(3, created_by="ann")
        self.assertFalse(self.got(self.store.revoke_operator("ann")).active)
        found = self.got(self.store.operator_by_spki(spki("laptop")))
        assert found is not None
        self.assertEqual(found.refusal(self.now), "revoked")
        for token in (for_her, by_her):
            result = self.got(self.store.use_token(token.id, HASH, spki("new"), token.kind))
            self.assertEqual(result, TokenRefused(reason=Refusal.REVOKED))
        self.failureResultOf(self.store.revoke_operator("nobody"), NotFound)
        self.failureResultOf(self.store.add_key("ann", spki("late")), NotFound)

    def test_coming_back(self) -> None:
        """A new invite brings a revoked operator back with its role; old keys stay revoked."""
        self.join(1, "laptop")
        self.got(self.store.revoke_operator("ann"))
        self.assertEqual(self.join(2, "phone", "reader"), "reader")
        old = self.got(self.store.operator_by_spki(spki("laptop")))
        assert old is not None
        self.assertTrue(old.operator.active)
        self.assertEqual(old.refusal(self.now), "revoked")

    def test_keys(self) -> None:
        """Keys are added with a comment and revoked one by one."""
        self.got(self.store.add_operator("ann", ("admin",)))
        self.got(self.store.add_key("ann", spki("k"), comment="ann@laptop"))
        self.got(self.store.revoke_key(spki("k")))
        (key,) = self.got(self.store.keys_of("operator", "ann"))
        self.assertEqual((key.comment, key.refusal(self.now)), ("ann@laptop", "revoked"))
        self.failureResultOf(self.store.revoke_key(spki("none")), NotFound)
        self.failureResultOf(self.store.add_key("nobody", spki("n")), NotFound)
        self.failureResultOf(self.store.add_key("ann", spki("k")), StoreError)

    def test_devices_key_is_no_operators(self) -> None:
        """A device's key never opens an operator's door."""
        self.enrol("pump")
        self.assertIsNone(self.got(self.store.operator_by_spki(spki("key-1"))))
