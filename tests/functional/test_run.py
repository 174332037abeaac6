"""``rshell run``: exit statuses, streams, several devices, JSON and selectors."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.functional.fleet import FleetCase
from tests.functional.processes import Finished


def lines_of(done: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


class ExitStatusTests(FleetCase):
    def test_own_status(self) -> None:
        """The command's own exit status is ours."""
        for status in (0, 1, 3, 200, 255):
            done = self.run_on("pump-1", "sh", "-c", f"exit {status}")
            self.assert_status(status, done)
            self.assertEqual((b"", b""), (done.stdout, done.stderr))

    def test_signal(self) -> None:
        """A command that a signal ended gives 128 and the signal's number."""
        for number in (9, 15, 1):
            self.assert_status(128 + number, self.run_on("pump-1", f"kill -{number} $$"))

    def test_unknown_device(self) -> None:
        """A device that does not exist gives 255 and one line that names it."""
        done = self.run_on("nowhere", "true")
        self.assert_status(255, done)
        self.assertEqual(b"", done.stdout)
        self.assert_one_line(done.stderr)
        self.assertIn(b"nowhere", done.stderr)

    def test_offline(self) -> None:
        """A device that is away gives 255 and says since when, why, and whether it checks in."""
        agent = self.added("away-1")
        agent.stop()
        words = (
            r"away-1 is offline: last seen .* UTC; away for .*; lost: .*; it does not check in, .*"
        )
        done = self.run_on("away-1", "true")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertRegex(done.stderr.decode(), rf"\Arshell: {words} \(see: rshell why away-1\)\n\Z")
        told = self.fleet.rshell("--json", "run", "away-1", "--", "true")
        outcome = json.loads(told.stdout.splitlines()[-1])["outcome"]
        self.assertEqual(("offline", "offline"), (outcome["status"], outcome["code"]))
        self.assertRegex(outcome["message"], rf"\A{words}\Z")

    def test_never_seen(self) -> None:
        """A device that joined and never connected is offline too."""
        agent = self.fleet.join("never-1")
        self.addCleanup(self.fleet.remove, agent)
        done = self.run_on("never-1", "true")
        self.assert_status(255, done)
        self.assertIn(b"never-1 is offline", done.stderr)
        self.assertEqual("never", self.fleet.device("never-1")["state"])

    def test_refused_login(self) -> None:
        """A login that the device's policy does not allow gives 255 and names the login."""
        done = self.fleet.run("pump-1", "--as", "daemon", "--", "id")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"daemon", done.stderr)
        self.assertIn(b"policy", done.stderr)

    def test_command_not_found(self) -> None:
        """A command that does not exist gives 255, and one line that names it."""
        done = self.run_on("pump-1", "/no/such/program", "now")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"/no/such/program", done.stderr)

    def test_not_executable(self) -> None:
        """A file that is no program gives 255, and the reason."""
        done = self.run_on("pump-1", "/etc/passwd", "now")
        self.assert_status(255, done)
        self.assertIn(b"ermission denied", done.stderr)

    def test_timeout(self) -> None:
        """A command that takes too long is ended and gives 124."""
        done = self.fleet.run("pump-1", "--timeout", "0.5", "--", "sleep", "60")
        self.assert_status(124, done)
        self.assertLess(done.seconds, 8)
        self.assertIn(b"pump-1", done.stderr)

    def test_in_time(self) -> None:
        """A limit that is not reached changes nothing."""
        self.assert_status(4, self.fleet.run("pump-1", "--timeout", "30", "--", "exit 4"))


class StreamTests(FleetCase):
    def test_separate(self) -> None:
        """stdout stays on stdout and stderr on stderr."""
        done = self.run_on("pump-1", "echo out; echo err >&2; echo more")
        self.assert_status(0, done)
        self.assertEqual((b"out\nmore\n", b"err\n"), (done.stdout, done.stderr))

    def test_words_stay_words(self) -> None:
        """Several words reach the program as they are: no shell looks at them."""
        words = ["a b", "", "$HOME", "*", "x'y\"z", "\\n", "ü"]
        done = self.run_on("pump-1", "printf", r"%s\n", *words)
        self.assertEqual(words, done.stdout.decode().split("\n")[:-1])

    def test_words_that_are_no_text(self) -> None:
        """Arguments need not be UTF-8."""
        done = self.run_on("pump-1", "printf", "%s", b"a\xff\xfeb")
        self.assertEqual(b"a\xff\xfeb", done.stdout)

    def test_environment(self) -> None:
        """The command sees the login's environment, none of the agent's own."""
        done = self.run_on("pump-1", "env", "-0")
        names = {entry.partition(b"=")[0] for entry in done.stdout.split(b"\0")}
        self.assertLessEqual({b"HOME", b"PATH", b"USER"}, names)
        self.assertNotIn(b"PYTHONPATH", names)

    def test_single_by_selector(self) -> None:
        """A selector that picks one device behaves as its name."""
        done = self.run_on("site=oslo", "cat; exit 7", data=b"input\n")
        self.assert_status(7, done)
        self.assertEqual(b"input\n", done.stdout)


