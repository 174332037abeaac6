"""HandlerHarness: one handler as the agent runs it, without a gateway, a network or real time.

::

    with HandlerHarness(Uppercase()) as harness:
        call = harness.call(UppercaseRequest())
        call.write(b"hello")
        call.write_eof()
        assert call.stdout == b"HELLO"
        assert call.outcome.status == "ok"

The dispatcher, channel, flow control and keeper below the handler are the product's own, so what
passes here is accepted, refused, paused and cancelled as on a device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_DEVICE
from rshell.link.core.messages import Hello, Open, Opened, VersionRange, Welcome
from rshell.link.protocol import LinkProtocol
from rshell.testing.gateways import scratch_directory
from rshell.testing.keepers import SimulatedKeeper
from rshell.testing.machines import MachineReactor
from rshell.testing.programs import PROGRAMS, Program
from rshell.testing.wires import Wire
from rshell_agent.device import DeviceContext
from rshell_agent.dispatch import StreamDispatcher
from rshell_agent.keeper_client import KeeperClient
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry, check_handler

__all__ = ["HandlerCall", "HandlerHarness"]

_MAX_TURNS = 100_000


class HandlerCall:
    """One use of the handler, seen from the operator's end.

    Attributes:
        stdout: What the handler wrote.
        stderr: What it wrote to the second channel.
        events: (kind, body) of each event, without the outcome.
        outcome: How it ended; None while it runs, or if it never ran.
        refused: (code, message) if the request was refused or the stream broke; else None.
        opened: Whether the handler accepted the stream.
    """

    def __init__(self, harness: HandlerHarness, link: LinkProtocol, window: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.outcome: Outcome | None = None
        self.refused: tuple[str, str] | None = None
        self.opened = False
        self._harness = harness
        self._channel = StreamChannel(link, self, window)

    def start(self, request: Open) -> None:
        """Ask for the stream."""
        self._channel.request(request)
        self._harness.pump()

    # -- what the operator does ------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send input."""
        self._channel.write(data)
        self._harness.pump()

    def write_eof(self) -> None:
        """Say that no input follows."""
        self._channel.loseConnection()
        self._harness.pump()

    def send_event(self, kind: str, body: dict[str, Any] | None = None) -> None:
        """Send an urgent event, such as ``window`` or ``signal``."""
        self._channel.send_event(kind, body or {}, urgent=True)
        self._harness.pump()

    def cancel(self) -> None:
        """Ask for the end."""
        self.send_event("cancel")

    def hang_up(self) -> None:
        """Give the stream up at once."""
        self._channel.abortConnection()
        self._harness.pump()

    def cut_link(self) -> None:
        """Break the link under the stream; a session that this process serves ends with it."""
        self._harness.cut_link()

    def pause(self) -> None:
        """Stop reading: the handler stalls once the window is full."""
        self._channel.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._channel.resumeProducing()
        self._harness.pump()

    # -- ChannelReceiver -------------------------------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        self.opened = True

    def data_received(self, data: bytes, stderr: bool) -> None:
        (self.stderr if stderr else self.stdout).extend(data)

    def input_ended(self) -> None:
        """The outcome says more."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome":
            self.outcome = msgspec.convert(body, Outcome)
        else:
            self.events.append((kind, body))

    def channel_closed(self, code: str, message: str) -> None:
        if self.outcome is None:
            self.refused = (code, message)


class _Side:
    """Owner of one end of the link between operator and device."""

    def __init__(self, requested: Callable[[LinkProtocol, int, Open], None] | None = None) -> None:
        self._requested = requested

    def link_handshaken(self, link: LinkProtocol) -> None:
        """There is no TLS."""

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        link.welcome(
            Welcome(
                protocol=1,
                software="rshell.testing",
                features=["resume"],
                name="device-1",
                time_ms=0,
                heartbeat_ms=25_000,
                max_streams=64,
                window=DEFAULT_WINDOW,
            )
        )

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        """The link is up."""

    def sessions_received(self, link: LinkProtocol, sessions: Any) -> None:
        """Nobody reports."""

    def goaway_received(self, link: LinkProtocol, goaway: Any) -> None:
        """Nobody leaves."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        if self._requested is not None:
            self._requested(link, number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        """The test is over."""


class HandlerHarness:
    """Runs one handler.

    Args:
        handler: An instance that provides `rshell.interfaces.ICommandHandler`.
        name: The device's name, as the handler sees it.
        facts: The device's facts.
        programs: What a spliced process can run, besides `rshell.testing.PROGRAMS`.
        policy: TOML for the device's ``[policy]``; by default the handler is allowed.

    Attributes:
        clock: Time; see `advance`.
        home: The agent's home.
        runs: The command lines of the processes that were started.

    Raises:
        rshell_agent.registry.BadHandler: The handler breaks the interface; agents would skip it.
    """

    def __init__(
        self,
        handler: Any,
        *,
        name: str = "device-1",
        facts: Mapping[str, str] | None = None,
        programs: Mapping[str, Callable[[], Program]] | None = None,
        policy: str = "",
    ) -> None:
        check_handler(handler)
        self.clock = Clock()
        self.home = scratch_directory()
        self.runs: list[list[bytes]] = []
        self._handler = handler
        self._sessions = 0
        lines = policy or f'handlers = ["{handler.name}"]'
        (self.home / "agent.toml").write_text(f"[policy]\n{lines}\n")
        self._keeper = SimulatedKeeper(
            self.clock, self.home, {**PROGRAMS, **(programs or {})}, self.runs
        )
        self._wires: list[Wire] = []
        self._reactor = MachineReactor(self.clock, lambda: True, self._join_keeper, lambda: None)
        self._client = KeeperClient(self._reactor, self.home)
        watch = PolicyWatch(self._client, self._reactor, lambda: None)
        context = DeviceContext(name, self.home, self._reactor, facts or {})
        dispatcher = StreamDispatcher(
            HandlerRegistry([("rshell.testing", handler)]),
            watch,
            self._client,
            lambda: context,
            self._reactor,
        )
        self._requested = dispatcher.stream_requested
        self._link = self._join()
        self.run(watch.refresh())

    def _join(self) -> LinkProtocol:
        wheel = TimerWheel(self._reactor)
        device = LinkProtocol(_Side(self._requested), wheel, dialler=True, limits=AT_AGENT)
        operator = LinkProtocol(_Side(), wheel, dialler=False, limits=AT_GATEWAY_FROM_DEVICE)
        wire = Wire("link", self.clock.seconds, self._reactor, self._reactor)
        self._wires.append(wire)
        self._link_wire = wire
        wire.join(device, operator)
        device.hello(
            Hello(
                protocol=VersionRange(1, 1),
                software="rshell.testing",
                instance=bytes(16),
                dial=1,
                features=["resume"],
                max_streams=64,
                window=DEFAULT_WINDOW,
            )
        )
        self.pump()
        return operator

    def _join_keeper(self, protocol: Any) -> None:
        wire = Wire("keeper", self.clock.seconds, self._reactor, self._keeper.process)
        self._wires.append(wire)
        wire.join(protocol, self._keeper.offer())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything, and remove what was kept."""
        self._link.abort("the test is over")
        self._client.stop()
        self._keeper.kill()
        self._reactor.die()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- using it --------------------------------------------------------------------------------

    def call(
        self,
        request: Any = None,
        *,
        operator: str = "ann",
        login: str | None = None,
        window: int = DEFAULT_WINDOW,
        paused: bool = False,
        timeout: float | None = None,
    ) -> HandlerCall:
        """Open a session of the handler.

        Args:
            request: A struct, or a dict of JSON values, as an operator would send it.
            operator: Who asks.
            login: The account asked for.
            window: Bytes that the handler may be ahead of the operator.
            paused: Whether the operator begins without reading; `HandlerCall.resume` ends that.
            timeout: Seconds after which the device ends it.
        """
        self._sessions += 1
        body = msgspec.to_builtins({} if request is None else request)
        call = HandlerCall(self, self._link, window)
        if paused:
            call.pause()
        call.start(
            Open(
                handler=self._handler.name,
                session=self._sessions.to_bytes(16, "big"),
                operator=operator,
                login=login,
                request=body,
                timeout_ms=None if timeout is None else round(timeout * 1000),
            )
        )
        return call

    def cut_link(self) -> None:
        """Break the link; the next `call` has a new one."""
        self._link_wire.cut()
        self.pump()
        self._link = self._join()

    def advance(self, seconds: float) -> None:
        """Let time pass: everything that is due happens when it is due."""
        until = self.clock.seconds() + seconds
        self.pump()
        while self.clock.seconds() < until:
            times = [until, *(call.getTime() for call in self.clock.calls[:1])]
            self.clock.advance(max(min(times) - self.clock.seconds(), 1e-6))
            self.pump()

    def run(self, work: Any) -> Any:
        """Return what a coroutine or Deferred comes to within a minute."""
        waiting = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        results: list[Any] = []
        waiting.addCallback(results.append)
        self.pump()
        for _ in range(240):
            if results:
                return results[0]
            self.advance(0.25)
        raise AssertionError("nothing came of it within a minute")

    def pump(self) -> None:
        """Do everything that can be done without time passing."""
        for _ in range(_MAX_TURNS):
            moved = sum(wire.step() for wire in list(self._wires)) > 0  # each of them
            self._wires = [wire for wire in self._wires if not wire.over]
            moved = self._keeper.turn() or moved
            if self.clock.calls and self.clock.calls[0].getTime() <= self.clock.seconds():
                self.clock.advance(0)
                moved = True
            if not moved:
                return
        raise AssertionError("something goes on for ever without time passing")
