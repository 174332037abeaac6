"""An operator's process, simulated: the real client over links without TLS."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock

from rshell.client.client import Client
from rshell.client.dialling import GREETING_SECONDS, GatewayLink, new_hello
from rshell.client.errors import ConnectionFailed
from rshell.client.uplink import Uplink
from rshell.identity.credentials import Credentials
from rshell.link.clock import TimerWheel
from rshell.link.protocol import LinkProtocol
from rshell.testing.clocks import ProcessClock, WallClock
from rshell.testing.gateways import ADDRESS
from rshell.testing.network import Network, seed_heartbeat

__all__ = ["Recorder", "SimulatedOperator"]


class _Link(GatewayLink):
    """A link whose gateway needs no certificate."""

    def link_handshaken(self, link: LinkProtocol) -> None:
        link.hello(self._hello)


class SimulatedOperator:
    """One operator, and the process that works for it just now.

    Args:
        name: As registered.
        credentials: Its key and certificate.
        network: What it dials through.
        wall: Its machine's wall clock.
        rng: Its randomness.
        number: Tells machines apart; it becomes the address.

    Attributes:
        credentials: As given.
        client: `rshell.client.Client` of the running process.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        network: Network,
        wall: WallClock,
        rng: random.Random,
        number: int,
    ) -> None:
        self.name = name
        self.wall = wall
        self.alive = False
        self.address = f"198.51.100.{number % 250 + 1}"
        self.credentials = credentials
        self._network = network
        self._rng = rng

    @property
    def clock(self) -> Clock:
        """The fleet's clock."""
        return self._network.clock

    def start(self) -> None:
        """Run the client's process; ``uplink.connect()`` makes its first link."""
        assert not self.alive, f"the client of {self.name} runs already"
        self.process = ProcessClock(self._network.clock)
        self.wheel = TimerWheel(self.process)
        self.uplink = Uplink(self.process, self.wheel, self._dial, uniform=self._rng.uniform)
        self.client = Client(self.process, self.wheel, self.uplink)
        self.alive = True

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        if self.alive:
            self.alive = False
            self.process.die()

    async def _dial(self) -> GatewayLink:
        owner = _Link(ADDRESS[0], new_hello(self.wall), self.wheel)
        link = owner.build()
        seed_heartbeat(link, self._rng.uniform)
        connected: Deferred[Any] = self._network.dial(
            self.name, self.process, link, self.credentials, self.address
        )
        connected.addTimeout(10.0, self.process)
        try:
            await connected
        except ConnectError as error:
            raise ConnectionFailed("unreachable", f"no link to the gateway: {error}", "") from None
        except Exception as error:
            if isinstance(error, CancelledError):
                raise
            raise ConnectionFailed("unreachable", "no answer from the gateway", "") from None
        timer = self.wheel.call_later(GREETING_SECONDS, lambda: link.abort("no WELCOME in time"))
        try:
            return await owner.welcomed
        except CancelledError:
            link.abort("given up")
            raise
        finally:
            timer.cancel()


class Recorder:
    """A receiver of a session that keeps everything (`rshell.client.SessionReceiver`).

    Attributes:
        stdout: What came on standard output.
        stderr: Likewise.
        output: Both, in the order in which they came.
        events: (kind, body) of each event.
        opened: How often the session was opened.
    """

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.output = bytearray()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.opened = 0

    def session_opened(self) -> None:
        """The device accepted."""
        self.opened += 1

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Keep output."""
        (self.stderr if stderr else self.stdout).extend(data)
        self.output += data

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Keep an event."""
        self.events.append((kind, body))
