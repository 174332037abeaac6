"""Unit tests of rshell_agent.channel and dispatch: lazy accept, refusals, outcomes, cancelling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rshell.handlers import BadRequest, Outcome
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel
from rshell.link.core.constants import DEFAULT_WINDOW
from rshell.link.core.messages import Open
from rshell_agent.channel import HandlerChannel
from rshell_agent.device import DeviceContext
from rshell_agent.dispatch import StreamDispatcher
from rshell_agent.handlers import ExecHandler
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import KeeperUnavailable
from rshell_agent.policy import PolicyReport
from rshell_agent.registry import HandlerRegistry
from rshell_agent.served import ServedSessions
from tests.agent.conversation import Talk
from tests.agent.pair import LinkPair

OK = Outcome(status="ok")


class EchoRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""


@implementer(IPlugin, ICommandHandler)
class Handler:
    """A plug-in whose ``run`` is given by the test."""

    name = "echo"
    summary = "For tests."
    request_type = EchoRequest
    priority = "normal"

    def __init__(self, body: Callable[[Any, Any, Any], Awaitable[Any]]) -> None:
        self._body = body

    async def run(self, request: Any, channel: Any, device: Any) -> Any:
        return await self._body(request, channel, device)


class Policy:
    """A policy that is always fresh, or becomes so when asked."""

    def __init__(self) -> None:
        self.current = PolicyReport(frozenset({"echo", "exec"}), ("self", "bob"))
        self.fresh = True
        self.next = self.current

    async def refresh(self) -> PolicyReport:
        self.current = self.next
        return self.current


class Keeper:
    """A keeper to which connections are made at once, over a transport of strings."""

    def __init__(self) -> None:
        self.sides: list[Any] = []
        self.transports: list[StringTransport] = []
        self.available = True

    async def connect_stream(self, protocol: Any) -> None:
        if not self.available:
            raise KeeperUnavailable("it is gone")
        transport = StringTransport()
        self.sides.append(protocol)
        self.transports.append(transport)
        protocol.makeConnection(transport)

    def frames(self, index: int = -1) -> list[tuple[int, int, bytes]]:
        """What the agent has sent since the last look."""
        transport = self.transports[index]
        data = transport.value()
        transport.clear()
        return list(wire.Decoder().feed(data))


class DispatchCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = LinkPair()
        self.policy: Any = Policy()
        self.keeper: Any = Keeper()

    def serve(self, body: Callable[[Any, Any, Any], Awaitable[Any]]) -> None:
        """Have one plug-in beside exec."""
        registry = HandlerRegistry([("test", Handler(body)), ("test", ExecHandler())])
        device: Any = lambda: DeviceContext("pump-17", None, self.pair.clock, {"os": "x"})  # type: ignore[arg-type]  # noqa: E731
        clock = self.pair.clock
        self.dispatcher = StreamDispatcher(registry, self.policy, self.keeper, device, clock)
        self.pair.device_owner.requested = self.dispatcher.stream_requested

    def ended(self, talk: Talk) -> str:
        self.pair.pump()
        return self.successResultOf(talk.ended)[0]


class LazyAcceptTests(DispatchCase):
    def test_interface(self) -> None:
        """The channel and the device context provide what the interfaces promise."""
        owner: Any = None
        request = Open(handler="echo", session=bytes(16), operator="alice")
        self.pair.device.watch = lambda number, receiver: None  # type: ignore[method-assign]  # only what the test uses
        channel = HandlerChannel(self.pair.device, 2, request, 4, owner, self.pair.clock)
        verifyObject(IHandlerChannel, channel)
        device: Any = DeviceContext("n", None, self.pair.clock, {})  # type: ignore[arg-type]  # only what the test uses
        verifyObject(IDeviceContext, device)

    def test_not_before_first_use(self) -> None:
        """OPENED is sent when the handler first uses the channel, not when it starts."""
        gate: Deferred[None] = Deferred()

        async def body(request: EchoRequest, channel: Any, device: Any) -> Outcome:
            await gate
            channel.write(request.text.encode())
            return OK

        self.serve(body)
        talk = self.pair.open("echo", {"text": "hi"})
        self.assertNoResult(talk.opened)
        gate.callback(None)
        self.pair.pump()
        self.successResultOf(talk.opened)
        self.assertEqual("none", self.ended(talk))
        self.assertEqual((b"hi", "ok"), (talk.output, talk.outcome["status"]))

    def test_bad_request_before_use(self) -> None:
        """BadRequest before the first use is REFUSED bad-request, with its text."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            raise BadRequest("no such colour")

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual(("bad-request", "no such colour"), self.successResultOf(talk.ended))
        self.assertNoResult(talk.opened)

    def test_bad_request_after_use(self) -> None:
        """BadRequest later is an outcome."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.write(b"x")
            raise BadRequest("too late")

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual("none", self.ended(talk))
        self.assertEqual(("error", "bad-request"), (talk.outcome["status"], talk.outcome["code"]))

    def test_exception(self) -> None:
        """The operator sees a code, the device's log the traceback, and nobody the other's."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.write(b"x")
            raise RuntimeError("the secret detail")

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual("none", self.ended(talk))
        self.assertEqual(("error", "internal"), (talk.outcome["status"], talk.outcome["code"]))
        self.assertNotIn("secret", str(talk.outcome))
        (failure,) = self.flushLoggedErrors(RuntimeError)
        self.assertEqual("the secret detail", failure.getErrorMessage())

    def test_no_outcome(self) -> None:
        """A handler that returns nothing is at fault, and nothing hangs."""

        async def body(request: Any, channel: Any, device: Any) -> None:
            return None

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual("internal", self.ended(talk))
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))

    def test_outcome_alone(self) -> None:
        """An outcome without any byte accepts the stream first."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            return Outcome(status="ok", result={"a": 1})

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual("none", self.ended(talk))
        self.assertEqual({"a": 1}, talk.outcome["result"])

    def test_outcome_too_large(self) -> None:
        """An outcome that fits no frame is told as a fault, not swallowed."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            return Outcome(status="ok", result="x" * 20_000)

        self.serve(body)
        talk = self.pair.open("echo")
        self.assertEqual("none", self.ended(talk))
        self.assertEqual("internal", talk.outcome["code"])


