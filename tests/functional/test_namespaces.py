"""Networks that lose packets: half-open links without FIN or RST, slow ones, lossy ones."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.namespaces import FAR, GATEWAY, Network, network
from tests.functional.processes import CLI, environment, lasting, until
from tests.functional.relayed import PROMPT, Transfer
from tests.functional.terminal import Terminal

DEVICE = "far-1"
MIB = 1 << 20


class NetworkCase(FleetCase):
    """A gateway in one network, a device and an operator in another."""

    def setUp(self) -> None:
        self.network: Network = network()
        # Cleanups run in the reverse order: the network goes last.
        self.addCleanup(self.network.close)
        self.place = Fleet()
        self.addCleanup(self.place.close)
        self.place.prefix = self.network.prefix(GATEWAY)
        self.place.start_gateway(f"tcp:0:interface={self.network.address(GATEWAY)}")
        self.agent = self.place.join(DEVICE)
        self.agent.prefix = self.network.prefix(FAR)
        self.agent.start()
        self.place.wait_live(DEVICE)

    @property
    def fleet(self) -> Fleet:
        return self.place

    @property
    def epoch(self) -> int:
        return int(self.place.device(DEVICE)["epoch"])

    def far_cli(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the command line of an operator at the far end; they join at the first call."""
        home = self.place.base / "far-operator"
        prefix = self.network.prefix(FAR)
        if not home.exists():
            string = self.place.invite("operator", "ann", "--role", "admin")
            done = self.place.command(
                [*CLI, "--home", str(home), "join", "-"], string, prefix=prefix
            )
            self.assert_status(0, done)
        return [*prefix, *CLI, "--home", str(home), *arguments]

    def near_cli(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the command line of the administrator beside the gateway."""
        return self.place.cli(*arguments)

    def transfer(self, size: int) -> Transfer:
        return Transfer(self, self.place, size, self.near_cli, DEVICE)

    def connected(self) -> bool:
        """Whether the agent believes that it has a link."""
        path = Path(self.agent.home / "status.json")
        return bool(json.loads(path.read_text())["state"] == "connected")


class HalfOpenTests(NetworkCase):
    def test_ghost_replaced(self) -> None:
        """A device that died unheard and returns from elsewhere replaces its ghost at once."""
        epoch = self.epoch
        self.network.part()
        self.agent.kill()
        self.network.move()  # the kernel has a FIN to send, and nowhere to send it from
        self.network.join()
        self.assertEqual("live", self.place.device(DEVICE)["state"])
        self.agent.start()
        until(lambda: self.epoch > epoch, self.agent.log_text, 15)
        time.sleep(1)  # "one second after its return"
        asked = time.monotonic()
        done = self.place.run(DEVICE, "--", "echo here")
        self.assertEqual((0, b"here\n"), (done.status, done.stdout), done.stderr)
        self.assertLess(time.monotonic() - asked, 5)

    def test_packets_lost_for_a_while(self) -> None:
        """A path that is dead for some seconds costs no link and no byte."""
        epoch = self.epoch
        self.network.slow(20)
        transfer = self.transfer(4 * MIB)
        transfer.reaches(0.2)
        self.network.part()
        time.sleep(4)  # that long nothing gets through
        self.network.join()
        transfer.check()
        self.assertEqual(epoch, self.epoch)

    @lasting("the same is tried with a relay that is frozen")
    def test_probe(self) -> None:
        """rshell probe tells of a dead path within five seconds."""
        self.network.part()
        done = self.place.rshell("probe", "--json", DEVICE)
        told = json.loads(done.stdout)
        self.assertEqual((1, False), (done.status, told["alive"]))
        self.assertLess(told["waited_ms"], 5500)
        self.network.join()

    @lasting("it takes a minute")
    def test_both_notice(self) -> None:
        """A dead path is noticed by the agent within 45 s and by the gateway within 60 s."""
        self.network.part()
        began = time.monotonic()
        until(lambda: not self.connected(), self.agent.log_text, 60, 0.2)
        agent_took = time.monotonic() - began
        until(lambda: self.place.device(DEVICE)["state"] == "lost", self.place.log_tail, 40, 0.3)
        gateway_took = time.monotonic() - began
        print(f"\nnoticed after {agent_took:.1f} and {gateway_took:.1f} s")  # noqa: T201
        self.assertLess(agent_took, 46)
        self.assertLess(gateway_took, 64)
        self.network.join()
        self.place.wait_live(DEVICE, seconds=130)

    @lasting("it takes a heartbeat, up to 45 s")
    def test_one_way(self) -> None:
        """A device that is heard and hears nothing notices too, and comes back by itself."""
        epoch = self.epoch
        self.network.deafen(FAR)
        began = time.monotonic()
        until(lambda: not self.connected(), self.agent.log_text, 60, 0.2)
        self.assertLess(time.monotonic() - began, 46)
        self.network.hear(FAR)
        until(lambda: self.epoch > epoch, self.agent.log_text, 130)

    @lasting("it takes half a minute")
    def test_shell_over_a_dead_path(self) -> None:
        """A shell notices a dead path within 30 s, says so, and goes on when it leads again."""
        command = self.far_cli("shell", DEVICE)
        terminal = Terminal(command, environment(self.place.base), self.place.base)
        self.addCleanup(terminal.close)
        terminal.expect(r"[#$>] ")
        terminal.type(PROMPT)
        terminal.expect("rdy> ")
        self.network.part()
        terminal.type("echo un''heard\n")
        terminal.expect(rb"link lost \d+ s, retrying", 32)
        self.network.join()
        terminal.expect("^unheard\r\n", 60)
        terminal.type("exit 3\n")
        self.assertEqual(3, terminal.wait())


class SlowTests(NetworkCase):
    def test_two_megabits(self) -> None:
        """On a link of 2 Mbit/s a bulk transfer keeps no command waiting."""
        epoch = self.epoch
        self.network.slow(2)
        transfer = self.transfer(MIB)
        transfer.reaches(0.1)
        for _ in range(3):
            began = time.monotonic()
            self.assert_status(0, self.place.run(DEVICE, "--", "true"))
            self.assertLess(time.monotonic() - began, 5)
        done = transfer.check()
        self.assertGreater(done.seconds, 3.5)  # the wire was slow indeed
        self.assertEqual(epoch, self.epoch)

    def test_lossy(self) -> None:
        """With every thirtieth packet lost all bytes arrive, over two lives of the agent."""
        self.network.lossy(0.03)
        epoch = self.epoch
        self.agent.kill()  # its link died with the old wire
        self.agent.start()
        until(lambda: self.epoch > epoch, self.agent.log_text, 60)
        transfer = self.transfer(2 * MIB)
        transfer.reaches(0.2)
        self.agent.kill(signal.SIGKILL)
        self.agent.start()
        transfer.check()
        self.assertGreater(self.network.lost, 10)
