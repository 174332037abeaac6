"""How many devices may come back, and telling the live ones in time (rules C6, L4)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from rshell.gateway.steering import (
    ADVISE_EVERY_SECONDS,
    EXPECTED_EVERY_SECONDS,
    HEARD_EVERY_SECONDS,
    LINKS_A_STEP,
    PACE_SECONDS,
)
from tests.gateway.fleet import DAY, FleetTestCase


class SteeringTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.advised: dict[str, list[int]] = {}

    def come(self, count: int) -> list[Any]:
        """Enrol and connect so many devices."""
        ends = []
        for _ in range(count):
            name = f"d{len(self.advised)}"
            told = self.advised[name] = []
            end = self.fleet.dial(self.fleet.enrol(name))
            end.link.advised = lambda advice, told=told: told.append(advice.retry_spread_ms)
            ends.append(end)
        return ends

    def rate(self, rate: float) -> None:
        """Let the gateway admit so many a second, so that few devices are a large fleet."""
        self.fleet.gateway.admission.rate = rate

    def test_welcome_tells(self) -> None:
        """WELCOME tells the fleet's size by the admission rate."""
        self.rate(0.5)
        ends = self.come(4)
        self.assertEqual([end.welcome.retry_spread_ms for end in ends], [2000, 4000, 6000, 8000])

    def test_advice_when_it_grew_by_half(self) -> None:
        """Links whose fleet has grown by half since are told anew, and no other (rule L4)."""
        self.rate(1)
        self.come(9)
        self.fleet.advance(ADVISE_EVERY_SECONDS + 1)
        self.assertEqual([len(told) for told in self.advised.values()], [1] * 6 + [0] * 3)
        self.assertEqual(self.advised["d0"], [9000])
        self.fleet.advance(3 * ADVISE_EVERY_SECONDS)
        self.assertEqual(self.advised["d0"], [9000])

    def test_small_fleets_are_left_alone(self) -> None:
        """Below a second a dialler's own jitter is enough."""
        self.come(20)
        self.fleet.advance(ADVISE_EVERY_SECONDS + 1)
        self.assertEqual({len(told) for told in self.advised.values()}, {0})

    def test_paced(self) -> None:
        """Advice goes out at a few hundred links a second."""
        self.come(2 * LINKS_A_STEP + 10)
        self.rate(1)
        counter = self.fleet.gateway.metrics.registry.get_sample_value
        counts = []
        for _ in range(int((ADVISE_EVERY_SECONDS + 2) / PACE_SECONDS)):
            self.fleet.advance(PACE_SECONDS)
            counts.append(int(counter("rshell_advices_total") or 0))
        steps = [after - before for before, after in pairwise(counts)]
        self.assertEqual(max(steps), LINKS_A_STEP)
        self.assertEqual(counts[-1], 2 * LINKS_A_STEP + 10)

    def test_expected_after_a_crash(self) -> None:
        """After a crash the first to return is told to expect the whole fleet back."""
        self.come(6)
        self.fleet.crash()
        self.rate(1)
        end = self.fleet.dial(self.pump)
        self.assertEqual(end.welcome.retry_spread_ms, 6000)

    def test_expected_of_the_last_day(self) -> None:
        """Devices that were not heard for a day are not expected any more."""
        for end in self.come(3):
            end.wire.cut()
        fleet = self.fleet.gateway.fleet
        self.fleet.advance(EXPECTED_EVERY_SECONDS + 1, step=1)
        self.assertEqual(fleet.size(), 3)
        self.fleet.clock.advance(DAY)
        self.fleet.advance(EXPECTED_EVERY_SECONDS + 1, step=1)
        self.assertEqual(fleet.size(), 0)

    def test_long_links_are_remembered(self) -> None:
        """A device on one link for an hour was last seen minutes before a crash, not an hour."""
        self.fleet.dial(self.pump)
        before = self.fleet.device("pump-1").last_seen
        self.fleet.advance(3600, step=1)
        after = self.fleet.device("pump-1").last_seen
        assert before is not None
        assert after is not None
        self.assertGreater(after - before, (3600 - HEARD_EVERY_SECONDS - 60) * 1e6)

    def test_older_link_does_not_write(self) -> None:
        """What is remembered names the epoch: a newer link's row stays."""
        from rshell.store.devices import Heard

        end = self.fleet.dial(self.pump)
        epoch = end.welcome.epoch
        before = self.fleet.device("pump-1").last_seen
        heard = [Heard(self.pump.owner, epoch - 1, 5), Heard("nobody", epoch, 5)]
        self.fleet.got(self.fleet.store.record_heard(heard))
        self.assertEqual(self.fleet.device("pump-1").last_seen, before)
        self.fleet.got(self.fleet.store.record_heard([]))

    def test_stop_leaves_no_timer(self) -> None:
        """A gateway that stopped has no timer left of its own."""
        self.fleet.run(self.fleet.gateway.stop())
        # The wheel keeps cancelled timers until their tick; none of them comes back.
        self.fleet.clock.advance(2 * HEARD_EVERY_SECONDS)
        self.assertEqual(self.fleet.clock.getDelayedCalls(), [])


class MetricsTests(FleetTestCase):
    def test_text(self) -> None:
        """The exposition has what an operator's alarms need, and parses."""
        from prometheus_client.parser import text_string_to_metric_families

        operator, device = self.both()
        device.wire.held = True
        self.fleet.advance(50)
        talk = operator.call("gateway.metrics")
        self.fleet.pump()
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(talk.answer()["text"])
            for sample in family.samples
        }
        self.assertEqual(values["rshell_devices_live"], 1)
        self.assertEqual(values["rshell_devices_suspect"], 1)
        self.assertEqual(values["rshell_admission_queue"], 0)
        self.assertGreater(values["rshell_descriptors_used"], 3)
        self.assertGreater(values["rshell_descriptors_limit"], 3)
        for name in ("strangers", "store_writes_waiting", "sessions", "admission_rate"):
            self.assertIn(f"rshell_{name}", values)

    def test_reactor_lag(self) -> None:
        """A turn that takes three seconds is seen as lag, for a minute."""
        lag = self.fleet.gateway.lag
        self.fleet.advance(5)
        self.assertLess(lag.worst(), 0.01)
        self.fleet.clock.advance(4)
        self.assertGreater(lag.worst(), 2.5)
        self.fleet.advance(70)
        self.assertLess(lag.worst(), 0.01)
