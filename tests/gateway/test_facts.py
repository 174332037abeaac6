"""Facts at the gateway: kept, bounded, hostile, and good for choosing only."""

from __future__ import annotations

import json
import time
from typing import Any

from rshell.access.labels import BadLabel, parse_label, parse_label_changes
from rshell.access.selectors import BadSelector, parse, parse_for_policy
from rshell.gateway.fact_services import safe_fact
from rshell.store.facts import MAX_BYTES
from rshell.store.schema import device_facts, devices
from tests.gateway.test_verbs import VerbTestCase
from tests.store.fixture import StoreTestCase

FACTS: dict[str, Any] = {
    "os": "arch",
    "memory": {"total_bytes": 1024},
    "disks": [{"mount": "/", "type": "ext4"}, {"mount": "/data", "type": "btrfs"}],
    "addresses": ["10.0.0.7", "fd00::7"],
    "swap": False,
    "cpus": 4,
    "nothing": None,
}


class SelectorTests(StoreTestCase):
    def test_meanings(self) -> None:
        """Facts are asked for as labels are, through maps and lists."""
        for text, meant in {
            "facts.os=arch": True,
            "facts.os=a*": True,
            "facts.os!=debian": True,
            "facts.os in (debian,arch)": True,
            "facts.os notin (debian,arch)": False,
            "facts.memory.total_bytes=1024": True,
            "facts.memory.total_bytes.x=1024": False,
            "facts.memory=*": False,
            "facts.disks.type=btrfs": True,
            "facts.disks.type!=btrfs": False,
            "facts.disks.type=zfs": False,
            "facts.addresses=10.0.*": True,
            "facts.addresses=fd00::7": True,
            "facts.swap=false": True,
            "facts.cpus=4": True,
            "!facts.gpu": True,
            "!facts.os": False,
            "!facts.nothing": True,
            "facts.gpu!=x": True,
            "facts.os=arch,site=berlin": True,
            "facts.os=arch,site=oslo": False,
        }.items():
            labels = {"site": "berlin"}
            self.assertEqual(parse(text).matches("pump", labels, facts=FACTS), meant, text)
            self.assertEqual(str(parse(str(parse(text)))), str(parse(text)))
        self.assertFalse(parse("facts.os=arch").matches("pump", {}))

    def test_names(self) -> None:
        """A selector tells which facts it needs: usually none."""
        self.assertEqual(frozenset(), parse("pump-*,site=berlin").fact_names)
        self.assertEqual({"os", "disks"}, parse("facts.os=a,!facts.disks.x,x=y").fact_names)

    def test_no_name(self) -> None:
        """A fact without a name is a mistake."""
        for text in ("facts.=x", "facts..os=x", "facts.os.=x", "!facts."):
            self.assertRaises(BadSelector, parse, text)

    def test_not_for_policy(self) -> None:
        """A selector that decides who may do what knows no facts; the text says why."""
        for text in ("facts.os=arch", "pump-*,facts.os!=x", "!facts.os", "facts.os in (a,b)"):
            error = self.assertRaises(BadSelector, parse_for_policy, text)
            self.assertIn("decides nothing", error.message)
            self.assertEqual(text.index("facts"), error.position)
        self.assertEqual("pump-*,site=berlin", str(parse_for_policy("pump-*,site=berlin")))

    def test_not_as_labels(self) -> None:
        """Nobody can set a label that reads like a fact; an old one can be removed."""
        self.assertRaises(BadLabel, parse_label, "facts.os=arch")
        self.assertRaises(BadLabel, parse_label_changes, ["facts.os=arch"])
        self.assertEqual({"facts.os"}, parse_label_changes(["facts.os-"]).remove)


class StoreTests(StoreTestCase):
    def test_newest_kept(self) -> None:
        """The newest facts take the place of the older ones, and survive a restart."""
        device = self.enrol("pump-1")
        self.assertIsNone(self.got(self.store.facts_of(device.id)))
        for os in ("debian", "arch"):
            self.got(self.store.keep_facts(device.id, 1, {"os": os}))
        self.reopen()
        told = self.got(self.store.facts_of(device.id))
        assert told is not None
        self.assertEqual(({"os": "arch"}, self.now), (told.facts, told.received_at))

    def test_older_link(self) -> None:
        """An older link, a revoked device and one that does not exist change nothing."""
        device = self.enrol("pump-1")
        self.store._writer.write(lambda c: c.execute(devices.update().values(epoch=7)))
        self.got(self.store.keep_facts(device.id, 6, FACTS))
        self.assertIsNone(self.got(self.store.facts_of(device.id)))
        self.got(self.store.keep_facts(device.id, 7, FACTS))
        self.got(self.store.keep_facts("nobody", 7, FACTS))
        self.assertIsNone(self.got(self.store.facts_of("nobody")))
        self.got(self.store.revoke_device("pump-1"))
        self.got(self.store.keep_facts(device.id, 8, {"os": "later"}))
        told = self.got(self.store.facts_of(device.id))
        assert told is not None
        self.assertEqual(told.facts, FACTS)
        self.assertEqual({}, self.got(self.store.all_facts(["os"])))

    def test_bounded(self) -> None:
        """A device cannot fill the database."""
        device = self.enrol("pump-1")
        huge = self.store.keep_facts(device.id, 1, {"x": "y" * MAX_BYTES})
        self.assertIn("16384", str(self.failureResultOf(huge).value))

    def test_by_name(self) -> None:
        """Of the whole fleet only what is asked for is read; odd names are no failure."""
        device = self.enrol("pump-1")
        self.got(self.store.keep_facts(device.id, 1, {**FACTS, "class": 1}))
        found = self.got(self.store.all_facts(["os", "gpu", "class"]))
        self.assertEqual({device.id: {"os": "arch", "class": 1}}, found)

    def test_ten_thousand(self) -> None:
        """A selector on facts over ten thousand devices takes well under a second."""
        facts = {f"fact_{n}": "x" * 40 for n in range(40)} | FACTS

        def fill(connection: Any) -> None:
            rows = [{"id": f"{n:036}", "name": f"d-{n}"} for n in range(10_000)]
            fixed = {
                "name_provisional": False,
                "status": "active",
                "created_at": 0,
                "epoch": 0,
                "dial": 0,
                "link_generation": 0,
                "facts": "{}",
            }
            connection.execute(devices.insert(), [row | fixed for row in rows])
            body = json.dumps(facts)
            connection.execute(
                device_facts.insert(),
                [{"device_id": row["id"], "received_at": 0, "body": body} for row in rows],
            )

        self.got(self.store._writer.write(fill))
        began = time.process_time()
        selector = parse("facts.os=arch,facts.disks.type=btrfs")
        found = self.got(self.store.all_facts(selector.fact_names))
        meant = sum(selector.matches("d", {}, facts=told) for told in found.values())
        self.assertEqual(10_000, meant)
        self.assertLess(time.process_time() - began, 2.0)


