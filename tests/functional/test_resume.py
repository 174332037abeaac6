"""A command whose links are cut, frozen and killed: every byte once, and it ran once (R1 to R7)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

from tests.functional.processes import LONG, environment, fds, lasting, state, until
from tests.functional.relay import DOWN, UP, Relay
from tests.functional.relayed import DEVICE, RelayedCase, RelayedFleet, Transfer
from tests.functional.terminal import Terminal

MIB = 1 << 20
#: Bytes a second: no machine is done before the test has cut what it wanted to cut.
SLOW = 3e6


class CutTests(RelayedCase):
    def _cut_repeatedly(self, relay: Relay, transfer: Transfer, seed: int, times: int) -> None:
        """Cut after so many bytes, each time somewhere else, in one direction and the other."""
        places = random.Random(seed)
        for number in range(times):
            before = relay.accepted
            direction = (UP, DOWN)[number % 2]
            relay.cut_after(places.randrange(1, 200_000), direction)
            self.wait_cut(relay, before)
        relay.rate = 0
        transfer.check()

    def test_operator_cut(self) -> None:
        """The operator's link is cut six times within a transfer."""
        relay = self.fleet.operator_side
        relay.rate = SLOW
        transfer = Transfer(self, self.fleet, 4 * MIB)
        transfer.reaches(0.01)
        self._cut_repeatedly(relay, transfer, 1, 6)

    def test_device_cut(self) -> None:
        """The device's link is cut twice within a transfer."""
        relay = self.fleet.device_side
        relay.rate = SLOW
        transfer = Transfer(self, self.fleet, 4 * MIB)
        transfer.reaches(0.01)
        self._cut_repeatedly(relay, transfer, 2, 2)

    def test_both_cut(self) -> None:
        """Both links are cut at once, and the operator's again while it comes back."""
        near, far = self.fleet.operator_side, self.fleet.device_side
        near.rate = SLOW
        transfer = Transfer(self, self.fleet, 6 * MIB)
        for share in (0.1, 0.4):
            transfer.reaches(share)
            before = near.accepted, far.accepted
            near.cut()
            far.cut()
            self.wait_cut(near, before[0])
            near.cut_after(3000, UP)
            self.wait_cut(far, before[1])
            self.wait_cut(near, before[0] + 1)
        transfer.check()

    def test_cut_near_the_end(self) -> None:
        """Whatever byte of the last answers the operator's link loses, the status is right."""
        relay, fleet = self.fleet.operator_side, self.fleet
        ran = self.file("ran")
        command = fleet.far_cli("run", DEVICE, "-n", "--", f"echo ran >> {ran}; exit 3")
        before = dict(relay.passed)
        self.assertEqual(3, fleet.command(command).status)
        total = {name: relay.passed[name] - before[name] for name in before}
        # Some 30 bytes more or less are a signature's; the handshake is not cut, nor the WELCOME.
        for direction, short in ((DOWN, (1, 60, 120)), (UP, (1, 60, 120, 180, 240))):
            for less in short:
                ran.write_text("")
                relay.cut_after(total[direction] - less, direction)
                done = fleet.command(command)
                told = (direction, less, total, done)
                self.assertEqual((3, "ran\n"), (done.status, ran.read_text()), told)

    def test_ends_while_away(self) -> None:
        """What a command wrote at its end, and its status, wait for an operator who is away."""
        relay = self.fleet.operator_side
        go = self.file("go")
        program = self.fleet.start(
            self.fleet.far_cli(
                "run", DEVICE, "--", f"echo $$; until test -e {go}; do sleep 0.1; done;"
                "echo last words; exit 9",
            ),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        relay.arrival = "refuse"
        relay.cut()
        go.touch()
        until(lambda: state(pid) in ("", "Z"), "it ends meanwhile")
        relay.arrival = "pass"
        done = program.finish()
        story = self.fleet.rshell("audit", "--limit", "12", "--json").stdout.decode()
        told = (done, story, self.fleet.log_tail(), self.fleet.agent.log_text()[-2000:])
        self.assertEqual((9, b"last words\n"), (done.status, done.stdout), told)

    def test_nothing_left(self) -> None:
        """Links that were cut leave no descriptor behind in the gateway."""
        fleet = self.fleet
        fleet.operator_side.rate = SLOW
        fleet.far("run", DEVICE, "--", "true")
        before = fds(fleet.gateway_pid)
        for _ in range(3):
            transfer = Transfer(self, self.fleet, MIB)
            transfer.reaches(0.01)
            accepted = fleet.operator_side.accepted
            fleet.operator_side.cut_after(50_000, UP)
            self.wait_cut(fleet.operator_side, accepted)
            transfer.check()
        until(lambda: fds(fleet.gateway_pid) <= before, lambda: str(fds(fleet.gateway_pid)), 15)


class FrozenTests(RelayedCase):
    def test_both_frozen(self) -> None:
        """Links that stand still for a while are not given up: the same ones go on."""
        near, far = self.fleet.operator_side, self.fleet.device_side
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.1)
        before = near.accepted, far.accepted
        near.freeze()
        far.freeze()
        frozen = transfer.arrived
        time.sleep(20 if LONG else 4)  # that long nothing moves: what is measured is the time
        self.assertLess(transfer.arrived, frozen + MIB)
        near.thaw()
        far.thaw()
        transfer.check()
        self.assertEqual(before, (near.accepted, far.accepted))

    def test_frozen_then_replaced(self) -> None:
        """A transfer whose device comes back on a second link goes on over that."""
        fleet = self.fleet
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.1)
        fleet.device_side.freeze()
        fleet.agent.kill()
        fleet.agent.start()
        transfer.check()

    @lasting("it takes a heartbeat, up to 45 s")
    def test_operator_frozen_for_good(self) -> None:
        """An operator's link that stands still is noticed, and the command goes on over another."""
        relay = self.fleet.operator_side
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.1)
        before, began = relay.accepted, time.monotonic()
        relay.freeze()
        until(lambda: relay.accepted > before, "it dials again", 60)
        self.assertLess(time.monotonic() - began, 50)
        transfer.check()


