"""From a selector to devices: whatever the database leaves out, the same ones are meant."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rshell.access.selectors import parse
from rshell.gateway import chosen as module
from rshell.gateway.chosen import chosen
from rshell.gateway.device_rows import device_state
from rshell.gateway.presence import State
from rshell.store.records import Grant, Operator
from tests.gateway.fleet import FleetTestCase
from tests.store.fixture import statements

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True, database=None)
TERMS = st.sampled_from(
    (
        "pump-*",
        "*-2",
        "pump-1",
        "name!=pump-1",
        "name in (pump-2,valve*)",
        "site=oslo",
        "site!=oslo",
        "site=*",
        "!site",
        "site in (oslo,ber*)",
        "site notin (oslo)",
        "tier=a",
        "state=live",
        "state!=live",
        "state in (lost,never)",
        "state notin (lost,never)",
        "state=l*",
        "state=suspect",
        "state=never",
        "facts.os=arch",
        "facts.os!=arch",
        "!facts.os",
    )
)


class ChosenTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        names = ("pump-2", "pump-3", "valve-1", "valve-2")
        peers = [self.pump, *(self.fleet.enrol(name) for name in names)]
        for name, site, tier in (
            ("pump-1", "oslo", "a"),
            ("pump-2", "berlin", "b"),
            ("valve-1", "oslo", ""),
        ):
            self.fleet.got(self.fleet.store.set_labels(name, {"site": site, "tier": tier}))
        for peer in peers[:3]:
            self.fleet.dial(peer)
        self.fleet.got(self.fleet.store.keep_facts(peers[0].owner, 2**60, {"os": "arch"}))
        self.fleet.got(self.fleet.store.keep_facts(peers[4].owner, 2**60, {"os": "debian"}))
        # One is lost, one is live, one has been silent.
        self.fleet.wires[0].cut()
        self.fleet.pump()
        self.fleet.wires[2].held = True
        silent = self.fleet.gateway.presence.find("pump-3")
        assert silent is not None
        while silent.state(self.fleet.wheel.seconds()) is State.LIVE:
            self.fleet.advance(1)

    def operator(self, name: str) -> Operator:
        """Return an operator's record."""
        found = self.fleet.got(self.fleet.store.operator(name))
        assert found is not None
        return found

    def found(self, operator: Operator, text: str, *facts: str) -> list[str]:
        """Return the names that a selector picks."""
        self.fleet.clock.advance(0)  # the turns of earlier ones are over

        async def names() -> list[str]:
            pages = chosen(self.fleet.gateway, operator, parse(text), facts)
            return [one.device.name async for page in pages for one in page]

        return self.fleet.run(names())

    def judged(self, operator: Operator, text: str) -> list[str]:
        """Return the names that the selector means when every row is read and judged."""
        gateway, selector = self.fleet.gateway, parse(text)
        told = self.fleet.got(self.fleet.store.all_facts(["os"]))
        return [
            device.name
            for device in self.fleet.got(self.fleet.store.find_devices())
            if gateway.rights.sees(operator, device)
            and selector.matches(
                device.name,
                device.labels,
                state=device_state(gateway, device).value,
                device_id=device.id,
                facts=told.get(device.id, {}),
            )
        ]

    def test_same_as_judging_every_row(self) -> None:
        """Names, labels, states and facts, alone and together, mean what they always meant."""
        self.fleet.add_role("oslo", Grant(select="site=oslo", handlers=("exec",)))
        self.fleet.add_operator("bob", "oslo")
        operators = [self.operator("ann"), self.operator("bob")]
        gateway = self.fleet.gateway
        everyone = self.fleet.got(self.fleet.store.find_devices())
        states = {device_state(gateway, device).value for device in everyone}
        self.assertEqual(states, {"live", "suspect", "lost", "never"})
        picked = 0

        @SETTINGS
        @given(st.lists(TERMS, min_size=1, max_size=3, unique=True))
        def check(terms: list[str]) -> None:
            nonlocal picked
            text = ",".join(terms)
            for operator in operators:
                found = self.found(operator, text)
                self.assertEqual(found, self.judged(operator, text), text)
                picked += len(found)

        check()
        self.assertGreater(picked, 100)

    def test_what_is_read(self) -> None:
        """Only rows that can be meant are read: by label, by name, by who is live."""
        ann = self.operator("ann")
        for text, names in {
            "site=oslo": ["pump-1", "valve-1"],
            "valve-*": ["valve-1", "valve-2"],
            "state=live,pump-*": ["pump-2"],
            "state in (live,suspect)": ["pump-2", "pump-3"],
        }.items():
            with statements() as found:
                self.assertEqual(self.found(ann, text), names)
            self.assertEqual(len(found), 3, found)
            self.assertIn(" IN (" if "state" in text or "site" in text else "GLOB", found[1])
        with statements() as found:
            self.assertEqual(self.found(ann, "valve-*,facts.os=debian"), ["valve-2"])
        self.assertEqual(len(found), 4, found)
        self.assertIn("device_facts.device_id IN (", found[3])

    def test_more_than_are_looked_up_one_by_one(self) -> None:
        """Of many live devices, and of facts of many, the whole tables are read instead."""
        self.patch(module, "MAX_AMONG", 1)
        ann = self.operator("ann")
        self.assertEqual(self.found(ann, "state in (live,suspect)"), ["pump-2", "pump-3"])
        self.assertEqual(self.found(ann, "facts.os=debian"), ["valve-2"])

    def test_sessions_read_their_devices(self) -> None:
        """A listing of sessions reads the rows of the devices that have some."""
        end = self.fleet.dial(self.ann)
        self.fleet.dial(self.fleet.enrol("other"))
        talk = end.call("exec", device="other")
        self.fleet.pump()
        with statements() as found:
            listed = end.call("gateway.sessions")
            self.fleet.pump()
        self.assertEqual([row["device"] for row in listed.answer()], ["other"])
        self.assertIn("devices.id IN (?)", " ".join(found))
        self.assertIsNone(talk.closed)