class TellingTests(VerbTestCase):
    def tell(self, end: Any, facts: Any) -> Any:
        return self.ask(end, "gateway.report-facts", facts=facts)

    def test_told(self) -> None:
        """What a device tells is shown to operators, also when it has gone; it may not ask."""
        operator, end = self.fleet.dial(self.ann), self.fleet.dial(self.pump, facts={"os": "x"})
        before = self.ask(operator, "gateway.facts", device="pump-1").answer()
        self.assertEqual(({"os": "x"}, None), (before["facts"], before["received_at"]))
        self.tell(end, FACTS)
        end.wire.cut()
        self.fleet.pump()
        told = self.ask(operator, "gateway.facts", device="pump-1").answer()
        self.assertEqual(("pump-1", "lost", FACTS), (told["device"], told["state"], told["facts"]))
        self.assertRegex(told["received_at"], r"^20.*Z$")

    def test_chosen(self) -> None:
        """Devices are chosen by facts, and listed with those that were asked for."""
        operator, end = self.fleet.dial(self.ann), self.fleet.dial(self.pump)
        self.fleet.dial(self.fleet.enrol("pump-2"))
        self.tell(end, FACTS)

        def names(selector: str, **more: Any) -> list[str]:
            rows = self.ask(operator, "gateway.devices", selector=selector, **more).answer()
            return [row["name"] for row in rows]

        self.assertEqual(["pump-1"], names("facts.os=arch"))
        self.assertEqual(["pump-1"], names("pump-1,facts.os=arch"))
        self.assertEqual([], names("pump-2,facts.os=arch"))
        self.assertEqual(["pump-2"], names("!facts.os"))
        self.assertEqual(["pump-1"], names("pump-1"))
        self.assertEqual([], names("pump-9"))
        for selector in ("pump-1", "pump-*"):
            row = self.ask(
                operator, "gateway.devices", selector=selector, facts=["memory", "no/name"]
            ).answer()[0]
            self.assertEqual({"memory": {"total_bytes": 1024}}, row["facts"])
        self.assertEqual({}, self.ask(operator, "gateway.devices").answer()[0]["facts"])

    def test_hostile(self) -> None:
        """What a terminal would act on is replaced; what is deep or long is cut."""
        operator, end = self.fleet.dial(self.ann), self.fleet.dial(self.pump)
        deep: Any = "end"
        for _ in range(8):
            deep = [deep]
        self.tell(end, {"os": "\x1b[2J\u202e", "deep": deep, "many": list(range(999)), "n": 2**60})
        shown = self.ask(operator, "gateway.facts", device="pump-1").answer()["facts"]
        self.assertTrue(shown["os"].isprintable())
        self.assertEqual([[[[None]]]], shown["deep"])
        self.assertEqual(256, len(shown["many"]))
        for value in (float("nan"), 2**70, b"x", {"\x1b": {"a": {"b": {"c": {"d": 1}}}}}):
            self.assertNotIn("\x1b", repr(safe_fact(value)))
        for bad in ({"Os": 1}, {"a.b": 1}, {"": 1}, {"x" * 64: 1}, [], 7):
            self.assertEqual("bad-request", self.tell(end, bad).code, bad)

    def test_too_often(self) -> None:
        """A device that tells all the time is slowed down."""
        end = self.fleet.dial(self.pump)
        codes = [self.tell(end, {"cpus": number}).code for number in range(40)]
        self.assertEqual("overload", codes[-1])

    def test_not_the_current_link(self) -> None:
        """A link that may only renew tells nothing."""
        end = self.fleet.dial(self.pump.changed(expired=True))
        self.assertEqual("offline", self.refused(end, "gateway.report-facts", facts={})[0])

    def test_invite(self) -> None:
        """An invite gives no label that reads like a fact."""
        operator = self.fleet.dial(self.ann)
        code, text = self.refused(
            operator, "gateway.invite", kind="device", labels={"facts.os": "arch"}
        )
        self.assertEqual("bad-request", code)
        self.assertIn("facts.", text)
