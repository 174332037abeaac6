"""What the verbs leave behind, and how they behave beside each other, on a real fleet."""

from __future__ import annotations

import json

from tests.functional.fleet import FleetCase
from tests.functional.processes import children


class LeftBehindTests(FleetCase):
    """A verb that has ended has left nothing on the device."""

    def test_no_session_is_left(self) -> None:
        """After copies, listings and tails, also failed ones, no session waits on a device."""
        agent = self.added("left-1", "site=left")
        other = self.added("left-2", "site=left")
        here = self.fleet.base / "left-here"
        here.mkdir()
        (here / "file").write_bytes(b"content\n")
        there = self.fleet.base / "left-there"
        there.mkdir()
        cases = [
            (0, ["cp", str(here / "file"), f"left-1:{there}/"]),
            (0, ["cp", "-r", f"left-1:{there}", f"left-2:{there}-2"]),
            (0, ["cp", f"left-2:{there}/file", str(here / "back")]),
            (255, ["cp", str(here / "file"), f"left-1:{there}/none/"]),
            (1, ["cp", f"left-1:{there}/none", str(here)]),
            (0, ["cp", "-n", str(here / "file"), f"left-1:{there}/planned"]),
            (0, ["ls", f"left-1:{there}"]),
            (1, ["cat", f"left-1:{there}/file", f"left-2:{there}/none"]),
            (0, ["tail", f"site=left:{there}/file"]),
            (0, ["rm", "-ry", f"left-2:{there}-2"]),
        ]
        for status, words in cases:
            with self.subTest(words):
                self.assert_status(status, self.fleet.rshell(*words))
        done = self.fleet.rshell("sessions", "--json", "--all", "site=left")
        self.assertEqual([], json.loads(done.stdout))
        for device in (agent, other):
            self.assertEqual([], children(device.keeper_pid()))

    def test_a_missing_folder_is_named(self) -> None:
        """A copy whose destination does not do says which place that is, in words and in JSON."""
        here = self.fleet.base / "named"
        here.write_bytes(b"x")
        place = f"pump-1:{self.fleet.base}/no-such-folder/"
        done = self.fleet.rshell("cp", str(here), place)
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(place.encode(), done.stderr)
        told = self.fleet.rshell("cp", "--json", str(here), place)
        (line,) = told.stdout.splitlines()
        self.assertIn(place, json.loads(line)["outcome"]["message"])
