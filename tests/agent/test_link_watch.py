"""Unit tests of what an agent looks at once a minute: outcomes nobody collects, a new policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.revoked import RevokedMemory
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.messages import (
    GoAway,
    Hello,
    Open,
    Outcome,
    SessionReport,
    Sessions,
    Welcome,
)
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import KeeperUnavailable
from rshell_agent.link_watch import LOOK_SECONDS
from rshell_agent.links import AgentLinks, GatewayPeer, Greeting
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry
from rshell_agent.session_report import SessionsExchange
from tests.agent.pair import LinkPair
from tests.identity.dev_fleet import fleet

ALLOWED = {"handlers": ["exec", "shell"], "logins": ["self"], "error": None, "digest": "d1"}
DENIED = {"handlers": [], "logins": [], "error": "agent.toml: odd", "digest": "d2"}


class FakeKeeper:
    """Answers `policy` and `sessions` from attributes, at once or when told."""

    def __init__(self) -> None:
        self.policy: dict[str, Any] = dict(ALLOWED)
        self.sessions: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.broken = False
        self.held: Deferred[None] | None = None

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        self.calls.append(name)
        if self.held is not None:
            await self.held
        if self.broken:
            raise KeeperUnavailable("no keeper")
        return dict(self.policy) if name == "policy" else {"sessions": self.sessions}


class Nobody:
    """The receiver of an answer that only sends."""

    def channel_opened(self, opened: Any) -> None: ...

    def data_received(self, data: bytes, stderr: bool) -> None: ...

    def input_ended(self) -> None: ...

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None: ...

    def channel_closed(self, code: str, message: str) -> None: ...


class FakeDialler:
    """Hears of links."""

    def welcomed(self, link: Any, spread: float) -> None: ...

    def lost(self, link: Any, reason: str) -> None: ...


class FakeRenewal:
    def link_welcomed(self, link: Any, at_once: bool) -> None: ...

    def link_lost(self) -> None: ...


class FakeDispatcher:
    """Has sessions of the agent's own to tell of."""

    def __init__(self) -> None:
        self.reports: list[SessionReport] = []
        self.acknowledged: list[bytes] = []

    def session_reports(self) -> list[SessionReport]:
        return self.reports

    def sessions_acknowledged(self, sessions: list[bytes]) -> None:
        self.acknowledged += sessions


class FakeIdentity:
    link_generation = 0

    def learn(self, name: str, generation: int) -> None: ...

    def welcomed(self, credentials: Any) -> None: ...


def entry(number: int, **fields: Any) -> dict[str, Any]:
    """One line of the keeper's list: over for longer than a minute, with nobody attached."""
    return {
        "session": wire.base64(bytes([number]) * 16),
        "operator": "ann",
        "handler": "exec",
        "login": "root",
        "pid": 1,
        "started_ms_ago": 90_000,
        "attached": False,
        "detached_ms": 60_001,
        "state": "finished",
        "outcome": {"kind": "outcome", "status": "exit", "exit_code": 3},
        **fields,
    }


class WatchCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.keeper: Any = FakeKeeper()
        self.pair = LinkPair()
        self.dialler = FakeDialler()
        self.links = self._links()
        self.pair.device_owner.link_lost = self.links.link_lost  # type: ignore[method-assign]  # the owner under test
        self.received = self.pair.gateway_owner.sessions

    def _links(self) -> AgentLinks:
        clock: Any = self.pair.clock
        identity: Any = FakeIdentity()
        state = Path(self.mktemp())
        state.mkdir()
        floor = ClockFloor(state)
        self.policy = PolicyWatch(self.keeper, clock, lambda: None)
        self.successResultOf(Deferred.fromCoroutine(self.policy.refresh()))
        greeting = Greeting(HandlerRegistry.new(), self.policy, identity, floor, {}, "boot")
        exchange = SessionsExchange(self.keeper)
        self.revoked = RevokedMemory(state / "revoked.json", fleet().keys.root.certificate)
        links = AgentLinks(
            clock,
            TimerWheel(clock),
            identity,
            identity,
            floor,
            greeting,
            exchange,
            lambda: None,
            revoked=self.revoked,
        )
        links.dialler = self.dialler  # type: ignore[assignment]  # a fake
        self.dispatcher = FakeDispatcher()
        links.dispatcher = self.dispatcher  # type: ignore[assignment]  # a fake
        links.renewal = FakeRenewal()  # type: ignore[assignment]  # a fake
        self.hello: Hello = greeting.hello(1)
        return links

    def welcomed(self, renew_only: bool = False) -> None:
        """The gateway accepts; what is sent for that is forgotten."""
        peer: Any = GatewayPeer(None, 1, None, hello=self.hello)  # type: ignore[arg-type]  # unused here
        self.pair.device.peer = peer
        welcome = Welcome(
            protocol=1,
            software="test",
            features=[],
            name="pump-17",
            time_ms=0,
            heartbeat_ms=25_000,
            max_streams=64,
            window=1,
            renew_only=renew_only,
        )
        self.links.welcome_received(self.pair.device, welcome)
        self.pair.pump()
        self.received.clear()
        self.keeper.calls.clear()

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, with heartbeats answered."""
        while seconds > 0:
            self.pair.clock.advance(min(1.0, seconds))
            self.pair.pump()
            seconds -= 1.0


class OutcomeTests(WatchCase):
    def test_those_that_are_over(self) -> None:
        """S1: a minute after WELCOME just the sessions nobody will come back for are told."""
        self.welcomed()
        self.keeper.sessions = [
            entry(1),
            entry(2, detached_ms=60_000),
            entry(3, attached=True, detached_ms=None),
            entry(4, state="running", outcome=None, detached_ms=90_000),
            entry(5, detached_ms=3_000_000),
        ]
        self.pass_seconds(LOOK_SECONDS - 1)
        self.assertEqual([], self.received)
        self.pass_seconds(2)
        (told,) = self.received
        self.assertEqual([bytes([1]) * 16, bytes([5]) * 16], [r.session for r in told.sessions])
        self.assertFalse(told.more)
        report = told.sessions[0]
        self.assertEqual((60_001, "exit", 3), (report.ended_ms, *outcome(report)))

    def test_each_minute_until_acknowledged(self) -> None:
        """What the gateway does not acknowledge is told again a minute later."""
        self.welcomed()
        self.keeper.sessions = [entry(1)]
        self.pass_seconds(2 * LOOK_SECONDS + 2)
        self.assertEqual(2, len(self.received))
        self.keeper.sessions = []
        self.pass_seconds(LOOK_SECONDS + 1)
        self.assertEqual(2, len(self.received))

    def test_nothing_to_tell(self) -> None:
        """Without such a session no SESSIONS is sent."""
        self.welcomed()
        self.keeper.sessions = [entry(1, state="running", outcome=None)]
        self.pass_seconds(3 * LOOK_SECONDS)
        self.assertEqual([], self.received)
        self.assertIn("sessions", self.keeper.calls)

    def test_the_agents_own(self) -> None:
        """S1: ended sessions of the agent's own are told of too, with the keeper's or without."""
        self.welcomed()
        over = SessionReport(
            session=bytes([7]) * 16,
            operator="ann",
            handler="echo",
            state="finished",
            ended_ms=60_001,
            outcome=Outcome(status="lost", code="link-lost"),
        )
        self.dispatcher.reports = [
            over,
            msgspec.structs.replace(over, session=bytes([8]) * 16, ended_ms=60_000),
            SessionReport(session=bytes([9]) * 16, operator="ann", handler="echo"),
        ]
        self.keeper.sessions = [entry(1)]
        self.pass_seconds(LOOK_SECONDS + 1)
        self.keeper.sessions = [{"session": "not one"}]
        self.pass_seconds(LOOK_SECONDS + 1)
        first, second = self.received
        self.assertEqual([bytes([1]) * 16, bytes([7]) * 16], [r.session for r in first.sessions])
        self.assertEqual([over], second.sessions)

    def test_acknowledged(self) -> None:
        """S2: the answer is passed to the keeper as after WELCOME, and to the agent's own."""
        self.welcomed()
        self.links.sessions_received(self.pair.device, Sessions(acknowledged=[bytes(16)]))
        self.assertEqual(["acknowledge"], self.keeper.calls)
        self.assertEqual([bytes(16)], self.dispatcher.acknowledged)

    def test_renewal_only(self) -> None:
        """A link that is for renewal only tells of no session, and asks for none."""
        self.welcomed(renew_only=True)
        self.keeper.sessions = [entry(1)]
        self.pass_seconds(3 * LOOK_SECONDS)
        self.assertEqual(([], []), (self.received, self.keeper.calls))

    def test_ends_with_the_link(self) -> None:
        """A lost link's timer is cancelled: the keeper is asked no more."""
        self.welcomed()
        self.pair.cut()
        self.pass_seconds(3 * LOOK_SECONDS)
        self.assertEqual([], self.keeper.calls)

    def test_lost_while_the_keeper_thinks(self) -> None:
        """A keeper that answers after the link is gone causes nothing."""
        self.welcomed()
        self.keeper.sessions, self.keeper.policy = [entry(1)], DENIED
        self.keeper.held = Deferred()
        self.pass_seconds(LOOK_SECONDS + 1)
        self.assertEqual(["policy"], self.keeper.calls)
        self.pair.cut()
        held, self.keeper.held = self.keeper.held, None
        held.callback(None)
        self.pass_seconds(3 * LOOK_SECONDS)
        self.assertEqual(["policy"], self.keeper.calls)


