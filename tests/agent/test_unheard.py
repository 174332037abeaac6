"""How sessions of the agent's own handlers ended with nobody there, told by SESSIONS (S1, S2)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from rshell.handlers import BadRequest, Outcome, ProcessRequest
from rshell.link.channel import StreamChannel
from rshell.link.core.constants import MAX_PAYLOAD
from rshell.link.core.messages import SessionReport, encode
from rshell_agent.policy import PolicyReport
from rshell_agent.session_report import batches
from tests.agent.survival import SESSION, Caller, SurvivalCase
from tests.agent.test_channel import OK


class UnheardTests(SurvivalCase):
    def told(self) -> list[SessionReport]:
        """Return what would be told now."""
        return self.dispatcher.session_reports()

    def one(self) -> SessionReport:
        """Return the only report."""
        (report,) = self.told()
        return report

    def end_alone(self, *sessions: bytes) -> None:
        """Have each begun by somebody who vanishes, and let the grace pass."""
        for session in sessions:
            caller = Caller()
            self.ask(caller, session=session)
            caller.channel.reset("link-lost", "")
            self.pair.pump()
        self.advance(61)

    def test_running(self) -> None:
        """A session that lives is listed, attached or not, and is not over."""
        self.begin(self.echo)
        self.advance(5)
        self.assertEqual(
            SessionReport(
                session=SESSION,
                operator="alice",
                handler="echo",
                age_ms=5000,
                attached=True,
                attempt=1,
            ),
            self.one(),
        )
        self.cut()
        self.advance(10)
        report = self.one()
        self.assertEqual(("running", False, None), (report.state, report.attached, report.outcome))
        self.assertEqual((15_000, 10_000, 0), (report.age_ms, report.detached_ms, report.ended_ms))
        self.ask()
        report = self.one()
        self.assertEqual((True, 0, 2), (report.attached, report.detached_ms, report.attempt))

    def test_nobody_came_back(self) -> None:
        """After the grace the session is told of as lost, and over for as long as it was alone."""
        self.begin(self.echo)
        self.cut()
        self.advance(90)
        report = self.one()
        self.assertEqual(("finished", 90_000, 90_000, False), self.times(report))
        message = "nobody came back to echo within 60 s: it was cancelled"
        self.assertEqual(Outcome(status="lost", code="link-lost", message=message), report.outcome)

    @staticmethod
    def times(report: SessionReport) -> tuple[str, int, int, bool]:
        return report.state, report.age_ms, report.ended_ms, report.attached

    def test_outcome_of_its_own(self) -> None:
        """An outcome that nobody fetched is what is told, during the grace and after it."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            channel.write(b"x")
            await gate
            return Outcome(status="exit", exit_code=3, result={"much": "x" * 5000})

        self.begin(body)
        self.cut()
        gate.callback(None)
        for seconds in (30, 60):
            self.advance(seconds)
            self.assertEqual(Outcome(status="exit", exit_code=3), self.one().outcome)
            self.assertEqual("finished", self.one().state)
        self.assertEqual(90_000, self.one().ended_ms)

    def test_heard(self) -> None:
        """A session whose outcome arrived, or whose operator gave it up, is not told of."""
        self.begin(self.echo)
        self.caller.channel.loseConnection()
        self.pair.pump()
        self.assertEqual(["none"], self.caller.told("closed"))
        gone = Caller()
        self.ask(gone, session=bytes(16))
        gone.channel.reset("cancelled", "")
        self.pair.pump()
        self.advance(90)
        self.assertEqual([], self.told())

    def test_came_back(self) -> None:
        """Who comes back within the grace hears the end himself: nothing is left to tell."""
        self.begin(self.echo)
        self.cut()
        self.advance(30)
        self.ask()
        self.caller.channel.loseConnection()
        self.pair.pump()
        self.assertEqual([], self.told())

    def test_keepers(self) -> None:
        """What was spliced is the keeper's to tell."""

        async def body(channel: Any) -> Outcome:
            outcome: Outcome = await channel.splice(ProcessRequest(kind="exec", argv=[b"x"]))
            return outcome

        self.begin(body)
        self.assertEqual([], self.told())
        self.cut()
        self.advance(90)
        self.assertEqual([], self.told())

    def test_refused_while_alone(self) -> None:
        """One who refuses while nobody is there is told of, whatever the text is made of."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            raise BadRequest("no: \udcff")

        self.begin(body)
        self.cut()
        gate.callback(None)
        self.advance(1)
        expected = Outcome(status="error", code="bad-request", message="no: ?")
        self.assertEqual(expected, self.one().outcome)
        self.dispatcher.sessions_acknowledged([SESSION])
        self.assertEqual([], self.told())

    def test_ended_by_the_gateway(self) -> None:
        """One that the gateway ended while nobody was there says so (S2)."""
        self.begin(self.echo)
        self.cut()
        self.dispatcher.end_sessions([SESSION])
        self.advance(1)
        expected = Outcome(
            status="error", code="cancelled", message="the gateway ended the session"
        )
        self.assertEqual((expected, ["run", "cancelled"]), (self.one().outcome, self.runs))

    def test_policy_ends_it(self) -> None:
        """One that policy ended when somebody came back is told of: the link may be dead."""
        self.begin(self.echo)
        self.policy.current = PolicyReport(handlers=frozenset(), logins=())
        newer = Caller()
        newer.attempt = 1
        newer.channel = StreamChannel(self.pair.gateway, newer, resumable=True)
        self.ask(newer)
        self.assertEqual(["policy"], newer.told("closed"))
        self.advance(1)
        outcome = self.one().outcome
        assert outcome is not None
        self.assertEqual(("error", "policy"), (outcome.status, outcome.code))

    def test_acknowledged(self) -> None:
        """What the gateway acknowledges is told no more, and cannot run again (R3, S2)."""
        self.begin(self.echo)
        self.cut()
        self.advance(61)
        self.dispatcher.sessions_acknowledged([bytes(16), SESSION])
        self.assertEqual([], self.told())
        self.ask()
        self.assertEqual((["lost"], 1), (self.caller.told("closed"), self.runs.count("run")))

    def test_acknowledged_too_early(self) -> None:
        """A session that lives is spared, whatever the gateway acknowledges."""
        self.begin(self.echo)
        self.cut()
        self.dispatcher.sessions_acknowledged([SESSION])
        self.assertEqual("running", self.one().state)
        self.ask()
        self.caller.channel.write(b"here")
        self.pair.pump()
        self.assertEqual(b"here", self.caller.output)

    def test_bounds(self) -> None:
        """The last 256 ends are kept."""
        self.begin(self.echo)
        self.caller.channel.reset("cancelled", "")
        sessions = [number.to_bytes(16, "big") for number in range(300)]
        self.end_alone(*sessions[:150])
        self.end_alone(*sessions[150:])
        self.assertEqual(sessions[-256:], [report.session for report in self.told()])

    def test_too_many_away(self) -> None:
        """One that made room for others is told of as lost."""
        self.begin(self.echo)
        for number in range(257):
            caller = Caller()
            self.ask(caller, session=number.to_bytes(16, "big"))
            caller.channel.reset("link-lost", "")
            self.pair.pump()
        (report,) = [report for report in self.told() if report.outcome is not None]
        assert report.outcome is not None
        self.assertEqual(bytes(16), report.session)
        self.assertEqual(("lost", "overload"), (report.outcome.status, report.outcome.code))

    def test_strange_outcomes(self) -> None:
        """Whatever outcome a handler makes, its report is one that the gateway can read."""
        outcomes = [
            Outcome(status="error", message="\x00" * 1000),
            Outcome(status="x" * 100),
            Outcome(status="exit", exit_code=2**40),
        ]

        async def body(channel: Any) -> Outcome:
            channel.write(b"x")
            self.channel = channel
            await gate
            return outcomes.pop(0)

        for number in range(3):
            gate: Deferred[None] = Deferred()
            if number == 0:
                self.begin(body)
            else:
                self.caller = Caller()
                self.ask(session=bytes([number]) * 16)
            self.cut()
            gate.callback(None)
            self.advance(61)
        reports = self.told()
        self.assertEqual(3, len(reports))
        self.assertEqual("\x00" * 240, reports[0].outcome and reports[0].outcome.message)
        self.assertEqual(
            ["internal"] * 2, [each.outcome and each.outcome.code for each in reports[1:]]
        )
        (frame,) = batches(reports)
        self.assertLessEqual(len(encode(frame)), MAX_PAYLOAD)


class ServingTests(SurvivalCase):
    def test_not_run(self) -> None:
        """A handler that never used its channel is told of, and yet may run for who comes late."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"result")
            return OK

        self.begin(body)
        self.cut()
        self.advance(61)
        (report,) = self.dispatcher.session_reports()
        self.assertEqual("lost", report.outcome and report.outcome.status)
        gate = Deferred()
        self.ask(age_ms=0)
        self.assertEqual(["run", "cancelled", "run"], self.runs)
        (report,) = self.dispatcher.session_reports()
        self.assertEqual(("running", True), (report.state, report.attached))
