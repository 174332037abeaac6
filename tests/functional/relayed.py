"""A fleet whose device and whose operator come to the gateway through relays.

``pump-1`` dials the gateway through `RelayedFleet.device_side`, `RelayedFleet.far_cli` through
`RelayedFleet.operator_side`; `Fleet.rshell` goes straight, to look at things undisturbed.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from rshell.identity.credentials import CredentialStore
from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import CLI, Finished, Program, environment, state, until
from tests.functional.relay import Relay
from tests.functional.terminal import Terminal

__all__ = ["DEVICE", "PROMPT", "RelayedCase", "RelayedFleet", "Transfer"]

DEVICE = "pump-1"
#: Marks where a prompt ends: the echo of what is typed never matches, nor do readline's marks.
PROMPT = "bind 'set enable-bracketed-paste off' 2>/dev/null; PS1='rdy''> '\n"

_numbers = itertools.count(1)


class RelayedFleet(Fleet):
    """A gateway, a device and an operator, with a relay on either side.

    Attributes:
        device_side: The relay through which the device dials.
        operator_side: The relay through which `far_cli` dials.
    """

    device_side: Relay
    operator_side: Relay
    _settled = 1

    def start_all(self) -> RelayedFleet:
        """Start everything and wait until the device is live."""
        self.start_gateway()
        self.device_side = Relay(self.address)
        self.operator_side = Relay(self.address)
        self.profile("admin", self.home / "admin")
        agent = self.join(DEVICE)
        self.through(agent, self.device_side)
        agent.start()
        self.wait_live(DEVICE)
        return self

    def through(self, agent: Agent, relay: Relay, policy: str = "") -> None:
        """Let an agent dial through a relay."""
        agent.configure(f'[link]\ngateways = ["{relay.where}"]\n{policy}')

    @property
    def agent(self) -> Agent:
        return self.agents[DEVICE]

    def profile(self, name: str, credentials: Path) -> Path:
        """Make the profile of an operator who dials through `operator_side`.

        Args:
            name: What to call it.
            credentials: A folder with credentials: HOME/admin, or what ``join`` wrote.
        """
        known = CredentialStore(credentials).load()
        assert known is not None
        folder = self.base / f"far-{name}"
        folder.mkdir(mode=0o700)
        store = CredentialStore(folder)
        store.save(attrs.evolve(known, gateways=(self.operator_side.where,)))
        return folder

    def operator(self, name: str, role: str = "admin") -> str:
        """Invite an operator and return the name of the profile made for them."""
        own = self.base / f"own-{name}"
        string = self.invite("operator", name, "--role", role)
        done = self.command([*CLI, "--home", str(own), "join", "-"], string)
        assert done.status == 0, done
        self.profile(name, own)
        return name

    def far_cli(self, *arguments: str | bytes, who: str = "admin") -> list[str | bytes]:
        """Return the command line of an ``rshell`` that dials through `operator_side`."""
        return [*CLI, "--home", str(self.base / f"far-{who}"), *arguments]

    def far(self, *arguments: str | bytes, who: str = "admin", **options: Any) -> Finished:
        """Run an ``rshell`` that dials through `operator_side` to its end."""
        return self.command(self.far_cli(*arguments, who=who), **options)

    def sessions(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what ``rshell sessions`` lists."""
        done = self.rshell("sessions", "--json", *arguments)
        assert done.status == 0, done
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def session(self, state: str, **wanted: Any) -> dict[str, Any]:
        """Wait until exactly one session is in a state, and return it."""

        def found() -> list[dict[str, Any]]:
            rows = [row for row in self.sessions() if row["state"] == state]
            return [row for row in rows if wanted.items() <= row.items()]

        until(lambda: len(found()) == 1, lambda: f"one {state}: {self.sessions()}", 15, 0.2)
        return found()[0]

    def repair(self) -> None:
        """Undo what a test did: relays pass, gateway and device run, no session lives."""
        for relay in (self.device_side, self.operator_side):
            relay.restore()
        if self.gateway is None or self.gateway.poll() is not None:
            self.restart_gateway()
        if self._disturbed():
            # A new process: the old one's back-off still grows (rule C6), and no test waits for it.
            self.agent.kill()
            self._settled = self.device_side.accepted + 1
            self.agent.start()
            self.wait_live(DEVICE)
        for row in self.sessions("--all"):
            if row["state"] != "finished":
                self.rshell("sessions", "--all", "--end", row["session"])

    def _disturbed(self) -> bool:
        """Whether the device has dialled, or died, since it was started by us."""
        process = self.agent.process
        if process is None or process.poll() is not None or state(process.pid) == "T":
            return True
        return self.device_side.accepted != self._settled or self.device_side.open() != 1

    def close(self) -> None:
        for relay in (getattr(self, "device_side", None), getattr(self, "operator_side", None)):
            if relay is not None and not self._closed:
                relay.close()
        super().close()