class SeveralTests(FleetCase):
    def test_prefixes(self) -> None:
        """With several devices each line has its device in front, on its own stream."""
        done = self.run_on("pump-*", "echo one; echo two; echo bad >&2")
        self.assert_status(0, done)
        expected = [f"{name}: {word}" for name in ("pump-1", "pump-2") for word in ("one", "two")]
        self.assertEqual(expected, sorted(done.stdout.decode().splitlines()))
        self.assertEqual(["pump-1: bad", "pump-2: bad"], sorted(done.stderr.decode().splitlines()))

    def test_no_prefix(self) -> None:
        """--no-prefix leaves the names out."""
        done = self.fleet.run("pump-*", "--no-prefix", "--", "echo same")
        self.assertEqual(b"same\nsame\n", done.stdout)

    def test_one_fails(self) -> None:
        """One device that fails makes the status 1, and is named."""
        script = "case $(cat /proc/$PPID/cmdline | tr '\\0' ' ') in *pump-2*) exit 9;; esac"
        done = self.run_on("pump-*", script)
        self.assert_status(1, done)
        self.assertIn(b"pump-2: exit status 9", done.stderr)
        self.assertNotIn(b"pump-1", done.stderr)

    def test_one_is_away(self) -> None:
        """A device that is away counts as failed; the others still run."""
        agent = self.added("away-2", "site=paris")
        agent.stop()
        done = self.run_on("name in (pump-1,away-2)", "echo here")
        self.assert_status(1, done)
        self.assertEqual(b"pump-1: here\n", done.stdout)
        self.assertIn(b"away-2: offline", done.stderr)

    def test_input_is_not_shared(self) -> None:
        """Several devices get no input: a command that reads it sees the end at once."""
        done = self.run_on("pump-*", "wc -c", data=b"secret")
        self.assertEqual(["pump-1: 0", "pump-2: 0"], sorted(done.stdout.decode().splitlines()))


