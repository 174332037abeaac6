"""Dead links are noticed, living ones are not doubted, and the newest link is the device."""

from __future__ import annotations

from rshell.testing import SimulatedFleet
from tests.guarantees.case import LONG, GuaranteeCase

#: The wheel may be late by one tick.
TICK = 0.25


class HalfOpenTests(GuaranteeCase):
    def test_noticed(self) -> None:
        """A link without FIN or RST: the agent knows within 45 s, the gateway within 60 s."""
        for _ in range(3):
            self.settle()
            began = self.fleet.clock.seconds()
            wire = self.fleet.wire("pump-1")
            self.fleet.freeze("pump-1")
            agent = self.fleet.run_until(lambda: not self.pump.connected, 100)
            self.fleet.run_until(lambda: not self.fleet.is_live("pump-1"), 100)
            self.assertLessEqual(agent, 45 + TICK)
            self.assertLessEqual(self.fleet.clock.seconds() - began, 60 + TICK)
            self.fleet.pump()
            self.assertTrue(wire.over)
            self.fleet.thaw("pump-1")

    def test_not_doubted(self) -> None:
        """A link on which nothing happens for hours stays the same link."""
        wire = self.fleet.wire("pump-1")
        self.fleet.advance((24 if LONG else 4) * 3600)
        self.assertFalse(wire.over)
        self.assertTrue(self.fleet.is_live("pump-1"))
        self.assertEqual(self.fleet.network.count, 3)  # keeper, device, operator

    def test_ghost(self) -> None:
        """A device that returns replaces its ghost at once: a command a second later works."""
        self.settle()
        ghost = self.fleet.wire("pump-1")
        self.fleet.freeze(ghost)
        self.fleet.crash("pump-1")
        self.fleet.advance(1)
        # The gateway believes in the old link still.
        self.assertTrue(self.fleet.is_live("pump-1"))
        self.fleet.start("pump-1")
        self.fleet.run_until(lambda: self.pump.connected, 5)
        self.fleet.advance(1)
        began = self.fleet.clock.seconds()
        self.finish(self.exchange(1000), limit_seconds=2)
        self.assertLess(self.fleet.clock.seconds() - began, 1)
        self.assertEqual(len(self.fleet.gateway.core.devices.links()), 1)

    def test_suspended(self) -> None:
        """A machine that slept for an hour is back within seconds of waking up."""
        self.settle()
        self.fleet.suspend("pump-1", 3600)
        self.fleet.advance(3599)
        self.assertFalse(self.fleet.is_live("pump-1"))
        self.fleet.advance(2)
        took = self.fleet.run_until(self.connected, 120)
        self.assertLess(took, 60)
        self.finish(self.exchange(1000))


class EpochTests(GuaranteeCase):
    def epoch(self) -> int:
        """Return the epoch of the device's link."""
        self.fleet.run_until(lambda: self.fleet.is_live("pump-1"))
        entry = self.fleet.gateway.core.presence.find(self.pump.id)
        assert entry is not None
        return entry.epoch

    def test_late_hello(self) -> None:
        """A HELLO that waited in some queue does not displace a newer link."""
        before = self.epoch()
        late = self.fleet.duplicate_connect("pump-1", dial=0 + 1)
        assert late.goaway is not None
        self.assertEqual(late.goaway.code, "duplicate")
        self.assertEqual(self.epoch(), before)

    def test_newer_wins(self) -> None:
        """The newest accepted link is the device, at once; the older one waits before it dials."""
        before = self.epoch()
        newer = self.fleet.duplicate_connect("pump-1")
        self.assertIsNotNone(newer.welcome)
        self.assertGreater(self.epoch(), before)
        self.fleet.pump()
        self.assertFalse(self.pump.connected)
        newer.link.abort("the test is over")
        waited = self.fleet.run_until(lambda: self.pump.connected, 120)
        self.assertGreaterEqual(waited, 59)

    def test_epochs_rise(self) -> None:
        """Epochs rise over reconnects, restarts and kills of the gateway."""
        seen = [self.epoch()]
        for what in ("pump-1", "gateway"):
            self.fleet.crash(what)
            self.fleet.start(what)
            self.fleet.run_until(self.connected, 300)
            seen.append(self.epoch())
        self.fleet.restart_gateway()
        self.fleet.run_until(self.connected, 300)
        seen.append(self.epoch())
        self.assertEqual(seen, sorted(set(seen)))

    def test_clones(self) -> None:
        """Two machines with one identity raise an alert, and do not beat each other to death."""
        self.settle()
        self.fleet.clone("pump-1")
        self.fleet.advance(3600)
        (device,) = self.fleet.run(self.ann.client.devices())
        self.assertTrue(device.alerts, device)
        links = self.fleet.audit("device.connected")
        # Each waits a minute, then two, then four ... before it takes the name back.
        self.assertLess(len(links), 40)

    def test_quarantine(self) -> None:
        """A quarantined device is kept out until it is released."""
        self.settle()
        self.fleet.run(self.ann.client.quarantine("pump-1"))
        self.fleet.advance(60)
        self.assertFalse(self.fleet.is_live("pump-1"))
        self.fleet.run(self.ann.client.quarantine("pump-1", release=True))
        self.fleet.crash("pump-1")
        self.fleet.start("pump-1")
        self.fleet.run_until(self.connected, 60)


class ClockTests(GuaranteeCase):
    def step(self, who: str, seconds: float) -> None:
        """Set a clock wrong, wait for ten minutes, and see that nothing has happened."""
        wire = self.fleet.wire("pump-1")
        shell = self.exchange(1000)
        self.finish(shell)
        self.fleet.step_wall_clock(who, seconds)
        self.fleet.advance(600)
        self.assertFalse(wire.over, f"{who} stepped by {seconds:+}")
        self.assertTrue(self.fleet.is_live("pump-1"))
        self.finish(self.exchange(1000))

    def test_steps(self) -> None:
        """Clocks that jump by an hour, or to 1970 and back, on either side, drop no link."""
        since_1970 = self.fleet.gateway.wall()
        for who in ("pump-1", "gateway"):
            for seconds in (-3600, 3600, 3600 - since_1970, since_1970 - 3600):
                self.step(who, seconds)

    def test_born_in_1970(self) -> None:
        """A device that starts in 1970 is admitted like any other."""
        self.fleet.crash("pump-1")
        self.fleet.step_wall_clock("pump-1", -self.pump.wall())
        self.fleet.start("pump-1")
        self.fleet.run_until(self.connected, 60)
        self.finish(self.exchange(1000))


class SeedTests(GuaranteeCase):
    def history(self, seed: int) -> str:
        """Return the history of a small life."""
        with SimulatedFleet(seed) as fleet:
            fleet.fragment()
            fleet.add_device("pump-1")
            ann = fleet.add_operator("ann")
            for _ in range(3):
                fleet.cut("pump-1")
                fleet.run(ann.client.run("pump-1", line="cat", input=b"x" * 5000))
                fleet.advance(200)
            fleet.crash("gateway")
            fleet.start("gateway")
            fleet.advance(200)
            return fleet.history

    def test_same_seed_same_history(self) -> None:
        """What the kit simulates is decided by the seed alone."""
        self.assertEqual(self.history(5), self.history(5))
        self.assertNotEqual(self.history(5), self.history(6))
