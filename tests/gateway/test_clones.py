"""Two machines with one identity (rules H4, H5)."""

from __future__ import annotations

from typing import Any

from rshell.gateway.clones import DISPLACEMENTS, WITHIN_SECONDS
from rshell.gateway.why_services import absence
from rshell.link.core.constants import MAX_OFFSET
from tests.gateway.fleet import FleetTestCase

OTHER = b"J" * 16


class CloneTestCase(FleetTestCase):
    dials = 0

    def come(self, instance: bytes = b"I" * 16, **more: Any) -> Any:
        """Let an agent process dial once more."""
        self.dials += 1
        return self.fleet.dial(self.pump, instance=instance, dial=self.dials, **more)

    def suspected(self) -> int:
        """Return how many audit rows tell of a clone."""
        return len(self.fleet.audit("device.clone-suspected"))

    def row(self) -> dict[str, Any]:
        """Return the device as listed."""
        operator = self.fleet.dial(self.ann)
        row = self.fleet.listed(operator)["pump-1"]
        operator.wire.cut()
        return row

    def ask(self, **request: Any) -> Any:
        """Ask for a quarantine or its end."""
        talk = self.fleet.dial(self.ann).call("gateway.quarantine", request=request)
        self.fleet.pump()
        return talk


class GenerationTests(CloneTestCase):
    def test_told_is_one_above_presented(self) -> None:
        """WELCOME tells one more than was ever presented; what was presented is kept."""
        self.assertEqual(self.come(link_generation=0).welcome.link_generation, 1)
        self.assertEqual(self.fleet.device("pump-1").link_generation, 0)
        self.assertEqual(self.come(link_generation=1).welcome.link_generation, 2)
        self.assertEqual(self.fleet.device("pump-1").link_generation, 1)

    def test_crash_before_it_was_stored(self) -> None:
        """An agent that crashed before it stored the number presents the last one: no alert."""
        for generation in (0, 0, 1, 1, 1, 2):
            end = self.come(link_generation=generation)
            self.assertEqual(end.welcome.link_generation, generation + 1)
        self.assertEqual(self.suspected(), 0)
        self.assertEqual(self.row()["alerts"], [])

    def test_gateway_restored_from_a_backup(self) -> None:
        """A number far above the kept one is no fault of the device's."""
        self.assertEqual(self.come(link_generation=90).welcome.link_generation, 91)
        self.assertEqual(self.suspected(), 0)

    def test_largest(self) -> None:
        """The largest number is kept and told without overflow."""
        self.come(link_generation=MAX_OFFSET)
        self.assertEqual(self.come(link_generation=MAX_OFFSET).welcome.link_generation, MAX_OFFSET)

    def test_restored_backup(self) -> None:
        """An older number raises the alert with both sightings, and goes on."""
        self.come(link_generation=5, boot_id="old-boot")
        end = self.come(OTHER, link_generation=3, boot_id="new-boot")
        self.assertEqual(end.welcome.link_generation, 6)
        (row,) = self.fleet.audit("device.clone-suspected")
        seen = row.record.details["seen"]
        self.assertEqual([one["boot_id"] for one in seen], ["old-boot", "new-boot"])
        self.assertEqual([one["instance"] for one in seen], [b"I".hex() * 16, OTHER.hex()])
        self.assertNotEqual(seen[0]["address"], seen[1]["address"])
        (alert,) = self.row()["alerts"]
        self.assertTrue(alert.startswith("clone: link generation 3"), alert)
        self.assertEqual(self.fleet.device("pump-1").link_generation, 5)

    def test_hello_that_waited(self) -> None:
        """A late HELLO of the same process, from before it presented more, is no alert."""
        self.fleet.dial(self.pump, dial=2, link_generation=4).wire.cut()
        self.fleet.dial(self.pump, dial=1, link_generation=3)
        self.assertEqual(self.suspected(), 0)

    def test_alert_fades(self) -> None:
        """An alert that nothing repeats is gone from listings after a day."""
        self.come(link_generation=5)
        self.come(OTHER, link_generation=3).wire.cut()
        self.fleet.clock.advance(24 * 3600 - 60)
        self.assertEqual(len(self.row()["alerts"]), 1)
        self.fleet.clock.advance(120)
        self.assertEqual(self.row()["alerts"], [])

    def test_rows_are_bounded(self) -> None:
        """A clone that comes a hundred times leaves a handful of rows, and one alert."""
        for _ in range(50):
            self.come(link_generation=5).wire.cut()
            self.come(OTHER, link_generation=3).wire.cut()
        self.assertLessEqual(self.suspected(), 6)
        self.assertEqual(len(self.row()["alerts"]), 1)


class AlternationTests(CloneTestCase):
    def alternate(self, times: int, seconds: float = 1.0) -> None:
        """Let two agents displace each other so often."""
        self.come()
        for number in range(times):
            self.fleet.clock.advance(seconds)
            self.come(OTHER if number % 2 == 0 else b"I" * 16)

    def test_at_the_bound(self) -> None:
        """Five displacements of two instances are nothing; the sixth is an alert."""
        self.alternate(DISPLACEMENTS)
        self.assertEqual(self.suspected(), 0)
        self.fleet.clock.advance(1)
        self.come()
        self.assertEqual(self.suspected(), 1)
        self.assertIn("displaced each other", self.row()["alerts"][0])

    def test_slowly(self) -> None:
        """As many over a longer time are nothing."""
        self.alternate(3 * DISPLACEMENTS, WITHIN_SECONDS / DISPLACEMENTS + 1)
        self.assertEqual(self.suspected(), 0)

    def test_crash_loop(self) -> None:
        """An agent that is started over and over is a new process each time: no clone."""
        for number in range(30):
            self.come(bytes([number]) * 16)
        self.assertEqual(self.suspected(), 0)

    def test_flapping_network(self) -> None:
        """One process on a network that flaps is no clone."""
        for _ in range(30):
            self.come()
        self.assertEqual(self.suspected(), 0)

    def test_metrics(self) -> None:
        """Displacements and alerts are counted."""
        self.alternate(DISPLACEMENTS + 1)
        sample = self.fleet.gateway.metrics.registry.get_sample_value
        self.assertEqual(sample("rshell_links_displaced_total"), DISPLACEMENTS + 1)
        self.assertEqual(sample("rshell_clone_alerts_total", {"kind": "alternation"}), 1)