class JsonTests(FleetCase):
    def test_streams_and_outcome(self) -> None:
        """--json prints one object a piece of output, and the outcome last."""
        done = self.fleet.run("pump-1", "--json", "--", "echo out; echo err >&2; exit 3")
        self.assert_status(3, done)
        self.assertEqual(b"", done.stderr)
        *output, last = lines_of(done)
        pieces = {piece["stream"]: piece for piece in output}
        self.assertEqual(
            {"device": "pump-1", "stream": "stdout", "data": "out\n"}, pieces["stdout"]
        )
        self.assertEqual(
            {"device": "pump-1", "stream": "stderr", "data": "err\n"}, pieces["stderr"]
        )
        self.assertEqual(("exit", 3), (last["outcome"]["status"], last["outcome"]["exit_code"]))
        self.assertEqual("pump-1", last["device"])

    def test_bytes(self) -> None:
        """Output that is no UTF-8 comes as base64."""
        done = self.fleet.run("pump-1", "--json", "--", r"printf '\377\000'")
        first = lines_of(done)[0]
        self.assertEqual(b"\xff\x00", base64.b64decode(first["data_b64"]))
        self.assertNotIn("data", first)

    def outcome(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        done = self.fleet.run("--json", *arguments)
        self.assertNotIn(b"Traceback", done.stderr)
        last = lines_of(done)[-1]
        self.assertIn("outcome", last, done)
        outcome: dict[str, Any] = last["outcome"]
        return done.status, outcome

    def test_outcomes(self) -> None:
        """Each way to end has its status word, and its code where it failed."""
        status, outcome = self.outcome("pump-1", "--", "true")
        self.assertEqual((0, "ok"), (status, outcome["status"]))
        status, outcome = self.outcome("pump-1", "--", "kill -9 $$")
        self.assertEqual((137, "signal"), (status, outcome["status"]))
        status, outcome = self.outcome("pump-1", "--timeout", "0.3", "--", "sleep", "9")
        self.assertEqual((124, "timeout"), (status, outcome["status"]))
        status, outcome = self.outcome("nowhere", "--", "true")
        self.assertEqual((255, "refused"), (status, outcome["status"]))
        self.assertEqual("not-found", outcome["code"])
        status, outcome = self.outcome("pump-1", "--as", "daemon", "--", "true")
        self.assertEqual((255, "refused", "policy"), (status, outcome["status"], outcome["code"]))
        status, outcome = self.outcome("pump-1", "--", "/no/such/program", "x")
        self.assertEqual((255, "not-found"), (status, outcome["code"]))
        self.assertIn("/no/such/program", outcome["message"])

    def test_offline_outcome(self) -> None:
        """A device that is away has the outcome ``offline``, by name and by selector."""
        agent = self.added("away-3", "site=rome")
        agent.stop()
        for selector in ("away-3", "site=rome"):
            status, outcome = self.outcome(selector, "--", "true")
            self.assertEqual(
                (255, "offline", "offline"), (status, outcome["status"], outcome["code"])
            )

    def test_every_device_has_an_outcome(self) -> None:
        """With several devices there is exactly one outcome for each."""
        done = self.fleet.run("--json", "*-1,site=berlin", "--", "echo hi")
        ends = [line["device"] for line in lines_of(done) if "outcome" in line]
        self.assertEqual(["pump-1", "valve-1"], sorted(ends))

    def test_listing(self) -> None:
        """`devices --json` is one array whose rows have what programs rely upon."""
        row = self.fleet.device("pump-1")
        self.assertEqual("live", row["state"])
        self.assertEqual({"site": "berlin"}, row["labels"])
        self.assertLessEqual({"exec", "shell"}, set(row["handlers"]))
        self.assertGreater(row["epoch"], 2**32)
        self.assertRegex(row["address"], r"^127\.0\.0\.1:\d+$")
        self.assertTrue(row["gateway"])
        self.assertTrue(row["agent_version"])
        for key in ("connected_at", "last_seen"):
            self.assertRegex(row[key], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


class SelectorTests(FleetCase):
    def picked(self, selector: str) -> list[str]:
        names = sorted(row["name"] for row in self.fleet.devices(selector))
        return [name for name in names if name in ("pump-1", "pump-2", "valve-1")]

    def test_kinds(self) -> None:
        """Names, globs, labels and sets pick what they say; a comma means AND."""
        for selector, expected in {
            "pump-1": ["pump-1"],
            "pump-*": ["pump-1", "pump-2"],
            "*-1": ["pump-1", "valve-1"],
            "site=berlin": ["pump-1", "valve-1"],
            "site!=berlin": ["pump-2"],
            "site in (oslo,paris)": ["pump-2"],
            "site notin (oslo)": ["pump-1", "valve-1"],
            "pump-*,site=berlin": ["pump-1"],
            "state=live,site=oslo": ["pump-2"],
            "!site": [],
        }.items():
            self.assertEqual(expected, self.picked(selector), selector)

    def test_label_verb(self) -> None:
        """A label set and removed by `label` counts at once."""
        self.assert_status(0, self.fleet.rshell("label", "pump-2", "tier=test"))
        self.assertEqual(["pump-2"], self.picked("tier=test"))
        self.assert_status(0, self.fleet.rshell("label", "pump-2", "tier-"))
        self.assertEqual([], self.picked("tier=test"))

    def test_malformed(self) -> None:
        """A selector that cannot be read is wrong usage: 2, and it says where."""
        for selector in ("site in (a", "=x", "", "a b", "site in ()x", "pump-1,,", "UPPER"):
            done = self.run_on(selector, "true")
            self.assert_status(2, done)
            self.assertTrue(done.stderr.startswith(b"rshell: "), done.stderr)

    def test_malformed_json(self) -> None:
        """With --json the same has a code."""
        done = self.fleet.run("--json", "site in (a", "--", "true")
        self.assert_status(2, done)
        self.assertEqual("bad-selector", json.loads(done.stdout)["error"]["code"])

    def test_nothing_matched(self) -> None:
        """A selector that picks nothing gives 255 and says so."""
        done = self.run_on("site=atlantis", "true")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"site=atlantis", done.stderr)
        done = self.fleet.run("--json", "site=atlantis", "--", "true")
        self.assert_status(255, done)
        self.assertEqual("no-match", json.loads(done.stdout)["error"]["code"])