@functools.cache
def _shared() -> RelayedFleet:
    fleet = RelayedFleet()
    atexit.register(fleet.close)
    return fleet.start_all()


class RelayedCase(FleetCase):
    """A test with a relayed fleet, whole again before each test."""

    @property
    def fleet(self) -> RelayedFleet:
        return _shared()

    def setUp(self) -> None:
        self.start = 0
        self.fleet.repair()
        self.start = self.fleet.log_size()
        self.addCleanup(self._nothing_broke)

    def _nothing_broke(self) -> None:
        self.assertNotIn("Traceback", self.fleet.log_text(self.start))
        self.assertNotIn("Traceback", self.fleet.agent.log_text())

    def file(self, name: str) -> Path:
        """Return a path of this test alone."""
        return self.fleet.base / f"{name}-{next(_numbers)}"

    def terminal(self, *arguments: str, who: str = "admin", **size: Any) -> Terminal:
        """Run an ``rshell`` that dials through the relay, at a terminal."""
        fleet = self.fleet
        command = fleet.far_cli(*arguments, who=who)
        terminal = Terminal(command, environment(fleet.base), fleet.base, **size)
        self.addCleanup(terminal.close)
        return terminal

    def ready(self, who: str = "admin", **size: Any) -> Terminal:
        """Open a shell on the device and wait for its prompt."""
        terminal = self.terminal("shell", DEVICE, who=who, **size)
        terminal.expect(r"[#$>] ")
        terminal.type(PROMPT)
        terminal.expect("rdy> ")
        return terminal

    def shell_pid(self, terminal: Terminal) -> int:
        """Return the process id of the shell at a terminal."""
        terminal.type('echo "<$$>"\n')
        return int(terminal.expect(r"^<(\d+)>\r\n").group(1))

    def wait_cut(self, relay: Relay, accepted: int) -> None:
        """Wait until somebody dialled through a relay again."""
        until(lambda: relay.accepted > accepted, "it dials again", 30)


class Transfer:
    """``cat`` on the device, with a few MiB through it, and a line for each time that it ran.

    Args:
        case: The test.
        fleet: Where.
        size: Bytes each way.
        cli: Returns the command line of an ``rshell``; by default one behind the relay.
        device: On which device.
    """

    STATUS = 7

    def __init__(
        self,
        case: FleetCase,
        fleet: Fleet,
        size: int,
        cli: Callable[..., list[str | bytes]] | None = None,
        device: str = DEVICE,
    ) -> None:
        self._case = case
        self._fleet = fleet
        if cli is None:
            assert isinstance(fleet, RelayedFleet)
            cli = fleet.far_cli
        self.data = random.Random(size).randbytes(size)
        names = [f"{name}-{next(_numbers)}" for name in ("ran", "in", "out")]
        self._ran, self._in, self._out = (fleet.base / name for name in names)
        self._in.write_bytes(self.data)
        command = f"echo ran >> {self._ran}; cat; echo end >&2; exit {self.STATUS}"
        with self._in.open("rb") as stdin, self._out.open("wb") as stdout:
            self.program: Program = fleet.start(
                cli("run", device, "--", command),
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
            )
        case.addCleanup(self.program.kill)

    @property
    def arrived(self) -> int:
        """Bytes of output so far."""
        return self._out.stat().st_size

    def reaches(self, share: float, seconds: float = 60) -> None:
        """Wait until a share of the output is there."""
        wanted = int(share * len(self.data))

        def told() -> str:
            return f"{self.arrived} of {wanted} arrived; {self._fleet.log_tail()}"

        def enough() -> bool:
            ended = self.program.process.poll()
            assert ended is None or self.arrived >= wanted, self.program.finish()
            return self.arrived >= wanted

        until(enough, told, seconds)

    def check(self, seconds: float = 90) -> Finished:
        """Wait for the end: every byte once, the command once, its own exit status."""
        done = self.program.finish(seconds=seconds)
        got = self._out.read_bytes()
        self._case.assertEqual(self.STATUS, done.status, (done.stderr, self.arrived))
        self._case.assertEqual(len(self.data), len(got))
        wanted = hashlib.sha256(self.data).digest()
        self._case.assertEqual(wanted, hashlib.sha256(got).digest())
        self._case.assertEqual("ran\n", self._ran.read_text())
        self._case.assertEqual(1, done.stderr.count(b"end\n"), done.stderr)
        self._case.assertNotIn(b"Traceback", done.stderr)
        return done
