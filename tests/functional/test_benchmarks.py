"""The benchmarks' simulated fleet at a real gateway, in its smallest form."""

from __future__ import annotations

import json
import time

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import proc
from benchmarks import site as site_module
from benchmarks.site import Site


class SimulatedFleetTests(SynchronousTestCase):
    timeout = 180

    def test_fleet(self) -> None:
        """Simulated devices go live at a real gateway in the order of their numbers, serve
        operators, and return to the next gateway after SIGKILL of theirs."""
        self.patch(site_module, "DEVICES_PER_PROCESS", 2)
        with Site() as site:
            site.enrol_crowd(4)
            site.start_gateway()
            site.start_crowd()
            operator = site.operator()
            site.grow_crowd(3, 0.0, 60)
            asked = {"do": "many", "prefix": "sim-", "count": 3, "at_once": 4}
            self.assertEqual({"ok": 3}, operator.ask(json.dumps(asked))["statuses"])
            site.grow_crowd(4, 0.0, 60)
            asked = {"do": "many", "prefix": "sim-", "count": 4, "at_once": 4}
            self.assertEqual({"ok": 4}, operator.ask(json.dumps(asked))["statuses"])
            told = operator.ask('{"do": "devices", "selector": "site=s3", "count": 1}')
            self.assertEqual(1, told["found"])
            self.assertGreater(site.gateway_cpu(), 0)
            self.assertGreater(proc.busy_seconds(site.gateway_pid), 0)
            self.assertGreater(proc.slab_kb(), 0)
            self.assertGreater(proc.network_bytes(), 0)
            self.assertGreater(site.gateway_memory().own, 1_000)
            site.age_crowd(60)
            killed = time.monotonic()
            site.kill_gateway()
            self.assertRaises(OSError, proc.cpu_seconds, site.gateway_pid)
            site.restart_gateway()
            site.wait_crowd(4, 120, killed)
            self.assertNotIn("Traceback", site.log_text())