class KillTests(RelayedCase):
    def test_gateway_killed(self) -> None:
        """The gateway is killed and another process takes its place."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.2)
        self.fleet.kill_gateway()
        self.assertIsNone(transfer.program.process.poll())
        self.fleet.restart_gateway()
        transfer.check()

    def test_gateway_terminated(self) -> None:
        """A planned restart of the gateway is one more break."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.2)
        start = len(self.fleet.agent.log_text())
        self.fleet.kill_gateway(signal.SIGTERM)
        until(
            lambda: "shutdown" in self.fleet.agent.log_text()[start:],
            self.fleet.agent.log_text,
            10,
        )
        self.fleet.restart_gateway()
        transfer.check()

    def test_agent_killed(self) -> None:
        """The agent is killed and started again, twice: the keeper is the device's end."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        agent = self.fleet.agent
        keeper = agent.keeper_pid()
        for share in (0.1, 0.4):
            transfer.reaches(share)
            agent.kill()
            agent.start()
            self.fleet.wait_live(DEVICE)
        transfer.check()
        self.assertEqual(keeper, agent.keeper_pid())

    @lasting("much the same as a kill")
    def test_agent_terminated(self) -> None:
        """An agent that is restarted in order loses nothing either."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.2)
        self.fleet.agent.kill(signal.SIGTERM)
        self.fleet.agent.start()
        transfer.check()

    def test_all_at_once(self) -> None:
        """Gateway and agent are killed while the operator's link is cut."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.2)
        self.fleet.agent.kill()
        self.fleet.kill_gateway()
        self.fleet.operator_side.cut()
        self.fleet.agent.start()
        self.fleet.restart_gateway()
        transfer.check()

    def test_keeper_killed(self) -> None:
        """What dies with the keeper is told as lost, at once, and does not run again."""
        transfer = Transfer(self, self.fleet, 6 * MIB)
        transfer.reaches(0.2)
        os.kill(self.fleet.agent.keeper_pid(), signal.SIGKILL)
        done = transfer.program.finish(seconds=30)
        self.assertEqual(255, done.status, done.stderr)
        self.assertIn(b"lost", done.stderr)
        self.assertNotIn(b"Traceback", done.stderr)


class NoticeTests(RelayedCase):
    LINE = rb"link lost \d+ s, retrying, Ctrl-C quits"

    def _away(self) -> Terminal:
        """Start a command at a terminal and take its link away."""
        terminal = self.terminal("run", "-n", DEVICE, "--", "echo up; sleep 6; echo do''ne; exit 4")
        terminal.expect("^up\r\n")
        self.fleet.operator_side.arrival = "refuse"
        self.fleet.operator_side.cut()
        return terminal

    def test_on_a_terminal(self) -> None:
        """At a terminal one line tells that the link is away, and is taken back."""
        terminal = self._away()
        terminal.expect(self.LINE, 10)
        self.fleet.operator_side.arrival = "pass"
        terminal.expect("done\r\n", 15)
        self.assertEqual(4, terminal.wait())
        self.assertNotIn(b"link lost", terminal.seen.rpartition(b"\r\x1b[K")[2])

    def test_device_away(self) -> None:
        """It tells of the device's link as well."""
        terminal = self.terminal("run", "-n", DEVICE, "--", "echo up; sleep 6; exit 4")
        terminal.expect("^up\r\n")
        self.fleet.device_side.arrival = "refuse"
        self.fleet.device_side.cut()
        terminal.expect(self.LINE, 10)
        self.fleet.device_side.arrival = "pass"
        self.assertEqual(4, terminal.wait(40))

    def test_short_break(self) -> None:
        """A break that is over at once is not worth a word, nor in a log file."""
        terminal = self.terminal("run", "-n", DEVICE, "--", "echo up; sleep 3; exit 4")
        terminal.expect("^up\r\n")
        self.fleet.operator_side.cut()
        self.assertEqual(4, terminal.wait())
        self.assertEqual(b"up\r\n", terminal.seen)
        self.assertEqual(b"", self._in_a_file(3, 0))

    def _in_a_file(self, sleep: float, seconds: float) -> bytes:
        """Return what is said of a break of some seconds within a command that sleeps."""
        program = self.fleet.start(
            self.fleet.far_cli("run", "-n", DEVICE, "--", f"echo up; sleep {sleep}; exit 4"),
            stdin=subprocess.DEVNULL,
        )
        assert program.process.stdout is not None
        self.assertEqual(b"up\n", program.process.stdout.readline())
        self.fleet.operator_side.arrival = "refuse" if seconds else "pass"
        accepted = self.fleet.operator_side.accepted
        began = time.monotonic()
        self.fleet.operator_side.cut()
        until(
            lambda: (
                self.fleet.operator_side.accepted > accepted and time.monotonic() > began + seconds
            ),
            "it has tried for a while",
        )
        self.fleet.operator_side.arrival = "pass"
        done = program.finish()
        self.assertEqual(4, done.status, done)
        return done.stderr

    @lasting("a break of seven seconds")
    def test_in_a_file(self) -> None:
        """In a file there are two plain lines: that it broke, and that it is back."""
        told = self._in_a_file(7, 7)
        self.assertRegex(
            told,
            rb"^rshell: pump-1: link lost \d+ s, retrying, Ctrl-C quits\n"
            rb"rshell: the link was away for \d+ s\n$",
        )

    def test_interrupted_while_away(self) -> None:
        """Ctrl-C while the link is away ends rshell at once, and says what may go on."""
        terminal = self._away()
        terminal.expect(self.LINE, 10)
        began = time.monotonic()
        terminal.process.send_signal(signal.SIGINT)
        self.assertEqual(130, terminal.wait(10))
        self.assertLess(time.monotonic() - began, 3)
        self.assertIn(b"the link is away; what runs there may go on", terminal.seen)
        self.assertEqual(terminal.initial, terminal.mode())


