"""Who is let in, and who is not (rules P4, E3, E4, H1, W5)."""

from __future__ import annotations

from typing import Any

from rshell.link.core.constants import MAX_OFFSET, FrameType
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import GoAway, SessionReport, Sessions, VersionRange, encode
from tests.gateway.fleet import DAY, FleetTestCase, hello


class DeviceAdmissionTests(FleetTestCase):
    def test_registered_key_is_welcomed(self) -> None:
        """A device whose key is registered to its id is WELCOMEd with an epoch and is live."""
        end = self.fleet.dial(self.pump)
        assert end.welcome is not None
        self.assertEqual(end.welcome.name, "pump-1")
        self.assertGreater(end.welcome.epoch, 1 << 32)
        self.assertFalse(end.welcome.renew_only)
        self.assertIsNotNone(self.fleet.gateway.presence.find("pump-1"))

    def _refused(self, peer: Any, code: str) -> None:
        end = self.fleet.dial(peer)
        self.assertEqual(end.told, code)
        self.assertIsNone(end.welcome)
        self.assertIsNotNone(end.lost)
        self.assertEqual(len(self.fleet.gateway.presence), 0)

    def test_unregistered_key(self) -> None:
        """A valid chain alone admits nobody: an unknown key is refused with auth (rule P4)."""
        self._refused(self.pump.changed(spki=b"?" * 32), "auth")

    def test_key_of_another_device(self) -> None:
        """A key that is registered to another id than the certificate names is refused."""
        other = self.fleet.enrol("pump-2")
        self._refused(self.pump.changed(name=other.certificate.name), "auth")

    def test_operators_key_in_a_devices_certificate(self) -> None:
        """An operator's registered key does not pass for a device's."""
        self._refused(self.pump.changed(spki=self.ann.certificate.spki), "auth")

    def test_revoked_device(self) -> None:
        """A device that was revoked is told so."""
        self.fleet.got(self.fleet.store.revoke_device("pump-1"))
        self._refused(self.pump, "revoked")

    def test_retired_key_within_a_day(self) -> None:
        """A renewed key's predecessor is accepted for 24 hours, for the answer may be lost."""
        spki = self.pump.certificate.spki
        self.fleet.got(self.fleet.store.renew_key(spki, b"n" * 32, 0))
        self.fleet.clock.advance(DAY - 1)
        end = self.fleet.dial(self.pump)
        self.assertIsNotNone(end.welcome)

    def test_retired_key_after_a_day(self) -> None:
        """After 24 hours the old key is refused and the new one admits."""
        spki = self.pump.certificate.spki
        self.fleet.got(self.fleet.store.renew_key(spki, b"n" * 32, 0))
        self.fleet.clock.advance(DAY + 1)
        self._refused(self.pump, "revoked")
        self.assertIsNotNone(self.fleet.dial(self.pump.changed(spki=b"n" * 32)).welcome)

    def test_hostile_numbers_in_hello(self) -> None:
        """The largest numbers a HELLO may hold break neither WELCOME nor the store."""
        end = self.fleet.dial(self.pump, link_generation=MAX_OFFSET, dial=MAX_OFFSET)
        assert end.welcome is not None
        self.assertEqual(end.welcome.link_generation, MAX_OFFSET)
        row = self.fleet.device("pump-1")
        self.assertEqual(row.dial, MAX_OFFSET)

    def test_facts_are_stripped(self) -> None:
        """Facts and software cannot carry terminal control sequences into a listing."""
        self.fleet.dial(self.pump, facts={"os\x1b[2J": "a\x07b"}, software="x\x1b]0;y\x07")
        row = self.fleet.listed(self.fleet.dial(self.ann))["pump-1"]
        shown = f"{row['facts']}{row['agent_version']}"
        self.assertTrue(shown.isprintable(), shown)

    def test_ranges_without_a_common_version(self) -> None:
        """HELLO with only future versions ends in GOAWAY version that names the gateway (H1)."""
        end = self.fleet.dial(self.pump, protocol=VersionRange(7, 9))
        self.assertEqual(end.told, "version")
        self.assertIn("upgrade the gateway", end.goaway.message)
        self.assertEqual(len(self.fleet.gateway.presence), 0)

    def test_range_upside_down(self) -> None:
        """A range that ends before it begins is the dialler's fault."""
        end = self.fleet.dial(self.pump, protocol=VersionRange(3, 1))
        self.assertEqual(end.told, "version")
        self.assertIn("upgrade the dialler", end.goaway.message)

    def test_hello_twice_while_judged(self) -> None:
        """A second HELLO is a protocol error, and its link displaces nobody when judged later."""
        good = self.fleet.dial(self.pump)
        self.fleet.threads.hold("read")
        end = self.fleet.dial(self.pump, instance=b"J" * 16)
        end.wire.dialler.write(encode_frame(FrameType.HELLO, 0, encode(hello())))
        end.wire.step()
        self.assertTrue(end.gateway_link.closed)
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(end.told, "protocol")
        self.assertIsNone(good.goaway)
        live = self.fleet.gateway.presence.find("pump-1")
        assert live is not None
        self.assertIs(live.link, good.gateway_link)

    def test_hello_again_later(self) -> None:
        """A HELLO on an open link is a protocol error and the device is not live any more."""
        end = self.fleet.dial(self.pump)
        end.wire.dialler.write(encode_frame(FrameType.HELLO, 0, encode(hello())))
        self.fleet.pump()
        self.assertEqual(end.told, "protocol")
        self.assertIsNone(self.fleet.gateway.presence.find("pump-1"))

    def test_goaway_while_judged(self) -> None:
        """A device that says GOAWAY while the store answers never becomes live."""
        good = self.fleet.dial(self.pump)
        self.fleet.threads.hold("read")
        end = self.fleet.dial(self.pump, dial=2)
        end.link.go_away(GoAway(code="none"), close=False)
        self.fleet.pump()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertIsNone(end.welcome)
        self.assertIsNone(good.goaway)

    def test_peer_closes_while_judged(self) -> None:
        """A device that is gone when the store answers is not made live."""
        self.fleet.threads.hold("read")
        end = self.fleet.dial(self.pump)
        end.wire.cut()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(len(self.fleet.gateway.presence), 0)

    def test_store_fails(self) -> None:
        """When the store cannot answer nobody is admitted, without a traceback (fail closed)."""
        self.fleet.got(self.fleet.store.close())
        self._refused(self.pump, "internal")
        end = self.fleet.dial(self.ann)
        self.assertEqual(end.told, "internal")
        self.assertIsNone(end.welcome)

    def test_no_hello_in_time(self) -> None:
        """A link that says no HELLO within ten seconds is aborted (rule P7)."""
        end = self.fleet.dial(self.pump, pump=False)
        end.wire.dialler.waiting.clear()
        self.fleet.clock.advance(9.5)
        self.assertFalse(end.wire.gateway.aborted)
        self.fleet.clock.advance(1)
        self.assertTrue(end.wire.gateway.aborted)

    def test_change_during_the_read(self) -> None:
        """A row that changes while it is read is read again: a device is never listed stale."""
        self.fleet.threads.hold("read")
        self.fleet.dial(self.pump)
        changed = self.fleet.got(self.fleet.store.rename("pump-1", "pump-new"))
        self.fleet.gateway.presence.refresh(changed)
        self.assertEqual(self.fleet.threads.held, 1)
        self.fleet.threads.release_one()
        self.assertEqual(self.fleet.threads.held, 1, "the row is read again")
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertIsNotNone(self.fleet.gateway.presence.find("pump-new"))


