"""A handler's crash, flood, time limit and stubbornness: an outcome of its stream, no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.interfaces import ICommandHandler
from rshell.testing import HandlerCall, HandlerHarness
from rshell_agent.guarding import (
    EVENTS_BURST,
    FAIR_BYTES,
    MAX_UNSENT_BYTES,
    PROGRESS_BURST,
    PROGRESS_SECONDS,
    EventPacer,
    OutputLimit,
)
from rshell_agent.handler_run import STUBBORN_SECONDS

OK = Outcome(status="ok")
Body = Callable[[Any, Any], Awaitable[Outcome]]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


@implementer(IPlugin, ICommandHandler)
class Handler:
    name = "plugged"
    summary = "Do as the test says"
    request_type = Request
    priority = "normal"

    def __init__(self, body: Body) -> None:
        self._body = body

    async def run(self, request: Any, channel: Any, device: Any) -> Outcome:
        return await self._body(channel, device)


class GuardCase(SynchronousTestCase):
    def called(self, body: Body, **more: Any) -> HandlerCall:
        """Return a call of a handler with this body."""
        self.harness = HandlerHarness(Handler(body))
        self.addCleanup(self.harness.close)
        return self.harness.call(**more)

    def assert_failed(self, call: HandlerCall, code: str, kind: type | None = None) -> str:
        """Check that a call ended by an error of this code, and the link lives."""
        assert call.outcome is not None, call.refused
        self.assertEqual(("error", code), (call.outcome.status, call.outcome.code))
        if kind is not None:
            self.assertEqual(1, len(self.flushLoggedErrors(kind)))
        again = self.harness.call()
        self.assertTrue(again.opened, again.refused)
        self.flushLoggedErrors()
        return call.outcome.message or ""


class CrashTests(GuardCase):
    def test_protocol(self) -> None:
        """A protocol that raises ends its stream with an error, and hears no more."""
        heard: list[bytes] = []

        class Bad(Protocol):
            def dataReceived(self, data: bytes) -> None:
                heard.append(data)
                raise ZeroDivisionError

        async def body(channel: Any, device: Any) -> Outcome:
            channel.start_protocol(Bad())
            await Deferred()
            return OK

        call = self.called(body)
        call.write(b"x")
        call.write(b"y")
        self.assert_failed(call, "internal", ZeroDivisionError)
        self.assertEqual([b"x"], heard)

    def test_listener(self) -> None:
        """So does a listener of events."""

        async def body(channel: Any, device: Any) -> Outcome:
            channel.on_event(lambda kind, body: 1 / 0)
            await Deferred()
            return OK

        call = self.called(body)
        call.send_event("signal", {"signal": "HUP"})
        self.assert_failed(call, "internal", ZeroDivisionError)

    def test_producer(self) -> None:
        """And a producer, which is called from the middle of the link's work."""

        class Bad:
            def resumeProducing(self) -> None:
                raise ZeroDivisionError

            def pauseProducing(self) -> None:
                raise ZeroDivisionError

            def stopProducing(self) -> None:
                raise ZeroDivisionError

        for streaming in (True, False):

            async def body(channel: Any, device: Any, streaming: bool = streaming) -> Outcome:
                channel.registerProducer(Bad(), streaming)
                if streaming:
                    channel.write(bytes(300_000))
                await Deferred()
                return OK

            call = self.called(body)
            assert call.outcome is not None
            self.assertEqual(("error", "internal"), (call.outcome.status, call.outcome.code))
            self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))

    def test_exit(self) -> None:
        """A handler that calls sys.exit ends itself and not the agent."""

        async def body(channel: Any, device: Any) -> Outcome:
            channel.write(b"bye")
            raise SystemExit(3)

        self.assert_failed(self.called(body), "internal", SystemExit)

    def test_writes_after_the_end(self) -> None:
        """What a forgotten timer or producer writes after the outcome is dropped."""
        channels: list[Any] = []

        async def body(channel: Any, device: Any) -> Outcome:
            channels.append(channel)
            channel.registerProducer(Producer(), True)
            channel.write(b"1")
            device.clock.callLater(0, channel.write, b"2")
            device.clock.callLater(0, channel.send_event, "progress", {"done": 1})
            return OK

        stopped: list[int] = []

        class Producer:
            def stopProducing(self) -> None:
                stopped.append(1)

        call = self.called(body)
        self.assertEqual((b"1", OK, []), (bytes(call.stdout), call.outcome, call.events))
        self.assertEqual([1], stopped)


