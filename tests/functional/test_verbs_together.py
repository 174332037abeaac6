"""What the verbs leave behind, and how they behave beside each other, on a real fleet."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.functional.fleet import FleetCase
from tests.functional.processes import CLI, children, until


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


class AwayTests(FleetCase):
    """A device that is away: every verb says so at once, in words and in JSON."""

    def test_every_verb_says_so(self) -> None:
        """One line that names the device, status 255; with --json the code is offline."""
        agent = self.added("absent-1")
        agent.kill()
        until(lambda: self.fleet.device("absent-1")["state"] == "lost", self.fleet.log_tail)
        here = self.fleet.base / "away-here"
        here.write_bytes(b"x")
        verbs = [
            ["cp", str(here), "absent-1:/tmp/"],
            ["ls", "absent-1:/tmp"],
            ["cat", "absent-1:/etc/hostname"],
            ["rm", "-y", "absent-1:/tmp/away"],
            ["tail", "absent-1:/etc/hostname"],
            ["reboot", "absent-1"],
            ["reboot", "--status", "absent-1"],
            ["reboot", "--cancel", "absent-1"],
            ["run", "absent-1", "--", "true"],
            ["run", "--confirm", "9", "--rollback", "true", "absent-1", "--", "true"],
            ["call", "absent-1", "sftp"],
            ["facts", "--refresh", "absent-1"],
        ]
        for json_too in (False, True):
            started = [
                self.fleet.start(self.fleet.cli(verb, *(["--json"] if json_too else []), *words))
                for verb, *words in verbs
            ]
            for words, program in zip(verbs, started, strict=True):
                with self.subTest(words, json=json_too):
                    done = program.finish(b"")
                    self.assert_status(255, done)
                    if json_too and words[0] != "ls":  # one array; its errors are words
                        for line in done.stdout.splitlines():
                            json.loads(line)
                        self.assertIn(b'"code":"offline"', done.stdout, done)
                    else:
                        self.assert_one_line(done.stderr)
                        self.assertIn(b"absent-1", done.stderr)
                        self.assertIn(b"offline", done.stderr)


class RevokedTests(FleetCase):
    """An operator who is revoked at work."""

    def test_all_that_they_do_ends(self) -> None:
        """Copy, tail, forward and command end with 255 and a line; the device is rid of them."""
        agent = self.added("parted-1")
        own = self.fleet.base / "parted-operator"
        string = self.fleet.invite("operator", "parted", "--role", "admin")
        self.assert_status(0, self.fleet.command([*CLI, "--home", str(own), "join", "-"], string))
        big = self.fleet.base / "parted-big"
        big.write_bytes(os.urandom(4 << 20))
        log = self.fleet.base / "parted.log"
        log.write_bytes(b"begun\n")
        started = {
            verb: self.fleet.start([*CLI, "--home", str(own), verb, *words])
            for verb, *words in (
                ["cp", "--limit", "200k", str(big), f"parted-1:{big}-there"],
                ["tail", "-f", f"parted-1:{log}"],
                ["run", "parted-1", "--", "sleep", "60"],
                ["forward", "parted-1", "0:localhost:1"],
            )
        }
        # The last of these two lines says that the forward listens; the keeper has the rest.
        for verb in ("tail", "forward"):
            output = started[verb].process.stdout
            assert output is not None
            self.assertTrue(output.readline())
        keeper = agent.keeper_pid()
        until(lambda: len(children(keeper)) == 3, lambda: str(children(keeper)), 20)
        with self.quiet_gateway(self.fleet):
            self.assert_status(0, self.fleet.rshell("revoke", "operator", "parted"))
            for verb, program in started.items():
                with self.subTest(verb):
                    done = program.finish(seconds=30)
                    self.assert_status(255, done)
                    self.assertIn(b"rshell: ", done.stderr)
                    self.assertIn(b"revoked", done.stderr)
            until(lambda: not children(keeper), lambda: str(children(keeper)), 20)
        self.assertFalse(Path(f"{big}-there").exists())
