"""Devices, their names, labels, keys and epochs."""

from __future__ import annotations

import uuid

from rshell.store import devices
from rshell.store.devices import Seen
from rshell.store.errors import LimitReached, NameTaken, NotFound, StoreError
from rshell.store.records import DeviceKey
from rshell.store.times import DAY
from tests.store.fixture import StoreTestCase, spki


class Enrolling(StoreTestCase):
    def test_fixed_name(self) -> None:
        """A device gets the name and labels its invite fixes, whatever it proposes."""
        device = self.enrol("whatever", name="pump-1", labels={"site": "oslo", "empty": ""})
        self.assertEqual(
            (device.name, device.name_provisional, device.labels, device.status),
            ("pump-1", False, {"site": "oslo", "empty": ""}, "active"),
        )
        self.assertEqual(uuid.UUID(device.id).version, 4)
        self.assertEqual((device.created_at, device.last_seen, device.epoch), (self.now, None, 0))

    def test_proposed_names(self) -> None:
        """A proposed name is provisional, and numbered when it is taken."""
        names = [self.enrol("pump", number).name for number in (1, 2, 3)]
        self.assertEqual(names, ["pump", "pump-2", "pump-3"])
        self.assertTrue(all(d.name_provisional for d in self.got(self.store.find_devices())))

    def test_pattern(self) -> None:
        """A proposed name within the invite's pattern counts at once, another does not."""
        within = self.enrol("pump-1", 1, name_pattern="pump-*")
        outside = self.enrol("valve", 2, name_pattern="pump-*")
        numbered = self.enrol("pump-1", 3, name_pattern="pump-?")
        self.assertEqual(
            [d.name_provisional for d in (within, outside, numbered)], [False, True, True]
        )

    def test_numbering_long_names(self) -> None:
        """A numbered name never exceeds 63 characters."""
        long = "x" * 63
        self.enrol(long, 1)
        self.assertEqual(self.enrol(long, 2).name, "x" * 61 + "-2")

    def test_many_of_one_name(self) -> None:
        """The three-hundredth device of one name is numbered too."""

        def crowd(connection: object) -> None:
            rows = [
                {
                    "id": str(number),
                    "name": f"pump-{number}",
                    "name_provisional": True,
                    "status": "active",
                    "created_at": 0,
                    "epoch": 0,
                    "dial": 0,
                    "link_generation": 0,
                    "facts": "{}",
                }
                for number in range(2, 300)
            ]
            connection.execute(devices.insert(devices.devices), rows)  # type: ignore[attr-defined]  # a Connection

        self.enrol("pump", 1)
        self.got(self.store._writer.write(crowd))
        self.assertEqual(self.enrol("pump", 2).name, "pump-300")

    def test_fixed_name_taken_meanwhile(self) -> None:
        """A fixed name is never numbered; the same key may ask again once it is free."""
        token = self.invite(1, name="pump")
        self.enrol("pump", 2)
        grant = self.use(token, "a")
        self.failureResultOf(self.store.enrol_device(grant, "x"), NameTaken)
        self.got(self.store.rename("pump", "old-pump"))
        again = self.use(token, "a")
        self.assertEqual(self.got(self.store.enrol_device(again, "x")).name, "pump")

    def test_database_holds_the_name_rule(self) -> None:
        """A name no caller should have let through is refused by the database."""
        for number, name in enumerate(("console", "Pump", ""), 1):
            grant = self.use(self.invite(number), str(number))
            self.failureResultOf(self.store.enrol_device(grant, name), StoreError)

    def test_operators_invite(self) -> None:
        """An operator's invite makes no device."""
        token = self.invite(kind="operator", name="ann", roles=("admin",))
        grant = self.use(token, "a")
        self.failureResultOf(self.store.enrol_device(grant, "pump"), StoreError)