class FloodTests(GuardCase):
    def test_writes(self) -> None:
        """A handler that writes on while nobody reads is stopped; what it wrote is delivered."""
        pieces = 0

        async def body(channel: Any, device: Any) -> Outcome:
            nonlocal pieces
            while True:
                channel.write(bytes(100_000))
                pieces += 1

        call = self.called(body, paused=True)
        self.assertLessEqual(pieces * 100_000, MAX_UNSENT_BYTES + 400_000)
        written = pieces * 100_000
        call.resume()
        self.assertIn("4096 KiB", self.assert_failed(call, "output-limit"))
        self.assertEqual(written, len(call.stdout))

    def test_crowd(self) -> None:
        """Many that wait with much hold less each: the newest is stopped at its fair part."""

        async def body(channel: Any, device: Any) -> Outcome:
            for _ in range(30):
                channel.write(bytes(100_000))
            return OK

        first = self.called(body, paused=True)
        others = [self.harness.call(paused=True) for _ in range(7)]
        for call in (first, *others):
            call.resume()
        statuses = [call.outcome and call.outcome.status for call in (first, *others)]
        self.assertEqual(["ok"] * 5 + ["error"] * 3, statuses)
        self.assertLess(len(others[-1].stdout), 3 * FAIR_BYTES)

    def test_swallowed(self) -> None:
        """Also one that catches everything and goes on, or that writes from a timer."""

        async def stubborn(channel: Any, device: Any) -> Outcome:
            for _ in range(100):
                try:
                    channel.write(bytes(1_000_000))
                except Exception:  # as plug-ins do
                    await deferLater(device.clock, 0)
            return OK

        async def by_timer(channel: Any, device: Any) -> Outcome:
            device.clock.callLater(0, channel.write, bytes(MAX_UNSENT_BYTES + 1))
            await Deferred()
            return OK

        call = self.called(stubborn, paused=True)
        call.resume()
        self.harness.advance(STUBBORN_SECONDS)
        self.assert_failed(call, "output-limit")
        self.flushLoggedErrors(OutputLimit)

    def test_one_piece(self) -> None:
        """Four MiB at once are an answer; a byte more is too much."""
        for size, status in ((MAX_UNSENT_BYTES, "ok"), (MAX_UNSENT_BYTES + 1, "error")):

            async def body(channel: Any, device: Any, size: int = size) -> Outcome:
                channel.write(b"")
                channel.writeSequence([bytes(size)])
                return OK

            call = self.called(body)
            assert call.outcome is not None
            self.assertEqual(status, call.outcome.status)
            self.assertEqual(size if status == "ok" else 0, len(call.stdout))

    def test_events(self) -> None:
        """Events keep to what the link may carry, all in order; without end they are stopped."""
        wanted = 400

        async def body(channel: Any, device: Any) -> Outcome:
            for number in range(wanted):
                channel.send_event("found", {"number": number})
            return OK

        call = self.called(body)
        self.assertLessEqual(len(call.events), EVENTS_BURST)
        self.harness.advance(1)
        self.assertLess(len(call.events), 300)
        self.harness.advance(10)
        self.assertEqual(list(range(wanted)), [body["number"] for _, body in call.events])
        self.assertEqual(OK, call.outcome)
        wanted = 5000
        call = self.called(body)
        self.harness.advance(60)
        self.assertIn("events", self.assert_failed(call, "output-limit"))

    def test_progress(self) -> None:
        """Of progress that comes too fast the newest is told, and the last always."""

        async def body(channel: Any, device: Any) -> Outcome:
            for number in range(1000):
                channel.send_event("progress", {"done": number})
            return OK

        call = self.called(body)
        told = [body["done"] for _, body in call.events]
        self.assertEqual([*range(PROGRESS_BURST), 999], told)
        assert call.outcome is not None
        self.assertEqual("ok", call.outcome.status)


class PacerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.pacer = EventPacer(lambda kind, body: self.sent.append((kind, body)), self.clock)

    def test_timer(self) -> None:
        """Progress that waits is told when its time has come, and a stop forgets it."""
        first = list(range(PROGRESS_BURST))
        for number in range(99):
            self.pacer.event("progress", {"done": number})
        self.assertEqual(first, [body["done"] for _, body in self.sent])
        self.clock.advance(PROGRESS_SECONDS)
        self.assertEqual([*first, 98], [body["done"] for _, body in self.sent])
        self.pacer.event("progress", {"done": 100})
        self.pacer.stop()
        self.clock.advance(0.05)
        self.assertEqual([*first, 98], [body["done"] for _, body in self.sent])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_order(self) -> None:
        """Progress that waits goes before another event, so that order is kept."""
        for number in range(99):
            self.pacer.event("progress", {"done": number})
        self.pacer.event("found", {})
        self.assertEqual([98, None], [body.get("done") for _, body in self.sent[-2:]])
        self.assertEqual([], self.clock.getDelayedCalls())


class TimeTests(GuardCase):
    async def waiting(self, channel: Any, device: Any) -> Outcome:
        channel.write(b"so far")
        await Deferred()
        return OK

    def test_deadline(self) -> None:
        """A handler that takes too long is cancelled, and the outcome says so."""
        call = self.called(self.waiting, timeout=5)
        self.harness.advance(4.9)
        self.assertIsNone(call.outcome)
        self.harness.advance(0.2)
        assert call.outcome is not None
        self.assertEqual(("timeout", "timeout"), (call.outcome.status, call.outcome.code))
        self.assertEqual("plugged took longer than 5 s", call.outcome.message)
        self.assertEqual(b"so far", bytes(call.stdout))

    def test_in_time(self) -> None:
        """One that ends in time leaves no timer behind."""

        async def body(channel: Any, device: Any) -> Outcome:
            channel.write(b"x")
            return OK

        call = self.called(body, timeout=5)
        self.harness.advance(10)
        self.assertEqual(OK, call.outcome)

    def test_before_the_first_use(self) -> None:
        """Also one that has not used its channel yet."""

        async def body(channel: Any, device: Any) -> Outcome:
            await Deferred()
            return OK

        call = self.called(body, timeout=1)
        self.harness.advance(1.1)
        assert call.outcome is not None
        self.assertEqual("timeout", call.outcome.status)

    def test_handler_returns(self) -> None:
        """What a handler makes of being out of time does not count."""

        async def body(channel: Any, device: Any) -> Outcome:
            channel.write(b"x")
            try:
                await Deferred()
            except CancelledError:
                pass
            return OK

        call = self.called(body, timeout=1)
        self.harness.advance(1.1)
        assert call.outcome is not None
        self.assertEqual("timeout", call.outcome.status)

    def test_stubborn(self) -> None:
        """A handler that does not stop when cancelled loses its stream a few seconds later."""

        async def body(channel: Any, device: Any) -> Outcome:
            channel.write(b"x")
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    pass

        for act, timeout, status in (("cancel", None, "error"), ("wait", 1.0, "timeout")):
            call = self.called(body, timeout=timeout)
            if act == "cancel":
                call.cancel()
            self.harness.advance((timeout or 0) + STUBBORN_SECONDS - 0.5)
            self.assertIsNone(call.outcome)
            self.harness.advance(1)
            assert call.outcome is not None
            self.assertEqual(status, call.outcome.status)
            if act == "cancel":
                self.assertIn("does not stop", call.outcome.message or "")

    def test_spliced(self) -> None:
        """A process gets the time limit: the keeper keeps it, and a shorter one of its own wins."""

        async def body(channel: Any, device: Any) -> Outcome:
            outcome: Outcome = await channel.splice(
                ProcessRequest(kind="exec", argv=[b"sleep", b"100"], timeout_ms=60_000)
            )
            return outcome

        call = self.called(body, timeout=2)
        self.harness.advance(1.5)
        self.assertIsNone(call.outcome)
        self.harness.advance(8)
        assert call.outcome is not None
        self.assertEqual("timeout", call.outcome.status)
