"""A gateway that is killed gets its fleet back by itself: `make bench SECTIONS=comeback` measures
it with thousands of devices."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.processes import LONG
from tests.functional.storm import Storm, histogram

#: The full size takes a minute and two idle cores.
DEVICES = 2_000 if LONG else 120
#: A device's first spread is a second, later ones double: a gateway takes some seconds to start.
BACK_SECONDS = 30.0


class StormTests(SynchronousTestCase):
    timeout = 300

    def test_fleet_returns(self) -> None:
        """After SIGKILL and restart of the gateway 99 % of its devices are live within 30 s, and
        all of them soon; nobody is turned away, and they do not dial all at once."""
        with Storm(DEVICES) as storm:
            storm.start_gateway()
            storm.start_fleet(DEVICES / 200)
            self.assertTrue(storm.wait_live(120), storm.log_tail())
            # So that the gateway has told everybody over how long to spread their return.
            storm.rest(12 if LONG else 1)
            back = storm.strike(120)
            log = storm.log_text()
        told = histogram(back.back, 1.0)
        self.assertEqual(DEVICES, len(back.back), told)
        self.assertLessEqual(back.within(0.99) - back.listening, BACK_SECONDS, told)
        self.assertEqual([], back.for_good)
        self.assertLess(back.lag, 1.0, told)
        self.assertLess(back.busiest(), 0.5, histogram(back.dials, 0.1))
        self.assertEqual(DEVICES, back.metrics["rshell_devices_live"])
        self.assertNotIn("Traceback", log)