class Finding(StoreTestCase):
    def test_by_name_and_id(self) -> None:
        """A device is found by its name and by its id, with its labels."""
        device = self.enrol("pump", labels={"a": "1", "b": "2"})
        self.assertEqual(self.got(self.store.device("pump")), device)
        self.assertEqual(self.got(self.store.device(device.id)), device)
        self.assertIsNone(self.got(self.store.device("pum")))

    def test_id_comes_before_name(self) -> None:
        """A device whose name is another's id does not stand for it."""
        victim = self.enrol("victim", 1)
        self.enrol("rogue", 2)
        self.got(self.store.rename("rogue", victim.id))
        self.assertEqual(self.got(self.store.device(victim.id)), victim)

    def test_by_key(self) -> None:
        """A registered key leads to its device; an unknown or operator's key to none."""
        device = self.enrol("pump", labels={"a": "1", "b": "2"})
        found = self.got(self.store.device_by_spki(spki("key-1")))
        assert found is not None
        self.assertEqual((found.device, found.key.status), (device, "active"))
        self.assertIsNone(found.refusal(self.now))
        self.assertIsNone(self.got(self.store.device_by_spki(spki("other"))))
        self.got(self.store.add_operator("ann", ("admin",), spki("ann")))
        self.assertIsNone(self.got(self.store.device_by_spki(spki("ann"))))

    def test_listing(self) -> None:
        """Listings are by name; revoked devices only when asked for."""
        for number, name in enumerate(("b", "a", "c"), 1):
            self.enrol(name, number, labels={"n": name})
        self.got(self.store.revoke_device("c"))
        listed = self.got(self.store.find_devices())
        self.assertEqual(
            [(d.name, d.labels) for d in listed], [("a", {"n": "a"}), ("b", {"n": "b"})]
        )
        everyone = self.got(self.store.find_devices(revoked=True))
        self.assertEqual([d.status for d in everyone], ["active", "active", "revoked"])


class Changing(StoreTestCase):
    def test_labels(self) -> None:
        """Labels are set, replaced and removed; removing an absent one is no error."""
        self.enrol("pump", labels={"a": "1", "b": "2"})
        device = self.got(self.store.set_labels("pump", {"b": "3", "c": "4"}, ["a", "zz"]))
        self.assertEqual(device.labels, {"b": "3", "c": "4"})

    def test_too_many_labels(self) -> None:
        """The 65th label is refused and the others stay as they were."""
        self.enrol("pump", labels={"a": "1"})
        many = {f"k{number}": "v" for number in range(64)}
        self.failureResultOf(self.store.set_labels("pump", many), LimitReached)
        device = self.got(self.store.set_labels("pump", {}))
        self.assertEqual(device.labels, {"a": "1"})
        self.assertEqual(len(self.got(self.store.set_labels("pump", many, ["a"])).labels), 64)

    def test_rename(self) -> None:
        """Renaming keeps the id; renaming to its own name accepts a provisional one."""
        device = self.enrol("pump", 1)
        self.assertFalse(self.got(self.store.rename("pump", "pump")).name_provisional)
        renamed = self.got(self.store.rename("pump", "valve"))
        self.assertEqual((renamed.id, renamed.name), (device.id, "valve"))
        self.enrol("other", 2)
        self.failureResultOf(self.store.rename("other", "valve"), NameTaken)
        self.failureResultOf(self.store.rename("other", "console"), StoreError)
        self.failureResultOf(self.store.rename("nobody", "x"), NotFound)

    def test_newer_epoch_wins(self) -> None:
        """What an older link says after a newer one was recorded is dropped."""
        device = self.enrol("pump")
        newer = Seen(last_address="2.2.2.2", boot_id="b2", facts={"os": "arch"}, dial=7)
        self.got(self.store.record_seen(device.id, 5, newer))
        self.now += 1
        self.got(self.store.record_seen(device.id, 4, Seen(last_address="1"), self.now + 1))
        self.got(self.store.record_seen(device.id, 5, Seen(link_generation=3)))
        seen = self.got(self.store.device("pump"))
        assert seen is not None
        self.assertEqual(
            (seen.epoch, seen.last_address, seen.boot_id, seen.facts, seen.dial, seen.last_seen),
            (5, "2.2.2.2", "b2", {"os": "arch"}, 7, self.now),
        )
        self.assertEqual(seen.link_generation, 3)

    def test_epochs_are_64_bits(self) -> None:
        """An epoch with a start counter in its upper half is kept exactly."""
        device = self.enrol("pump")
        epoch = (2**31 - 1) << 32 | 0xFFFFFFFF
        self.got(self.store.record_seen(device.id, epoch, Seen()))
        seen = self.got(self.store.device("pump"))
        assert seen is not None
        self.assertEqual(seen.epoch, epoch)

    def test_nothing_recorded_for_the_revoked(self) -> None:
        """A revoked or unknown device's links record nothing."""
        device = self.enrol("pump")
        self.got(self.store.revoke_device("pump"))
        self.got(self.store.record_seen(device.id, 9, Seen()))
        self.got(self.store.record_seen("nobody", 9, Seen()))
        seen = self.got(self.store.device(device.id))
        assert seen is not None
        self.assertEqual((seen.epoch, seen.last_seen), (0, None))

    def test_huge_facts(self) -> None:
        """A device cannot fill the database with facts."""
        device = self.enrol("pump")
        huge = Seen(facts={"x": "y" * 65_536})
        self.failureResultOf(self.store.record_seen(device.id, 1, huge), LimitReached)


