"""A fleet whose gateway died: how long until all are back, and how often they dial; no sockets.

The agents' own diallers and the gateway's own admission, with a gateway between them that can do so
many handshakes a second and no more: its turns last as long as what began in them.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.admission import Admission
from rshell.link.core.messages import GoAway
from rshell_agent.dialler import STABLE_SECONDS, Dialler, Target
from tests.gateway.test_handshakes import TurnWheel

DEVICES = 400
#: Handshakes a second of the gateway: few, so that few devices take as long as a large fleet.
CAPACITY = 16.0
#: From SIGKILL until it listens again, as 10,000 devices see it.
DOWN_SECONDS = 2.2
TURN_SECONDS = 0.01


class SimLink:
    """A link of a simulated device; the storm ends it."""

    def abort(self, reason: str) -> None:
        """Not in a storm."""

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Not in a storm."""


class Storm:
    """A gateway that can do so much, and its fleet.

    Args:
        rate: Handshakes a second that the gateway believes it can do.
        capacity: What it can do.
        seed: Of all chance.
        proxy: Whether something else listens while it does not, and ends what comes.
    """

    def __init__(
        self, rate: float, capacity: float = CAPACITY, seed: int = 1, *, proxy: bool = False
    ) -> None:
        self.clock = Clock()
        self.wheel = TurnWheel(self.clock)
        self.capacity = capacity
        self.rate = rate
        self.listening = True
        self.proxy = proxy
        self.dials = self.refused = 0
        self.back: dict[int, float] = {}
        self._began = 0
        self._links: list[Any] = [None] * DEVICES
        self._chance = random.Random(seed)
        self.admission = Admission(self.wheel, rate, lambda: DEVICES)
        self.diallers = [
            Dialler(
                self.clock,
                lambda: ("gw:7411",),
                lambda host, port: succeed(["192.0.2.1"]),
                partial(self._dial, number),
                self._chance,
            )
            for number in range(DEVICES)
        ]

    def _dial(self, device: int, target: Target, number: int) -> Deferred[Any]:
        self.dials += 1
        link = SimLink()
        if not self.listening and self.proxy:
            self.clock.callLater(0, self.diallers[device].lost, link, "closed")
            return succeed(link)
        if not self.listening:
            return fail(ConnectionRefusedError())
        # After the dialler knows that TCP is up.
        self.clock.callLater(0, partial(self._arrive, device, link))
        return succeed(link)

    def _arrive(self, device: int, link: SimLink) -> None:
        source = f"198.51.100.{device // 64}"
        ticket = self.admission.ask(
            source, partial(self._begin, device, link), partial(self._drop, device, link)
        )
        if ticket is None:
            self._begin(device, link)

    def _begin(self, device: int, link: SimLink) -> None:
        self._began += 1
        self.back[device] = self.clock.seconds()
        self._links[device] = link
        self.diallers[device].welcomed(link, self.admission.spread_ms() / 1000)

    def _drop(self, device: int, link: SimLink, why: str) -> None:
        self.refused += 1
        self.diallers[device].lost(link, why)

    def turns(self, seconds: float) -> None:
        """Let the gateway work for so long."""
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            began, self._began = self._began, 0
            self.clock.advance(max(TURN_SECONDS, began / self.capacity))
            self.wheel.take_turn()

    def settle(self) -> None:
        """Have every device live, told of the spread, for long enough to reset its back-off."""
        for number, dialler in enumerate(self.diallers):
            self.clock.callLater(number / self.rate, dialler.start)
        self.turns(DEVICES / min(self.rate, self.capacity) * 1.2 + 10)
        assert len(self.back) == DEVICES
        for dialler, link in zip(self.diallers, self._links, strict=True):
            dialler.advised(link, self.admission.spread_ms() / 1000)
        self.turns(STABLE_SECONDS)

    def strike(self, down_seconds: float = DOWN_SECONDS) -> tuple[float, float]:
        """Kill the gateway, start it again; return seconds until 99 % are back, dials a device."""
        self.listening = False
        self.dials = self.refused = 0
        self.back.clear()
        killed = self.clock.seconds()
        for dialler, link in zip(self.diallers, self._links, strict=True):
            dialler.lost(link, "reset")
        self.turns(down_seconds)
        self.listening = True
        while len(self.back) < DEVICES:
            self.turns(1.0)
            assert self.clock.seconds() - killed < 20 * DEVICES / self.capacity
        # Of so few one may meet a queue that is full by chance, and comes a spread later.
        nearly_all = sorted(self.back.values())[int(DEVICES * 0.99) - 1]
        return nearly_all - killed, self.dials / DEVICES


class StormTests(SynchronousTestCase):
    def strike(self, storm: Storm, down_seconds: float = DOWN_SECONDS) -> None:
        """Strike; hold what is promised of every return."""
        seconds, dials = storm.strike(down_seconds)
        ideal = down_seconds + DEVICES / min(storm.rate, storm.capacity)
        self.assertLess(seconds, ideal * 1.1 + 1)
        self.assertLess(dials, 1.2)

    def test_as_fast_as_it_believes(self) -> None:
        """They return as fast as the gateway can; next to none is refused, few dial twice."""
        for seed in range(2):
            storm = Storm(CAPACITY, seed=seed)
            storm.settle()
            self.strike(storm)
            self.assertLess(storm.refused, DEVICES / 100)

    def test_slower_than_it_believes(self) -> None:
        """A gateway slower than its rate learns it, and spreads the return accordingly."""
        for over in (1.2, 1.5, 3.0):
            storm = Storm(CAPACITY * over)
            storm.settle()
            self.strike(storm)
            storm.turns(STABLE_SECONDS + 1)
            self.strike(storm)
            self.assertLess(storm.refused, DEVICES / 50)

    def test_faster_again(self) -> None:
        """A gateway that was slow once spreads returns too far, and less with each that it sees."""
        storm = Storm(CAPACITY * 2, capacity=CAPACITY * 0.6)
        storm.settle()
        self.assertLess(storm.admission.pace, CAPACITY * 0.7)
        storm.capacity = CAPACITY * 2
        for _ in range(5):
            storm.strike()
            storm.turns(STABLE_SECONDS + 1)
        self.assertGreater(storm.admission.pace, CAPACITY * 1.5)

    def test_away_for_long(self) -> None:
        """After an outage much longer than the spread nobody hammers, and all return."""
        storm = Storm(CAPACITY)
        storm.settle()
        seconds, dials = storm.strike(60.0)
        self.assertLess(seconds, 60 + 120 + DEVICES / CAPACITY)
        self.assertLess(dials, 6)

    def test_suddenly_slower(self) -> None:
        """Who is cut off by a gateway that lacks the time comes sooner, and not all at once."""
        storm = Storm(CAPACITY)
        storm.settle()
        storm.capacity = CAPACITY / 1.5
        seconds, dials = storm.strike()
        self.assertLess(seconds, DOWN_SECONDS + DEVICES / storm.capacity * 1.7)
        self.assertLess(dials, 2.0)

    def test_proxy_in_front(self) -> None:
        """What ends connections for a gateway that is away makes no herd of its fleet."""
        storm = Storm(CAPACITY, proxy=True)
        storm.settle()
        seconds, dials = storm.strike(60.0)
        self.assertLess(storm.refused, DEVICES / 4)
        self.assertLess(seconds, 60 + 120 + DEVICES / CAPACITY)
        self.assertLess(dials, 7)
