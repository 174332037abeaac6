"""Revoking ends links and sessions at once, and lets nobody slip in between."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rshell.gateway.callers import OpenRefused
from rshell.link.core.messages import SessionReport, Sessions
from rshell.store.errors import NotFound
from tests.gateway.fleet import FleetTestCase


class RevocationTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bob = self.fleet.add_operator("bob")
        self.revocation = self.fleet.gateway.revocation

    def test_device(self) -> None:
        """A revoked device's link and sessions end with revoked, at once, and it stays out."""
        operator, device = self.both()
        talk = operator.call("shell", device="pump-1")
        self.fleet.pump()
        far = device.accept()
        self.fleet.pump()
        self.assertEqual(self.fleet.run(self.revocation.revoke_device("pump-1")), ("pump-1", 1))
        self.fleet.pump()
        self.assertEqual(device.told, "revoked")
        self.assertEqual(talk.code, "revoked")
        self.assertEqual(far.code, "revoked")
        self.assertIsNotNone(device.lost)
        self.assertEqual(self.fleet.dial(self.pump, dial=2).told, "revoked")
        self.fleet.crash()
        self.assertEqual(self.fleet.dial(self.pump, dial=3).told, "revoked")

    def test_operator(self) -> None:
        """A revoked operator's links and sessions end with revoked, on the device too."""
        device = self.fleet.dial(self.pump)
        ends = [self.fleet.dial(self.bob), self.fleet.dial(self.bob)]
        bystander = self.fleet.dial(self.ann)
        talk = ends[0].call("shell", device="pump-1")
        self.fleet.pump()
        far = device.accept()
        self.fleet.pump()
        self.assertEqual(self.fleet.run(self.revocation.revoke_operator("bob")), ("bob", 2))
        self.fleet.pump()
        self.assertEqual([end.told for end in ends], ["revoked"] * 2)
        self.assertEqual((talk.code, far.code), ("revoked", "revoked"))
        self.assertIsNone(bystander.told)
        self.assertIsNone(device.told)
        self.assertEqual(self.fleet.dial(self.bob).told, "revoked")

    def test_detached_sessions(self) -> None:
        """Sessions that a revoked operator left behind on live devices are ended at once too."""
        device = self.fleet.dial(self.pump)
        end = self.fleet.dial(self.bob)
        end.call("shell", device="pump-1", session=b"D" * 16)
        self.fleet.pump()
        device.accept()
        self.fleet.pump()
        end.wire.cut()
        self.fleet.pump()
        self.fleet.run(self.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual([answer.end for answer in device.answers], [[b"D" * 16]])

    def test_others_detached_sessions_live(self) -> None:
        """Revoking one operator ends nobody else's sessions."""
        device = self.fleet.dial(self.pump)
        end = self.fleet.dial(self.ann)
        end.call("shell", device="pump-1")
        self.fleet.pump()
        self.fleet.run(self.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual(device.answers, [])

    def test_hello_judged_meanwhile(self) -> None:
        """A HELLO whose row was read before, and answered after, a revocation is not admitted."""
        self.fleet.threads.hold("read")
        device, operator = self.fleet.dial(self.pump), self.fleet.dial(self.bob)
        # The rows are as they were when they were read: only this process's memory can tell.
        self.revocation._revoked |= {("device", self.pump.owner), ("operator", "bob")}
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual((device.told, operator.told), ("revoked", "revoked"))
        self.assertEqual((device.welcome, operator.welcome), (None, None))

    def test_hello_waiting_for_the_store(self) -> None:
        """A device that is being judged when it is revoked is cut off, not forgotten."""
        self.fleet.threads.hold("read")
        device = self.fleet.dial(self.pump)
        self.assertEqual(self.fleet.run(self.revocation.revoke_device(self.pump.owner))[1], 1)
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(device.told, "revoked")

    def test_last_administrator(self) -> None:
        """The last administrator cannot be revoked."""
        for name in ("ann", "admin"):
            self.fleet.run(self.revocation.revoke_operator(name))
        failed = Deferred.fromCoroutine(self.revocation.revoke_operator("bob"))
        self.failureResultOf(failed, OpenRefused)
        self.assertIsNotNone(self.fleet.dial(self.bob).welcome)

    def test_two_administrators_revoke_each_other(self) -> None:
        """Of two last administrators revoking each other at the same moment one remains."""
        self.fleet.run(self.revocation.revoke_operator("admin"))
        self.fleet.threads.hold("read", "write")
        both = [
            Deferred.fromCoroutine(self.revocation.revoke_operator(name)) for name in ("ann", "bob")
        ]
        while self.fleet.threads.held:
            self.fleet.threads.release_one()
        self.fleet.threads.release()
        self.fleet.got(both[0])
        self.failureResultOf(both[1], OpenRefused)
        left = [o.name for o in self.fleet.got(self.fleet.store.operators()) if o.active]
        self.assertEqual(left, ["bob"])

    def test_nobody(self) -> None:
        """Revoking a name that nobody has says so."""
        for revoking in (
            self.revocation.revoke_device("nope"),
            self.revocation.revoke_operator("nope"),
        ):
            self.failureResultOf(Deferred.fromCoroutine(revoking), NotFound)

    def test_invited_again(self) -> None:
        """An operator who is revoked and invited again can come back with a new key only."""
        operator = self.fleet.dial(self.ann)
        self.fleet.run(self.revocation.revoke_operator("bob"))
        operator.call(
            "gateway.invite", request={"kind": "operator", "name": "bob", "roles": ["admin"]}
        )
        self.fleet.pump()
        self.assertEqual(self.fleet.dial(self.bob).told, "revoked")
        new = self.fleet.add_operator("bob")
        self.assertIsNotNone(self.fleet.dial(new).welcome)

    def test_anothers_session(self) -> None:
        """Asking for another's session id does not end that session when the asker is revoked."""
        device = self.fleet.dial(self.pump)
        ann, bob = self.fleet.dial(self.ann), self.fleet.dial(self.bob)
        ann.call("shell", device="pump-1", session=b"D" * 16)
        self.fleet.pump()
        device.accept()
        bob.call("shell", device="pump-1", session=b"D" * 16)
        self.fleet.pump()
        device.refuse("duplicate", "")
        self.fleet.pump()
        self.fleet.run(self.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual(device.answers, [])

    def test_known_only_from_a_list(self) -> None:
        """A session that only the device's list tells of, after a restart, is ended at once."""
        device = self.fleet.dial(self.pump)
        end = self.fleet.dial(self.bob)
        end.call("shell", device="pump-1", session=b"D" * 16)
        self.fleet.pump()
        device.accept()
        self.fleet.pump()
        self.fleet.crash()
        device = self.fleet.dial(self.pump, dial=2)
        listed = SessionReport(session=b"D" * 16, operator="bob", handler="shell")
        device.link.sessions(Sessions([listed]))
        self.fleet.pump()
        self.assertEqual([answer.end for answer in device.answers], [[]])
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual([answer.end for answer in device.answers], [[], [b"D" * 16]])
        self.assertEqual(len(self.fleet.gateway.sessions), 0)