class Revoking(StoreTestCase):
    def test_device(self) -> None:
        """A revoked device has no valid key, and its name can be given again."""
        device = self.enrol("pump", 1)
        revoked = self.got(self.store.revoke_device("pump"))
        self.assertEqual((revoked.id, revoked.status), (device.id, "revoked"))
        found = self.got(self.store.device_by_spki(spki("key-1")))
        assert found is not None
        self.assertEqual((found.refusal(self.now), found.key.status), ("revoked", "revoked"))
        self.assertIsNone(self.got(self.store.device("pump")))
        successor = self.enrol("x", 2, name="pump")
        self.assertNotEqual(successor.id, device.id)

    def test_survives_restart(self) -> None:
        """A revoked device is still revoked after a restart."""
        device = self.enrol("pump")
        self.got(self.store.revoke_device(device.id))
        self.reopen()
        found = self.got(self.store.device(device.id))
        assert found is not None
        self.assertFalse(found.active)

    def test_twice(self) -> None:
        """A revoked device cannot be revoked, labelled or renamed."""
        device = self.enrol("pump")
        self.got(self.store.revoke_device("pump"))
        self.failureResultOf(self.store.revoke_device(device.id), NotFound)
        self.failureResultOf(self.store.set_labels(device.id, {"a": "b"}), NotFound)
        self.failureResultOf(self.store.rename(device.id, "x"), NotFound)

    def test_open_invites_for_its_name_are_void(self) -> None:
        """An invite that fixes a device's name is void once that device is revoked."""
        token = self.invite(1, name="pump")
        self.enrol("pump", 2)
        self.got(self.store.revoke_device("pump"))
        (listed,) = [t for t in self.got(self.store.tokens()) if t.id == token.id]
        self.assertTrue(listed.revoked)