class OutdatedTests(WatchCase):
    def setUp(self) -> None:
        super().setUp()
        self.told: list[dict[str, Any]] = []
        self.refuse = False
        self.pair.gateway_owner.requested = self._requested

    def _requested(self, link: Any, number: int, request: Open) -> None:
        self.assertEqual("gateway.report", request.handler)
        self.told.append(request.request)
        if self.refuse:
            link.refuse(number, "overload", "later")
            return
        channel = StreamChannel(link, Nobody())
        channel.accept(number, request)
        channel.write(b"{}")
        channel.finish(Outcome(status="ok"))

    def test_policy_changed(self) -> None:
        """A policy that went bad is told once, over the link that stays."""
        self.welcomed()
        self.keeper.policy = DENIED
        self.pass_seconds(3 * LOOK_SECONDS)
        (told,) = self.told
        self.assertEqual({"digest": "d2", "error": "agent.toml: odd"}, told["policy"])
        self.assertNotEqual(self.hello.catalogue, told["catalogue"])
        self.assertFalse(self.pair.device.closed)

    def test_at_once(self) -> None:
        """What the agent comes across itself is told without waiting for the minute."""
        self.welcomed()
        self.keeper.policy = DENIED
        self.links.look_soon()
        self.pass_seconds(1)
        self.assertEqual(1, len(self.told))

    def test_unchanged(self) -> None:
        """As long as HELLO tells the truth nothing is told."""
        self.welcomed()
        self.pass_seconds(5 * LOOK_SECONDS)
        self.assertEqual([], self.told)

    def test_not_taken(self) -> None:
        """What the gateway did not take is told again a minute later."""
        self.welcomed()
        self.refuse = True
        self.keeper.policy = DENIED
        self.pass_seconds(LOOK_SECONDS + 1)
        self.refuse = False
        self.pass_seconds(2 * LOOK_SECONDS)
        self.assertEqual(2, len(self.told))

    def test_no_keeper(self) -> None:
        """A keeper that does not answer denies everything, and the gateway hears of it."""
        self.welcomed()
        self.keeper.broken = True
        self.pass_seconds(LOOK_SECONDS + 1)
        self.assertEqual("no keeper", self.told[0]["policy"]["error"])

    def test_gateway_goes_away(self) -> None:
        """A link that the gateway ends is left to its successor."""
        self.welcomed()
        self.keeper.policy = DENIED
        self.pair.gateway.go_away(GoAway(code="shutdown"), close=False)
        self.pair.pump()
        self.pass_seconds(2 * LOOK_SECONDS)
        self.assertEqual([], self.told)


def outcome(report: Any) -> tuple[str, int]:
    return report.outcome.status, report.outcome.exit_code
