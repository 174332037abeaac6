"""Handlers of the agent's own over links that break (rules R1 to R4, R7 and R8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from rshell.handlers import BadRequest, Outcome, ProcessRequest
from rshell.link.channel import StreamChannel
from rshell.link.core.messages import GoAway, Open, Positions
from rshell_agent.channel import StreamOver
from rshell_agent.policy import PolicyReport
from rshell_agent.served import ServedSessions
from tests.agent.survival import SESSION, Caller, SurvivalCase
from tests.agent.test_channel import OK


class SurvivingTests(SurvivalCase):
    def test_goes_on(self) -> None:
        """A conversation goes on over the next link; the handler notices nothing."""
        self.begin(self.echo)
        self.caller.channel.write(b"one ")
        self.pair.pump()
        self.cut()
        self.caller.channel.write(b"two ")
        self.advance(30)
        self.ask()
        self.caller.channel.write(b"three")
        self.caller.channel.loseConnection()
        self.pair.pump()
        self.assertEqual(b"one two three", self.caller.output)
        self.assertEqual(["none"], self.caller.told("closed"))
        self.assertEqual(["run"], self.runs)

    def test_speaks_while_alone(self) -> None:
        """What the handler says while nobody is there is kept, its outcome too."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            channel.write(b"before ")
            await gate
            channel.write(b"alone")
            channel.send_event("progress", {"done": 1})
            return OK

        self.begin(body)
        self.cut()
        gate.callback(None)
        self.advance(59)
        self.ask()
        self.assertEqual(b"before alone", self.caller.output)
        self.assertEqual([{"done": 1}], self.caller.told("progress"))
        self.assertEqual(["none"], self.caller.told("closed"))

    def test_first_use_while_alone(self) -> None:
        """A handler whose link broke before its first use goes on, and is found (R3)."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"result")
            return OK

        self.begin(body)
        self.cut()
        gate.callback(None)
        self.advance(1)
        self.ask()
        self.assertEqual((b"result", ["run"]), (self.caller.output, self.runs))
        self.assertEqual(["none"], self.caller.told("closed"))

    def test_back_before_first_use(self) -> None:
        """Who comes back before the first use is accepted at it; no second handler runs."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"result")
            return OK

        self.begin(body)
        self.cut()
        self.advance(50)
        self.ask(age_ms=1)
        self.advance(50)
        gate.callback(None)
        self.pair.pump()
        self.assertEqual((b"result", ["run"]), (self.caller.output, self.runs))

    def test_displaced_before_first_use(self) -> None:
        """An older attempt that still waits is refused duplicate; the handler stays one."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"result")
            return OK

        self.begin(body)
        newer = Caller()
        newer.attempt = 1
        newer.channel = StreamChannel(self.pair.gateway, newer, resumable=True)
        self.ask(newer)
        self.assertEqual(["duplicate"], self.caller.told("closed"))
        gate.callback(None)
        self.pair.pump()
        self.assertEqual((b"result", ["run"]), (newer.output, self.runs))

    def test_first_use_while_the_link_ends(self) -> None:
        """A link that ends late does not detach what went on over another one meanwhile."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"result")
            return await self.echo(channel)

        self.begin(body)
        ending = self.pair.device
        ending.go_away(GoAway(code="none"), close=True)
        gate.callback(None)
        self.relink(self.pair.clock)
        self.ask()
        ending.abort("at last")
        self.advance(61)
        self.caller.channel.write(b"!")
        self.pair.pump()
        self.assertEqual((b"result!", ["run"]), (self.caller.output, self.runs))

    def test_splice_while_alone(self) -> None:
        """Nobody can be spliced while nobody is there: the next attempt runs the handler anew."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            outcome: Outcome = await channel.splice(ProcessRequest(kind="exec", argv=[b"x"]))
            return outcome

        self.begin(body)
        self.cut()
        gate.callback(None)
        self.assertEqual([], self.keeper.sides)
        self.pair.clock.advance(1)
        self.ask()
        self.assertEqual(["run", "cancelled", "run"], self.runs)
        self.assertEqual(1, len(self.keeper.sides))

    def test_splice_while_the_link_ends(self) -> None:
        """A run that is over is not one that waits: its link's end leaves nothing behind."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            outcome: Outcome = await channel.splice(ProcessRequest(kind="exec", argv=[b"x"]))
            return outcome

        self.begin(body)
        ending = self.pair.device
        ending.go_away(GoAway(code="none"), close=True)
        gate.callback(None)
        ending.abort("at last")
        self.assertEqual({}, self.dispatcher._served._away)
        self.assertFalse([c for c in self.pair.clock.getDelayedCalls() if c.getTime() == 60.0])

    def test_bad_request_while_alone(self) -> None:
        """One who refuses while nobody is there has not run: the next attempt is told."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            raise BadRequest("no")

        self.begin(body)
        self.cut()
        gate.callback(None)
        self.advance(1)
        self.ask()
        self.assertEqual(["bad-request"], self.caller.told("closed"))

    def test_back_pressure(self) -> None:
        """A producer of the handler is paused while nobody is there, and resumed after."""
        said: list[str] = []

        class Producer:
            def pauseProducing(self) -> None:
                said.append("pause")

            def resumeProducing(self) -> None:
                said.append("resume")

            def stopProducing(self) -> None:
                said.append("stop")

        async def body(channel: Any) -> Outcome:
            channel.registerProducer(Producer(), True)
            self.channel = channel
            await Deferred()
            return OK

        self.begin(body)
        self.cut()
        self.channel.write(bytes(100_000))
        self.assertEqual(["pause"], said)
        self.ask()
        self.assertEqual((["pause", "resume"], 100_000), (said, len(self.caller.output)))
        self.cut()
        self.advance(60)
        self.assertEqual("stop", said[-1])


class GraceTests(SurvivalCase):
    def test_grace(self) -> None:
        """After 60 s alone the handler is cancelled, and the session is lost for ever (R4, R7)."""
        self.begin(self.echo)
        self.caller.channel.write(b"x")
        self.pair.pump()
        self.cut()
        self.advance(59.9)
        self.assertEqual(["run"], self.runs)
        self.advance(0.1)
        self.pair.clock.advance(0)
        self.assertEqual(["run", "cancelled"], self.runs)
        self.ask()
        self.assertEqual(["lost"], self.caller.told("closed"))

    def test_grace_begins_anew(self) -> None:
        """Each break has its own 60 s."""
        self.begin(self.echo)
        for _ in range(3):
            self.cut()
            self.advance(59)
            self.ask()
            self.advance(59)
        self.caller.channel.write(b"still here")
        self.pair.pump()
        self.assertEqual(b"still here", self.caller.output)

    def test_outcome_is_kept_for_the_grace(self) -> None:
        """An outcome nobody fetched is told within 60 s, and lost after."""

        async def body(channel: Any) -> Outcome:
            return Outcome(status="exit", exit_code=3)

        self.begin(body)
        self.assertEqual(["none"], self.caller.told("closed"))
        for wait, codes in ((59, ["none"]), (61, ["lost"])):
            caller = Caller()
            session = bytes([wait]) * 16
            self.pair.gateway.flush = lambda: None  # type: ignore[method-assign]  # all is lost
            caller.ask(self.pair, session=session)
            del self.pair.gateway.flush  # type: ignore[method-assign]  # as before
            self.pair.gateway.flush()
            self.pair.device.flush()
            self.deliver_open()
            self.cut()
            self.advance(wait)
            self.ask(caller, session=session)
            self.assertEqual(codes, caller.told("closed"), wait)

    def deliver_open(self) -> None:
        """Let the OPEN arrive, and what it is answered be lost."""
        data, self.pair._wires[1].written = self.pair._wires[1].written, b""
        self.pair.device.dataReceived(data)

    def test_stop(self) -> None:
        """An agent that goes down tells its own sessions so, and leaves no timer."""
        self.begin(self.echo)
        away = Caller()
        self.ask(away, session=bytes(16))
        away.channel.reset("link-lost", "")
        self.pair.pump()
        self.dispatcher.stop()
        self.pair.pump()
        self.assertEqual(["shutdown"], self.caller.told("closed"))
        self.assertEqual(["run", "run", "cancelled", "cancelled"], self.runs)
        self.pair.clock.advance(0)
        delays = [call.getTime() for call in self.pair.clock.getDelayedCalls()]
        self.assertFalse([delay for delay in delays if delay == 60.0])

    def test_bounds(self) -> None:
        """At most 256 sessions wait for somebody; the one longest alone goes first."""
        self.begin(self.echo)
        callers = [Caller() for _ in range(300)]
        for number, caller in enumerate(callers):
            self.ask(caller, session=number.to_bytes(16, "big"))
            caller.channel.reset("link-lost", "")
            self.pair.pump()
            self.pair.clock.advance(0.001)
        self.assertEqual(300 - 256, self.runs.count("cancelled"))
        served = self.dispatcher._served
        self.assertIsNone(served.get((43).to_bytes(16, "big")))
        self.assertIsNotNone(served.get((44).to_bytes(16, "big")))

    def test_bounds_are_for_those_away(self) -> None:
        """A session that somebody has come back to does not make room for others."""
        self.begin(self.echo)
        self.caller.channel.reset("link-lost", "")
        self.pair.pump()
        again = Caller()
        again.attempt = 1
        again.channel = StreamChannel(self.pair.gateway, again, resumable=True)
        self.ask(again)
        for number in range(257):
            caller = Caller()
            self.ask(caller, session=number.to_bytes(16, "big"))
            caller.channel.reset("link-lost", "")
            self.pair.pump()
        again.channel.write(b"here")
        self.pair.pump()
        self.assertEqual(b"here", again.output)

    def test_bytes_are_bounded(self) -> None:
        """What is kept for those away is 16 MiB in all when one more leaves."""

        async def body(channel: Any) -> Outcome:
            channel.write(bytes(6 << 20))
            await Deferred()
            return OK

        self.begin(body)
        for number in range(4):
            caller = Caller()
            self.ask(caller, session=bytes([number]) * 16)
            caller.channel.pauseProducing()
            caller.channel.reset("link-lost", "")
            self.pair.pump()
        kept = [self.dispatcher._served.get(bytes([n]) * 16) for n in range(4)]
        total = sum(run.kept_bytes for run in kept if run is not None)
        self.assertLessEqual(total, 16 << 20)


class JoiningTests(SurvivalCase):
    def refused(self, **fields: Any) -> str:
        """Ask as somebody else; return the code of the refusal."""
        caller = Caller()
        caller.attempt = 1
        caller.channel = StreamChannel(self.pair.gateway, caller, resumable=True)
        self.ask(caller, **{"attempt": 2, **fields})
        (code,) = caller.told("closed")
        return str(code)

    def test_who_may_not_join(self) -> None:
        """Each OPEN that may not join is refused with its code, and the session lives on."""
        self.begin(self.echo)
        for code, fields in (
            ("policy", {"operator": "mallory"}),
            ("duplicate", {"attempt": 1}),
            ("not-found", {"view": True}),
        ):
            self.assertEqual(code, self.refused(**fields), fields)
        self.caller.channel.write(b"alive")
        self.pair.pump()
        self.assertEqual((b"alive", ["run"]), (self.caller.output, self.runs))

    def test_other_handler(self) -> None:
        """A session of one handler is not joined in the name of another."""
        self.begin(self.echo)
        talk = self.pair.open("exec", {"argv": ["eA=="]}, session=SESSION, attempt=2)
        self.assertEqual("bad-request", self.ended(talk))

    def test_impossible_positions(self) -> None:
        """An OPEN with positions that cannot be is refused lost; the session lives on (R2)."""
        self.begin(self.echo)
        self.caller.channel.write(b"x")
        self.pair.pump()
        self.cut()
        liar = Caller()
        liar.channel = StreamChannel(self.pair.gateway, liar)
        opening = Open(
            handler="echo",
            operator="alice",
            session=SESSION,
            attempt=2,
            resume=Positions(99, 1000, 0),
        )
        self.pair.gateway.open_stream(opening, liar.channel)
        self.pair.pump()
        self.assertEqual(["lost"], liar.told("closed"))
        self.ask()
        self.caller.channel.write(b"y")
        self.pair.pump()
        self.assertEqual((b"xy", ["run"]), (self.caller.output, self.runs))

    def test_higher_attempt_displaces(self) -> None:
        """A higher attempt takes over from one that still seems to live; that one is told."""
        self.begin(self.echo)
        self.caller.channel.write(b"one")
        self.pair.pump()
        self.advance(2)
        newer = Caller()
        newer.attempt = 1
        newer.channel = StreamChannel(self.pair.gateway, newer, resumable=True)
        self.ask(newer, resume=Positions(0, 0, 0))
        self.assertEqual(["duplicate"], self.caller.told("closed"))
        newer.channel.write(b"two")
        self.pair.pump()
        self.assertEqual((b"two", [{"bytes": 3}]), (newer.output, newer.told("gap")))
        self.assertEqual(["run"], self.runs)

    def test_policy_of_now(self) -> None:
        """A session whose handler or login is not allowed any more ends when asked for (R6)."""
        for report in (
            PolicyReport(frozenset({"exec"}), ("self", "bob")),
            PolicyReport(frozenset({"echo"}), ("self",)),
            PolicyReport(error="unreadable"),
        ):
            self.setUp()
            self.begin_as_bob()
            self.cut()
            self.policy.current = report
            self.ask(login="bob")
            self.pair.clock.advance(0)
            self.assertEqual(["policy"], self.caller.told("closed"))
            self.assertEqual(["run", "cancelled"], self.runs)

    def begin_as_bob(self) -> None:
        async def run(request: Any, channel: Any, device: Any) -> Any:
            self.runs.append("run")
            try:
                return await self.echo(channel)
            except (CancelledError, StreamOver):
                self.runs.append("cancelled")
                raise

        self.serve(run)
        self.ask(login="bob")

    def test_gateway_ends_it(self) -> None:
        """A session that the gateway names ends, attached or not (S2)."""
        self.begin(self.echo)
        self.cut()
        self.dispatcher.end_sessions([bytes(16), SESSION])
        self.pair.clock.advance(0)
        self.assertEqual(["run", "cancelled"], self.runs)

    def test_unknown_is_judged_at_its_arrival(self) -> None:
        """A handler that thinks before its first use makes no old attempt look new (R3)."""
        gate: Deferred[None] = Deferred()

        async def body(channel: Any) -> Outcome:
            await gate
            channel.write(b"ran")
            return OK

        self.caller.attempt = 1
        self.caller.channel = StreamChannel(self.pair.gateway, self.caller, resumable=True)
        self.serve_body(body)
        self.ask(age_ms=5_000)
        self.advance(30)
        gate.callback(None)
        self.pair.pump()
        self.assertEqual((["unknown"], b""), (self.caller.told("closed"), self.caller.output))

    def test_first_use_without_a_byte(self) -> None:
        """Writing nothing is a first use: what may have run before is refused before it acts."""
        acted: list[str] = []

        async def body(channel: Any) -> Outcome:
            channel.write(b"")
            acted.append("acted")
            return OK

        self.caller.attempt = 1
        self.caller.channel = StreamChannel(self.pair.gateway, self.caller, resumable=True)
        self.serve_body(body)
        self.ask(age_ms=5_000)
        self.assertEqual((["unknown"], []), (self.caller.told("closed"), acted))

    def serve_body(self, body: Callable[[Any], Any]) -> None:
        async def run(request: Any, channel: Any, device: Any) -> Any:
            return await body(channel)

        self.serve(run)

    def test_remembered_from_its_end(self) -> None:
        """A session that lived for hours is remembered for an hour after its end (R4)."""
        served = ServedSessions(Clock())
        self.begin(self.echo)
        for _ in range(3):
            self.advance(3000)
        self.caller.channel.reset("cancelled", "")
        self.pair.pump()
        self.advance(3599)
        self.assertTrue(self.dispatcher._served.ended(SESSION))
        self.assertFalse(served.ended(SESSION))
