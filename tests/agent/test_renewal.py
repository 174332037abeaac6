"""Unit tests of renewal and session_report: when, how often, and what is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.credentials import CredentialStore
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import read_csr
from rshell.link.core.constants import MAX_PAYLOAD
from rshell.link.core.messages import Open, Outcome, SessionReport, Sessions, encode
from rshell_agent.identity import DeviceIdentity
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import KeeperUnavailable
from rshell_agent.renewal import Renewal
from rshell_agent.session_report import SessionsExchange, batches, report_of
from tests.agent.gateway import reply
from tests.agent.pair import LinkPair
from tests.identity.dev_fleet import credentials, fleet


class RenewalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = LinkPair()
        home = Path(self.mktemp()).absolute()
        self.store = CredentialStore(home)
        self.first = credentials("device-1")
        self.store.save(self.first)
        self.identity = DeviceIdentity(self.store, self.first)
        self.begin = self.first.certificate.not_valid_before_utc
        self.days = 0.0
        self.asked: list[Open] = []
        self.renewed: list[Any] = []
        self.answer: Any = self.issue
        self.pair.gateway_owner.requested = self.requested
        self.renewal = Renewal(
            self.pair.clock, self.now, self.identity, self.store, self.renewed.append
        )

    def now(self) -> datetime:
        seconds = self.pair.clock.seconds()
        return self.begin + timedelta(days=self.days, seconds=seconds)

    def requested(self, link: Any, number: int, request: Open) -> None:
        self.asked.append(request)
        self.answer(link, number, request)

    def issue(self, link: Any, number: int, request: Open, device: str = "") -> None:
        key = read_csr(base64.b64decode(request.request["csr"]))
        name = device or self.first.name.name
        leaf = fleet().keys.issue_device(key, name, datetime.now(UTC))
        chain = chain_to_pem((leaf, fleet().keys.device.certificate)).decode()
        reply(link, number, request, {"chain": chain, "gateways": ["other:1"]})

    def welcomed(self, at_once: bool = False) -> None:
        self.renewal.link_welcomed(self.pair.device, at_once=at_once)
        self.pair.pump()

    def later(self, seconds: float) -> None:
        # in steps, for the links' heartbeats
        while seconds > 0:
            self.pair.clock.advance(min(seconds, 5))
            self.pair.pump()
            seconds -= 5

    def failed(self) -> None:
        self.assertEqual([], self.renewed)
        self.assertIs(self.first, self.identity.current)


class RenewalTests(RenewalCase):
    def test_not_before_two_thirds(self) -> None:
        """E3: nothing is asked before 61.6 % of the life, and all is asked at two thirds."""
        self.days = 90 * (2 / 3 - 1 / 20) - 0.5
        self.welcomed()
        self.assertEqual([], self.asked)
        self.days = 60.1
        self.later(3600)
        self.assertEqual("gateway.renew", self.asked[0].handler)
        self.assertEqual(1, len(self.renewed))

    def test_clocks_apart(self) -> None:
        """A new certificate that looks old at once is not renewed again within the hour."""
        self.days = 80
        self.welcomed()
        self.later(3500)
        self.assertEqual(1, len(self.asked))
        self.later(200)
        self.assertEqual(2, len(self.asked))

    def test_new_key(self) -> None:
        """E3: the new certificate has a new key, comes into use, and the old one waits."""
        self.welcomed(at_once=True)
        current = self.identity.for_dial()
        self.assertNotEqual(
            self.first.key.public_key().public_numbers(),  # type: ignore[union-attr]  # only what the test uses
            current.key.public_key().public_numbers(),  # type: ignore[union-attr]  # only what the test uses
        )
        self.assertEqual(("other:1",), current.gateways)
        self.assertIsNotNone(self.store.previous())
        self.identity.welcomed(current)
        self.assertIsNone(self.store.previous())

    def test_refused_certificate(self) -> None:
        """If the gateway refuses the new certificate, the old one is tried, then the new again."""
        self.assertFalse(self.identity.refused())
        self.welcomed(at_once=True)
        self.assertTrue(self.identity.refused())
        self.assertEqual(self.first.certificate, self.identity.for_dial().certificate)
        self.assertTrue(self.identity.refused())
        self.assertIs(self.identity.current, self.identity.for_dial())

    def test_failure_is_repeated(self) -> None:
        """A refusal is no end: 60 s later, doubling, with the same pending key."""
        self.answer = lambda link, number, request: link.refuse(number, "overload", "later")
        self.welcomed(at_once=True)
        self.failed()
        self.later(60)
        self.later(119)
        self.assertEqual(2, len(self.asked))
        self.answer = self.issue
        self.later(1)
        self.assertEqual(3, len(self.asked))
        keys = [read_csr(base64.b64decode(request.request["csr"])) for request in self.asked]
        self.assertEqual(1, len({key.public_numbers() for key in keys}))  # type: ignore[union-attr]  # only what the test uses
        self.assertEqual(1, len(self.renewed))

    def test_bad_answers(self) -> None:
        """What is not a certificate of our key and name changes nothing."""
        other = chain_to_pem(fleet().leaves["device-1"].chain).decode()
        for answer in (
            lambda *given: reply(*given, {"chain": other}),
            lambda *given: reply(*given, {"chain": "x"}),
            lambda *given: reply(*given, ["no", "map"]),
            lambda *given: self.issue(*given, "00000000-0000-4000-8000-000000000000"),
        ):
            self.answer = answer
            self.welcomed(at_once=True)
            self.failed()
        self.assertEqual(4, len(self.asked))

    def test_no_answer(self) -> None:
        """A gateway that does not answer is asked again, not waited for."""
        self.answer = lambda link, number, request: None
        self.welcomed(at_once=True)
        self.later(30)
        self.failed()
        self.later(60)
        self.assertEqual(2, len(self.asked))

    def test_replaced_link(self) -> None:
        """A question over a link that has a successor is given up, and not asked there again."""
        self.answer = lambda *_: None
        self.welcomed(at_once=True)
        self.renewal.link_lost()
        self.later(300)
        self.assertEqual(1, len(self.asked))

    def test_link_lost(self) -> None:
        """Without a link nothing is asked, and no timer is left."""
        self.answer = lambda link, number, request: None
        self.welcomed(at_once=True)
        self.pair.cut()
        self.renewal.link_lost()
        self.later(10_000)
        self.assertEqual(1, len(self.asked))


class FakeKeeper:
    """Answers calls from a table and notes them."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        self.calls.append((name, fields))
        answer = self.answers.get(name, {})
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


