"""Who fell silent is asked, once and in time; nobody else is looked at more than need be."""

from __future__ import annotations

from typing import Any

from rshell.gateway import silences
from rshell.gateway.presence import SUSPECT_SECONDS, LiveDevice
from rshell.gateway.silences import LATE_SECONDS, LATE_TICKS
from rshell.link.clock import TICK_SECONDS
from tests.gateway.ends import DeviceEnd
from tests.gateway.fleet import FleetTestCase

#: More than one tick looks at.
MANY = 2 * LATE_TICKS + 5
BEAT = bytes.fromhex("0300000800000000") + b"heartbea"


class SilenceTests(FleetTestCase):
    def devices(self, count: int = MANY) -> list[DeviceEnd]:
        """Dial devices that arrive at the same moment."""
        return [self.fleet.dial(self.fleet.enrol(f"sim-{n}")) for n in range(count)]

    def pings(self, ends: list[DeviceEnd]) -> list[int]:
        """Return how many PINGs the gateway sent to each."""
        return [sum(data[0] == 3 for data in end.wire.gateway.sent) for end in ends]

    def looks(self) -> list[str]:
        """Return a list to which each device is added when it is looked at."""
        watched = self.fleet.gateway.probes.silences
        looks: list[str] = []
        wait = watched._wait

        def noted(live: LiveDevice, since: float) -> None:
            looks.append(live.device.name)
            wait(live, since)

        self.patch(watched, "_wait", noted)
        return looks

    def test_who_fell_silent(self) -> None:
        """Each device that falls silent is asked once; nobody else is."""
        ends = self.devices()
        silent, talks = ends[:-5], ends[-5:]
        for end in silent:
            end.wire.held = True
        self.fleet.advance(SUSPECT_SECONDS - 1)
        self.assertEqual([0] * len(ends), self.pings(ends))
        self.fleet.advance(1 + LATE_SECONDS + TICK_SECONDS)
        self.assertEqual([1] * len(silent), self.pings(silent))
        self.fleet.advance(LATE_SECONDS)
        self.assertEqual([1] * len(silent), self.pings(silent))
        self.assertEqual([0] * len(talks), self.pings(talks))

    def test_in_time(self) -> None:
        """One that falls silent is asked within a tick or two of becoming suspect."""
        for number, heard_after in enumerate((0.0, 7.1, 29.9, 44.99)):
            end = self.fleet.dial(self.fleet.enrol(f"sim-{number}"))
            end.wire.held = True
            self.fleet.clock.advance(heard_after)
            end.gateway_link.dataReceived(BEAT)
            self.fleet.advance(SUSPECT_SECONDS - TICK_SECONDS)
            self.assertEqual([0], self.pings([end]), heard_after)
            self.fleet.advance(3 * TICK_SECONDS)
            self.assertEqual([1], self.pings([end]), heard_after)

    def test_bounded(self) -> None:
        """One tick looks at a part of the devices only, however many are due."""
        self.patch(silences, "LEAST_LOOKS", 1)
        ends = self.devices()
        looks = self.looks()
        for _ in range(round((SUSPECT_SECONDS + LATE_SECONDS) / TICK_SECONDS) + 2):
            before = len(looks)
            self.fleet.advance(TICK_SECONDS)
            self.assertLessEqual(len(looks) - before, -(-MANY // LATE_TICKS))
        self.assertEqual({f"sim-{n}" for n in range(len(ends))}, set(looks))

    def test_seldom(self) -> None:
        """Who is heard with each heartbeat is looked at no more often than it is heard."""
        self.devices(10)
        looks = self.looks()
        self.fleet.advance(600)
        self.assertLess(len(looks), 10 * 600 / 25)

    def test_gone_before_it_is_looked_at(self) -> None:
        """Devices that are lost before their slot, or in the midst of it, are not asked."""
        ends = self.devices()
        for end in ends:
            end.wire.held = True
        self.fleet.advance(SUSPECT_SECONDS - 0.5)
        for end in ends[:-10]:
            end.wire.cut()
        self.fleet.advance(0.5 + TICK_SECONDS)
        for end in ends[-10:]:
            end.wire.cut()
        asked = self.pings(ends)
        self.assertEqual(0, sum(asked[:-10]))
        self.fleet.advance(2 * LATE_SECONDS)
        self.assertEqual(0, len(self.fleet.gateway.presence))
        self.assertEqual(asked, self.pings(ends))

    def test_many_links_of_one(self) -> None:
        """A device that comes back often is looked at once for its newest link, like any other."""
        end: Any = None
        for dial in range(1, 30):
            end = self.fleet.dial(self.pump, dial=dial)
            self.fleet.advance(1)
        looks = self.looks()
        self.fleet.advance(2 * SUSPECT_SECONDS)
        self.assertLessEqual(len(looks), 5)
        end.wire.held = True
        self.fleet.advance(SUSPECT_SECONDS + LATE_SECONDS)
        self.assertEqual([1], self.pings([end]))

    def test_nothing_is_kept(self) -> None:
        """Of devices that left, nothing is kept once their slot has passed."""
        ends = self.devices()
        for end in ends:
            end.wire.cut()
        self.fleet.advance(SUSPECT_SECONDS + 1)
        watched = self.fleet.gateway.probes.silences
        self.assertEqual(({}, []), (watched._slots, watched._due))