class ConversationTests(DispatchCase):
    def test_read(self) -> None:
        """`read` returns the input piece by piece, then b"" at its end."""
        seen: list[bytes] = []

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            while data := await channel.read():
                seen.append(data)
                channel.write(data.upper())
            return OK

        self.serve(body)
        talk = self.pair.open("echo")
        talk.channel.write(b"one")
        self.pair.pump()
        talk.channel.write(b"two")
        talk.channel.loseConnection()
        self.assertEqual("none", self.ended(talk))
        self.assertEqual(([b"one", b"two"], b"ONETWO"), (seen, talk.output))

    def test_credit_follows_the_reader(self) -> None:
        """A handler that does not read gets no more than a window of input."""

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.write(b"ready")
            await Deferred()
            return OK

        self.serve(body)
        talk = self.pair.open("echo")
        talk.channel.write(bytes(1 << 20))
        self.pair.pump()
        self.assertEqual((1 << 20) - DEFAULT_WINDOW, talk.channel.end.unsent)

    def test_protocol(self) -> None:
        """Any Twisted protocol runs over the channel."""
        lost: list[str] = []

        class Upper(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(data.upper())

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append(reason.type.__name__)
                done.callback(OK)

        done: Deferred[Outcome] = Deferred()

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.start_protocol(Upper())
            return await done

        self.serve(body)
        talk = self.pair.open("echo")
        talk.channel.write(b"abc")
        talk.channel.loseConnection()
        self.assertEqual("none", self.ended(talk))
        self.assertEqual((b"ABC", ["ConnectionDone"]), (talk.output, lost))

    def test_events(self) -> None:
        """Events go both ways; one that came before anybody asked is not lost."""
        heard: list[Any] = []
        gate: Deferred[None] = Deferred()

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.send_event("progress", {"done": 1})
            await gate
            channel.on_event(lambda kind, body: heard.append((kind, body)))
            return OK

        self.serve(body)
        talk = self.pair.open("echo")
        talk.channel.send_event("window", {"rows": 5, "columns": 6}, urgent=True)
        self.pair.pump()
        gate.callback(None)
        self.assertEqual("none", self.ended(talk))
        self.assertEqual([("progress", {"done": 1})], talk.events)
        self.assertEqual([("window", {"rows": 5, "columns": 6})], heard)


class CancelTests(DispatchCase):
    def setUp(self) -> None:
        super().setUp()
        self.cancelled: list[str] = []

        async def body(request: EchoRequest, channel: Any, device: Any) -> Outcome:
            try:
                if request.text:
                    channel.write(b"started")
                await Deferred()
            except CancelledError:
                self.cancelled.append("cancelled")
                raise
            return OK

        self.serve(body)

    def told(self) -> list[str]:
        self.pair.pump()
        self.pair.clock.advance(0)
        return self.cancelled

    def test_reset_before_use(self) -> None:
        """An operator who gives up before OPENED cancels the handler."""
        talk = self.pair.open("echo")
        talk.channel.reset("cancelled", "")
        self.assertEqual(["cancelled"], self.told())

    def test_reset_after_use(self) -> None:
        """RESET cancels the handler at once, though it does not read."""
        talk = self.pair.open("echo", {"text": "x"})
        talk.channel.write(b"unread")
        self.pair.pump()
        talk.channel.reset("cancelled", "")
        self.assertEqual(["cancelled"], self.told())

    def test_link_lost(self) -> None:
        """The loss of the link does so after 60 s, before and after the first use (R7)."""
        self.pair.open("echo")
        self.pair.open("echo", {"text": "x"})
        self.pair.cut()
        self.pair.clock.advance(59.9)
        self.assertEqual([], self.told())
        self.pair.clock.advance(0.1)
        self.assertEqual(["cancelled", "cancelled"], self.told())

    def test_cancel_event(self) -> None:
        """The event cancel ends the handler, and its outcome says so."""
        talk = self.pair.open("echo", {"text": "x"})
        talk.channel.send_event("cancel", {}, urgent=True)
        self.assertEqual(["cancelled"], self.told())
        self.assertEqual("none", self.ended(talk))
        self.assertEqual("cancelled", talk.outcome["code"])


class RefusalTests(DispatchCase):
    def setUp(self) -> None:
        super().setUp()

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            channel.write(b"ran")
            return OK

        self.serve(body)

    def test_wrong_requests(self) -> None:
        """Each bad OPEN is refused with its own code, and nothing runs."""
        for code, fields in (
            ("not-found", {"handler": "nonesuch"}),
            ("bad-request", {"handler": "echo", "operator": None}),
            ("bad-request", {"handler": "echo", "request": {"text": 7}}),
            ("bad-request", {"handler": "echo", "request": {"other": "x"}}),
            ("policy", {"handler": "echo", "login": "root"}),
            ("unknown", {"handler": "echo", "attempt": 2, "age_ms": 5_000}),
        ):
            talk = self.pair.open(**fields)
            self.assertEqual((code, b""), (self.ended(talk), talk.output), fields)

    def test_runs_once(self) -> None:
        """R3: a session id runs once in this process."""
        first = self.pair.open("echo")
        self.assertEqual("none", self.ended(first))
        again = self.pair.open("echo", session=first.request.session, attempt=2)
        self.assertEqual("lost", self.ended(again))

    def test_later_attempt(self) -> None:
        """R3: a later attempt runs if this process has been up for longer than its age."""
        self.pair.clock.advance(6)
        talk = self.pair.open("echo", attempt=2, age_ms=5_000)
        self.assertEqual(("none", b"ran"), (self.ended(talk), talk.output))

    def test_policy(self) -> None:
        """A handler that policy does not allow, or a policy in error, refuses."""
        self.policy.current = PolicyReport(frozenset({"exec"}), ("self",))
        self.assertEqual("policy", self.ended(self.pair.open("echo")))
        self.policy.current = PolicyReport(error="line 3 is wrong")
        talk = self.pair.open("echo")
        self.assertIn("line 3 is wrong", self.successResultOf(talk.ended)[1])

    def test_policy_is_asked_again(self) -> None:
        """A stale policy decides nothing: the keeper is asked first."""
        self.policy.fresh = False
        self.policy.next = PolicyReport(error="changed meanwhile")
        self.assertEqual("policy", self.ended(self.pair.open("echo")))

    def test_memory_is_bounded(self) -> None:
        """Ended sessions are forgotten after an hour, and what is forgotten counts as unknown."""
        served = ServedSessions(self.pair.clock)
        served.ran(bytes(16))
        self.pair.clock.advance(3599)
        self.assertTrue(served.ended(bytes(16)))
        self.pair.clock.advance(2)
        self.assertFalse(served.ended(bytes(16)))
        late = Open(handler="echo", session=bytes(16), attempt=2, age_ms=3_601_000)
        self.assertEqual("unknown", (served.judge(late) or ("", ""))[0])
        self.assertIsNone(served.judge(msgspec.structs.replace(late, age_ms=3_600_000)))