ENTRY = {
    "session": wire.base64(bytes(16)),
    "operator": "alice",
    "handler": "exec",
    "login": "bob",
    "pid": 7,
    "started_ms_ago": 1500,
    "attempt": 4,
    "attached": False,
    "viewers": 1,
    "detached_ms": 3,
    "state": "finished",
    "outcome": {"status": "signal", "signal": "TERM", "exit_code": None, "core": True},
}


class SessionReportTests(SynchronousTestCase):
    def exchange(self, keeper: FakeKeeper) -> tuple[SessionsExchange, LinkPair]:
        given: Any = keeper
        return SessionsExchange(given), LinkPair()

    def test_report(self) -> None:
        """S1: an entry of the keeper becomes a report of the link."""
        self.assertEqual(
            SessionReport(
                session=bytes(16),
                operator="alice",
                handler="exec",
                login="bob",
                state="finished",
                age_ms=1500,
                ended_ms=3,
                attempt=4,
                detached_ms=3,
                outcome=Outcome(status="signal", signal="TERM"),
            ),
            report_of(ENTRY),
        )

    def test_report_of_a_running_one(self) -> None:
        """S1: for how long nobody is attached is told of running ones too, and is no end."""
        running = {**ENTRY, "state": "running", "outcome": None}
        report = report_of(running)
        self.assertEqual((0, 3, False), (report.ended_ms, report.detached_ms, report.attached))
        report = report_of({**running, "attached": True, "detached_ms": None})
        self.assertEqual((0, True), (report.detached_ms, report.attached))

    def test_batches(self) -> None:
        """S1: however many there are, each frame fits, and only the last says no more."""
        message = Outcome(status="error", message="x" * 1000)
        reports = [msgspec.structs.replace(report_of(ENTRY), outcome=message)] * 100
        frames = list(batches(reports))
        self.assertGreater(len(frames), 5)
        self.assertEqual(100, sum(len(frame.sessions) for frame in frames))
        self.assertTrue(all(len(encode(frame)) <= MAX_PAYLOAD for frame in frames))
        self.assertEqual({True}, {frame.more for frame in frames[:-1]})
        self.assertFalse(frames[-1].more)

    def test_empty(self) -> None:
        """S1: no session is a list, too: the gateway learns that there is none."""
        exchange, pair = self.exchange(FakeKeeper(sessions={"sessions": []}))
        self.successResultOf(Deferred.fromCoroutine(exchange.report(pair.device, list)))
        pair.pump()
        self.assertEqual([Sessions()], pair.gateway_owner.sessions)

    def test_own(self) -> None:
        """S1: what the agent serves itself follows the keeper's."""
        exchange, pair = self.exchange(FakeKeeper(sessions={"sessions": [ENTRY]}))
        own = SessionReport(session=bytes([7]) * 16, operator="ann", handler="echo")
        work = exchange.report(pair.device, lambda: [own])
        self.successResultOf(Deferred.fromCoroutine(work))
        pair.pump()
        self.assertEqual([Sessions([report_of(ENTRY), own])], pair.gateway_owner.sessions)

    def test_no_keeper(self) -> None:
        """Without a keeper nothing is reported: silence must not read as `no sessions`."""
        for keeper in (
            FakeKeeper(sessions=KeeperUnavailable("gone")),
            FakeKeeper(sessions={"sessions": [{"session": "?"}]}),
        ):
            exchange, pair = self.exchange(keeper)
            self.successResultOf(Deferred.fromCoroutine(exchange.report(pair.device, list)))
            pair.pump()
            self.assertEqual([], pair.gateway_owner.sessions)

    def test_obey(self) -> None:
        """S2: `end` and `acknowledged` become calls, in pieces that fit a frame."""
        keeper = FakeKeeper()
        exchange, _ = self.exchange(keeper)
        names = [number.to_bytes(16, "big") for number in range(301)]
        answer = Sessions(end=names, acknowledged=names[:1])
        self.successResultOf(Deferred.fromCoroutine(exchange.obey(answer)))
        self.assertEqual(
            [("end", 300), ("end", 1), ("acknowledge", 1)],
            [(name, len(fields["sessions"])) for name, fields in keeper.calls],
        )