class ExpiredTests(FleetTestCase):
    def test_renew_only(self) -> None:
        """A device whose certificate has expired may renew, and nothing else (rule E4)."""
        operator = self.fleet.dial(self.ann)
        end = self.fleet.dial(self.pump.changed(expired=True))
        assert end.welcome is not None
        self.assertTrue(end.welcome.renew_only)
        self.assertEqual(self.fleet.listed(operator)["pump-1"]["state"], "never")
        other = end.call("gateway.devices")
        talk = operator.call("exec", device="pump-1")
        end.link.sessions(
            Sessions([SessionReport(session=b"S" * 16, operator="ann", handler="exec")])
        )
        self.fleet.pump()
        self.assertEqual(other.code, "not-found")
        self.assertEqual(talk.code, "offline")
        self.assertEqual((end.requests, end.answers), ([], []))

    def test_renew_only_displaces_nobody(self) -> None:
        """A link that may only renew takes no epoch from a live one."""
        good = self.fleet.dial(self.pump)
        self.fleet.dial(self.pump.changed(expired=True), instance=b"J" * 16)
        self.assertIsNone(good.goaway)

    def test_one_renewal_link(self) -> None:
        """A newer link that may only renew ends the older one."""
        first = self.fleet.dial(self.pump.changed(expired=True))
        self.fleet.dial(self.pump.changed(expired=True), instance=b"J" * 16)
        self.assertEqual(first.told, "duplicate")

    def test_revoking_ends_a_renewal_link(self) -> None:
        """Revoking a device also ends the link on which it could only renew."""
        end = self.fleet.dial(self.pump.changed(expired=True))
        revoked = self.fleet.run(self.fleet.gateway.revocation.revoke_device("pump-1"))
        self.assertEqual(revoked, ("pump-1", 1))
        self.fleet.pump()
        self.assertEqual(end.told, "revoked")

    def test_expired_operator(self) -> None:
        """An operator whose certificate has expired is told to get a new invite."""
        end = self.fleet.dial(self.ann.changed(expired=True))
        self.assertEqual(end.told, "expired")
        self.assertIn("invite", end.goaway.message)


