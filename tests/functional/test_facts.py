"""Facts of real devices: told by themselves, asked for, listed, and chosen by."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.functional.fleet import FleetCase
from tests.functional.processes import until


class FactsTests(FleetCase):
    def told(self, device: str, *words: str) -> Any:
        """Return what a device told, once it has."""

        def answer() -> Any:
            done = self.fleet.rshell("facts", device, "--json", *words)
            self.assert_status(0, done)
            answer = json.loads(done.stdout)
            return answer if answer["received_at"] or "--refresh" in words else None

        return until(answer, "facts", 30, 0.2)

    def test_told(self) -> None:
        """Every device tells what it is soon after it has connected."""
        told = self.told("pump-1")
        facts = told["facts"]
        self.assertEqual(("pump-1", "live"), (told["device"], told["state"]))
        self.assertEqual(os.uname().release, facts["kernel"])
        self.assertIn("/", [disk["mount"] for disk in facts["disks"]])
        self.assertGreater(facts["memory"]["total_bytes"], 2**20)
        self.assertIn("exec", facts["handlers"])
        self.assertNotEqual("", facts["os"])

    def test_refreshed(self) -> None:
        """Asked anew, the device looks again; by name it tells only that."""
        first = self.told("pump-1", "--refresh", "uptime_seconds")["facts"]["uptime_seconds"]
        up = float(open("/proc/uptime").read().split()[0])  # noqa: SIM115  # read once
        self.assertLess(abs(up - first), 60)
        by_call = self.fleet.rshell("call", "pump-1", "facts", "names=cpus", "names=os")
        self.assert_status(0, by_call)
        self.assertEqual({"cpus", "os"}, set(json.loads(by_call.stdout)))

    def test_chosen(self) -> None:
        """Facts choose devices for listings and for commands, together with labels."""
        system = self.told("pump-1")["facts"]["os"]
        self.told("valve-1")
        selector = f"facts.os={system},site=berlin"
        listed = self.fleet.rshell("devices", selector, "--columns", "name,labels.site,facts.os")
        self.assertEqual(
            [["NAME", "SITE", "OS"], ["pump-1", "berlin", system], ["valve-1", "berlin", system]],
            [line.split() for line in listed.stdout.decode().splitlines()],
        )
        ran = self.run_on(selector, "true")
        self.assert_status(0, ran)
        nothing = self.run_on("facts.os=plan9", "true")
        self.assert_status(255, nothing)
        wide = self.fleet.rshell("devices", "-o", "wide").stdout.decode()
        self.assertIn(os.uname().release, wide)

    def test_wrong(self) -> None:
        """What cannot be is said in a line: no device, no such fact, a label like a fact."""
        for words, status, said in (
            (("facts", "nobody"), 255, b"nobody"),
            (("facts", "pump-1", "colour"), 255, b"tells no colour; it tells: hostname"),
            (("label", "pump-1", "facts.os=x"), 2, b"is no label"),
            (("devices", "facts.=x"), 2, b"a fact has a name"),
            (("invite", "device", "--label", "facts.os=x"), 2, b"is no label"),
        ):
            done = self.fleet.rshell(*words)
            self.assertEqual(status, done.status, done)
            self.assertIn(said, done.stderr)
            self.assertNotIn(b"Traceback", done.stderr)