class Renewing(StoreTestCase):
    def find(self, key: str) -> DeviceKey:
        """Return what admission sees for a key."""
        found = self.got(self.store.device_by_spki(spki(key)))
        assert found is not None
        return found

    def test_predecessor_is_accepted_for_a_day(self) -> None:
        """After a renewal both keys hold for 24 hours, then only the new one."""
        self.enrol("pump")
        self.got(self.store.renew_key(spki("key-1"), spki("new"), 99))
        self.assertEqual(self.find("new").key.not_after, 99)
        self.now += DAY - 1
        self.assertIsNone(self.find("key-1").refusal(self.now))
        self.now += 1
        self.assertEqual(self.find("key-1").refusal(self.now), "retired")
        self.assertIsNone(self.find("new").refusal(self.now))

    def test_lost_reply(self) -> None:
        """Asking again for the same pair does not prolong the predecessor."""
        self.enrol("pump")
        self.got(self.store.renew_key(spki("key-1"), spki("new"), 99))
        self.now += DAY // 2
        self.got(self.store.renew_key(spki("key-1"), spki("new"), 100))
        self.assertEqual(self.find("key-1").refusal(self.now + DAY // 2), "retired")
        self.assertEqual(self.find("new").key.not_after, 100)

    def test_without_rotation(self) -> None:
        """A key that cannot rotate is renewed in place."""
        self.enrol("pump")
        key = self.got(self.store.renew_key(spki("key-1"), spki("key-1"), 99))
        self.assertEqual((key.status, key.not_after), ("active", 99))

    def test_refusals(self) -> None:
        """Unknown, retired and revoked keys renew nothing, and no one's key is taken over."""
        self.enrol("pump", 1)
        self.enrol("valve", 2)
        renew = self.store.renew_key
        self.failureResultOf(renew(spki("x"), spki("y"), 9), NotFound)
        self.failureResultOf(renew(spki("key-1"), spki("key-2"), 9), StoreError)
        self.failureResultOf(renew(spki("key-1"), b"short", 9), StoreError)
        self.got(renew(spki("key-1"), spki("new"), 9))
        self.failureResultOf(renew(spki("new"), spki("key-1"), 9), StoreError)
        self.now += DAY
        self.failureResultOf(renew(spki("key-1"), spki("newer"), 9), StoreError)
        self.got(self.store.revoke_key(spki("key-2")))
        self.failureResultOf(renew(spki("key-2"), spki("newest"), 9), StoreError)

    def test_device_has_one_current_key(self) -> None:
        """A second renewal from the old key retires the first one's key too."""
        device = self.enrol("pump")
        self.got(self.store.renew_key(spki("key-1"), spki("new-1"), 9))
        self.got(self.store.renew_key(spki("key-1"), spki("new-2"), 9))
        keys = self.got(self.store.keys_of("device", device.id))
        self.assertEqual(
            {key.spki: key.status for key in keys},
            {spki("key-1"): "retired", spki("new-1"): "retired", spki("new-2"): "active"},
        )

    def test_operators_other_machines_stay(self) -> None:
        """Renewing one of an operator's keys leaves the others alone."""
        self.got(self.store.add_operator("ann", ("admin",), spki("laptop")))
        self.got(self.store.add_key("ann", spki("phone")))
        self.got(self.store.renew_key(spki("laptop"), spki("laptop-2"), 9))
        phone = self.got(self.store.operator_by_spki(spki("phone")))
        assert phone is not None
        self.assertIsNone(phone.refusal(self.now + 2 * DAY))

    def test_others_keys_stay(self) -> None:
        """A device's revocation does not touch another device's keys."""
        self.enrol("pump", 1)
        self.enrol("valve", 2)
        self.got(self.store.revoke_device("pump"))
        self.assertIsNone(self.find("key-2").refusal(self.now))


class Fleet(StoreTestCase):
    def test_start_counter(self) -> None:
        """Every start gets a higher number, also after reopening."""
        first = self.got(self.store.next_start())
        self.reopen()
        self.assertEqual([first, self.got(self.store.next_start())], [1, 2])

    def test_fleet(self) -> None:
        """A store belongs to one fleet."""
        self.assertIsNone(self.got(self.store.fleet()))
        self.got(self.store.set_fleet("f1"))
        self.got(self.store.set_fleet("f1"))
        self.failureResultOf(self.store.set_fleet("f2"), StoreError)

    def test_catalogues(self) -> None:
        """A catalogue is kept once under its digest; a huge one is refused."""
        self.assertIsNone(self.got(self.store.catalogue("d1")))
        self.got(self.store.put_catalogue("d1", "[1]"))
        self.got(self.store.put_catalogue("d1", "[2]"))
        self.assertEqual(self.got(self.store.catalogue("d1")), "[1]")
        self.failureResultOf(self.store.put_catalogue("d2", "x" * 1_000_001), LimitReached)