class OperatorAdmissionTests(FleetTestCase):
    def test_registered_key_is_welcomed(self) -> None:
        """An operator enters, and the audit says so before WELCOME leaves."""
        self.fleet.threads.hold("write")
        end = self.fleet.dial(self.ann)
        self.assertIsNone(end.welcome)
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(end.welcome.name, "ann")
        self.assertEqual(len(self.fleet.audit("operator.entered", operator="ann")), 1)

    def test_unregistered_key(self) -> None:
        """An unknown key is refused."""
        self.assertEqual(self.fleet.dial(self.ann.changed(spki=b"?" * 32)).told, "auth")

    def test_key_of_another_operator(self) -> None:
        """A key of another operator than the certificate names is refused."""
        bob = self.fleet.add_operator("bob")
        end = self.fleet.dial(self.ann.changed(name=bob.certificate.name))
        self.assertEqual(end.told, "auth")

    def test_devices_key_in_an_operators_certificate(self) -> None:
        """A device's registered key does not pass for an operator's."""
        end = self.fleet.dial(self.ann.changed(spki=self.pump.certificate.spki))
        self.assertEqual(end.told, "auth")

    def test_revoked_operator(self) -> None:
        """A revoked operator is told so."""
        self.fleet.got(self.fleet.store.revoke_operator("ann"))
        self.assertEqual(self.fleet.dial(self.ann).told, "revoked")

    def test_revoked_while_the_entry_is_written(self) -> None:
        """An operator revoked between the judgement and WELCOME is not let in."""
        self.fleet.add_operator("bob")
        end = self.fleet.dial(self.ann, pump=False)
        self.fleet.threads.hold("write")
        self.fleet.pump()
        # Another door's request, committed in the same batch.
        self.fleet.gateway.revocation._revoked.add(("operator", "ann"))
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertIsNone(end.welcome)
        self.assertEqual(end.told, "revoked")

    def test_peer_closes_while_the_entry_is_written(self) -> None:
        """An operator who is gone when the row is written is not kept as present."""
        self.fleet.threads.hold("write")
        end = self.fleet.dial(self.ann)
        end.wire.cut()
        self.fleet.threads.release()
        self.assertEqual(self.fleet.gateway._links, set())
        self.assertEqual(self.fleet.gateway.revocation._operators, {})
