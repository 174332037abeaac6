"""Touched files on their way from the keeper to the gateway: told until they are noted."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.messages import Open, Welcome
from rshell_agent.keeper_client import KeeperUnavailable
from rshell_agent.touch_report import PACE_SECONDS, RETRY_SECONDS, TouchSender
from tests.agent.pair import LinkPair
from tests.agent.test_link_watch import Nobody


class FakeKeeper:
    """Has batches, and forgets those that are noted."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"features": ["touched"]}
        self.batches: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.touched: Any = None
        self.gone = False

    def add(self, *numbers: int) -> None:
        self.batches += [{"session": "s", "n": n, "files": []} for n in numbers]

    async def ensure(self) -> None:
        if self.gone:
            raise KeeperUnavailable("gone")

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        self.calls.append(name)
        if name == "touched":
            return {"touched": self.batches[:8]}
        noted = fields["batches"]
        self.batches = [b for b in self.batches if [b["session"], b["n"]] not in noted]
        return {"noted": noted}


class Peer:
    """What a link knows of its gateway."""

    def __init__(self, *features: str) -> None:
        self.welcome = Welcome(
            protocol=1, software="x", features=list(features), name="pump-1", time_ms=0,
            heartbeat_ms=25_000, max_streams=1, window=1,
        )  # fmt: skip


class SenderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = LinkPair()
        self.clock = self.pair.clock
        self.link = self.pair.device
        self.link.peer = Peer("touched")
        self.keeper = FakeKeeper()
        self.told: list[int] = []
        self.refuse: dict[int, str] = {}
        self.pair.gateway_owner.requested = self._requested
        keeper: Any = self.keeper
        self.sender = TouchSender(keeper, TimerWheel(self.clock), self.clock)

    def _requested(self, link: Any, number: int, request: Open) -> None:
        n = request.request["n"]
        self.told.append(n)
        if n in self.refuse:
            link.refuse(number, self.refuse.pop(n), "no")
            return
        channel = StreamChannel(link, Nobody())
        channel.accept(number, request)
        channel.write(msgspec.json.encode({"n": n}))
        channel.finish(Outcome(status="ok"))

    def pass_seconds(self, seconds: float = 0.0) -> None:
        self.pair.pump()
        while seconds > 0:
            step = min(0.1, seconds)
            self.clock.advance(step)
            self.pair.pump()
            seconds -= step

    def test_told(self) -> None:
        """What waits is told after WELCOME, and what comes later at once; then it is noted."""
        self.keeper.add(1, 2)
        self.sender.link_welcomed(self.link)
        self.pass_seconds(1)
        self.assertEqual(([1, 2], []), (self.told, self.keeper.batches))
        self.keeper.add(3)
        self.keeper.touched()
        self.pass_seconds()
        self.assertEqual(([1, 2, 3], []), (self.told, self.keeper.batches))

    def test_paced(self) -> None:
        """A backlog is told in rounds, well below what a device may ask in a second."""
        self.keeper.add(*range(1, 41))
        self.sender.link_welcomed(self.link)
        self.pass_seconds()
        self.assertEqual(8, len(self.told))
        self.keeper.touched()
        self.pass_seconds()
        self.assertEqual(8, len(self.told))
        self.pass_seconds(4 * PACE_SECONDS + 1)
        self.assertEqual(list(range(1, 41)), sorted(self.told))
        self.assertEqual([], self.keeper.batches)

    def test_refused_for_now(self) -> None:
        """What a busy gateway refuses is told again; what it never takes is not."""
        self.keeper.add(1, 2, 3)
        self.refuse = {1: "overload", 2: "policy", 3: "store"}
        self.sender.link_welcomed(self.link)
        self.pass_seconds()
        self.assertEqual([1, 3], [batch["n"] for batch in self.keeper.batches])
        self.pass_seconds(RETRY_SECONDS + 0.5)
        self.assertEqual(([1, 2, 3, 1, 3], []), (self.told, self.keeper.batches))

    def test_link_lost(self) -> None:
        """What was under way when the link broke is told over the next one."""
        self.keeper.add(1)
        self.pair.gateway_owner.requested = lambda *_: None
        self.sender.link_welcomed(self.link)
        self.pass_seconds()
        self.sender.stop()
        self.pass_seconds(5)
        self.assertEqual([1], [batch["n"] for batch in self.keeper.batches])
        self.pair.gateway_owner.requested = self._requested
        self.sender.link_welcomed(self.link)
        self.pass_seconds()
        self.assertEqual(([1], []), (self.told, self.keeper.batches))

    def test_older_peers(self) -> None:
        """A gateway or keeper without the feature is not asked."""
        self.keeper.add(1)
        self.link.peer = Peer()
        self.sender.link_welcomed(self.link)
        self.keeper.touched()
        self.pass_seconds(5)
        self.link.peer = Peer("touched")
        self.keeper.identity = {}
        self.sender.link_welcomed(self.link)
        self.pass_seconds(5)
        self.assertEqual(([], []), (self.told, self.keeper.calls))

    def test_keeper_gone(self) -> None:
        """A keeper that does not answer is asked again."""
        self.keeper.add(1)
        self.keeper.gone = True
        self.sender.link_welcomed(self.link)
        self.pass_seconds(1)
        self.keeper.gone = False
        self.pass_seconds(RETRY_SECONDS)
        self.assertEqual([1], self.told)

    def test_stopped(self) -> None:
        """Nothing is left behind when the link is gone."""
        self.keeper.add(*range(1, 20))
        self.sender.link_welcomed(self.link)
        self.pass_seconds()
        self.sender.stop()
        before = list(self.told)
        self.keeper.touched()
        self.pass_seconds(10)
        self.assertEqual(before, self.told)