class GraceTests(RelayedCase):
    @lasting("the grace is 60 s")
    def test_command_lost(self) -> None:
        """After the grace rshell ends with 255 and says for how long there was no link."""
        fleet = RelayedFleet()
        self.addCleanup(fleet.close)
        fleet.start_all()
        program = fleet.start(
            fleet.far_cli("run", DEVICE, "--", "echo up; sleep 300"), stdin=subprocess.DEVNULL
        )
        assert program.process.stdout is not None
        self.assertEqual(b"up\n", program.process.stdout.readline())
        began = time.monotonic()
        fleet.kill_gateway()
        done = program.finish(seconds=90)
        self.assertEqual(255, done.status)
        self.assertTrue(55 < time.monotonic() - began < 75)
        self.assertRegex(done.stderr, rb"the link was gone for 60 s")
        self.assertNotIn(b"Traceback", done.stderr)

    @lasting("the grace is 60 s")
    def test_shell_lost(self) -> None:
        """A shell says how to go on, and its terminal is as it was."""
        fleet = RelayedFleet()
        self.addCleanup(fleet.close)
        fleet.start_all()
        terminal = Terminal(fleet.far_cli("shell", DEVICE), environment(fleet.base), fleet.base)
        self.addCleanup(terminal.close)
        terminal.expect(r"[#$>] ")
        fleet.kill_gateway()
        terminal.expect(rb"link lost \d+ s, retrying, ~\. quits", 20)
        self.assertEqual(255, terminal.wait(90))
        self.assertRegex(terminal.seen, rb"the link was gone for 60 s")
        match = terminal.expect(r"continue it with: rshell attach ([0-9a-f]{8})")
        self.assertEqual(terminal.initial, terminal.mode())
        fleet.restart_gateway()
        fleet.agent.kill()
        fleet.agent.start()  # by itself it would come back within two minutes
        fleet.wait_live(DEVICE)
        again = Terminal(
            fleet.far_cli("attach", match.group(1).decode()), environment(fleet.base), fleet.base
        )
        self.addCleanup(again.close)
        again.type("echo ba''ck; exit 6\n")
        again.expect("back")
        self.assertEqual(6, again.wait())