class QuarantineTests(CloneTestCase):
    def test_by_the_gateway(self) -> None:
        """Set to quarantine, an older generation is refused and shuts the device out."""
        self.fleet.gateway.clones.action = "quarantine"
        good = self.come(link_generation=5)
        bad = self.come(OTHER, link_generation=3)
        self.assertEqual((bad.welcome, bad.told), (None, "clone-suspected"))
        self.assertEqual(good.told, "clone-suspected")
        self.assertEqual(self.come(link_generation=6).told, "clone-suspected")
        row = self.row()
        self.assertEqual(row["state"], "lost")
        self.assertRegex(row["quarantined"], r"^\d{4}-")

    def test_by_alternation(self) -> None:
        """Set to quarantine, two that displace each other are both out."""
        self.fleet.gateway.clones.action = "quarantine"
        for number in range(DISPLACEMENTS + 2):
            end = self.come(OTHER if number % 2 else b"I" * 16)
        self.assertEqual(end.told, "clone-suspected")
        self.assertIsNone(self.fleet.gateway.presence.find("pump-1"))

    def test_survives_a_restart(self) -> None:
        """A quarantine is stored."""
        self.ask(device="pump-1")
        self.fleet.crash()
        self.assertEqual(self.come().told, "clone-suspected")

    def test_by_an_operator(self) -> None:
        """An operator's quarantine ends the link, is audited, and names who asked."""
        end = self.come()
        row = self.ask(device="pump-1").answer()
        self.assertEqual(end.told, "clone-suspected")
        self.assertIsNotNone(row["quarantined"])
        self.assertEqual(len(self.fleet.audit("gateway.quarantine", operator="ann", opens=True)), 1)
        self.assertIn("ann", self.fleet.device("pump-1").quarantine_reason or "")

    def test_release(self) -> None:
        """After the release the next link wins, and what it presents is believed."""
        self.fleet.gateway.clones.action = "quarantine"
        self.come(link_generation=5)
        self.come(OTHER, link_generation=3)
        row = self.ask(device="pump-1", release=True).answer()
        self.assertEqual((row["quarantined"], row["alerts"]), (None, []))
        end = self.come(OTHER, link_generation=3)
        self.assertEqual(end.welcome.link_generation, 4)
        self.assertEqual(self.fleet.device("pump-1").link_generation, 3)

    def absence(self) -> str:
        ann = self.fleet.got(self.fleet.store.operator("ann"))
        assert ann is not None
        found = self.fleet.run(absence(self.fleet.gateway, ann, "pump-1"))
        assert found is not None
        return "; ".join(filter(None, found))

    def test_released_is_no_reason(self) -> None:
        """After the release the word on its absence is when that was, also after a restart."""
        self.come()
        self.ask(device="pump-1")
        self.assertEqual(self.come().told, "clone-suspected")
        self.assertIn("quarantined", self.absence())
        self.ask(device="pump-1", release=True)
        self.fleet.advance(60)
        text = self.absence()
        self.assertNotIn("quarantined", text)
        self.assertIn("released 1 min ago: by operator ann; its next link is let in", text)
        self.fleet.crash()
        self.assertIn("released 1 min ago: by operator ann", self.absence())
        talk = self.fleet.dial(self.ann).call("gateway.why", request={"device": "pump-1"})
        self.fleet.pump()
        kinds = [row["kind"] for row in talk.answer()]
        self.assertEqual(kinds[-2:], ["released", "now"])
        self.come().wire.cut()
        self.fleet.pump()
        self.assertNotIn("released", self.absence())
        self.assertNotIn("quarantined", self.absence())

    def test_before_it_ever_came(self) -> None:
        """Of a device that was never there it is told, too, that it is kept out, or was."""
        self.ask(device="pump-1")
        self.assertIn("quarantined", self.absence())
        self.ask(device="pump-1", release=True)
        self.assertTrue(self.absence().startswith("released "), self.absence())

    def test_quarantined_again(self) -> None:
        """What refuses it after a release is the last word again."""
        for _ in range(2):
            self.ask(device="pump-1")
            self.come()
            self.assertIn("refused: clone-suspected", self.absence())
            self.fleet.advance(1)
            self.ask(device="pump-1", release=True)
            self.fleet.advance(1)
        self.assertEqual(len(self.fleet.audit("device.released")), 2)

    def test_nothing_to_release(self) -> None:
        """Releasing what is not quarantined says nothing of why it is away."""
        self.come().wire.cut()
        self.fleet.pump()
        self.ask(device="pump-1", release=True)
        self.assertEqual(self.fleet.audit("device.released"), [])
        self.assertIn("; lost: ", self.absence())

    def test_while_judged(self) -> None:
        """A device whose row was read just before its quarantine is not let in."""
        self.fleet.threads.hold("read")
        end = self.come()
        self.fleet.run(self.fleet.gateway.clones.quarantine("pump-1", "test"))
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual((end.welcome, end.told), (None, "clone-suspected"))

    def test_unknown_device(self) -> None:
        """A device that is not there cannot be quarantined or released."""
        for release in (False, True):
            self.assertEqual(self.ask(device="pump-9", release=release).code, "not-found")
