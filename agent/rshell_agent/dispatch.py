"""From a stream that the gateway asks for to the handler that serves it.

Refusals come in this order: no operator, no such handler, policy, a request of the wrong shape;
then the handler runs, and its channel (channel.py) is accepted here or spliced to the keeper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.handlers import PRIORITIES, BadRequest, Outcome, ProcessRequest, decode_request
from rshell.interfaces import IDeviceContext
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol
from rshell_agent.channel import HandlerChannel, StreamOver
from rshell_agent.courier import Courier, open_frame
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry

__all__ = ["CATALOGUE", "SeenSessions", "StreamDispatcher"]

CATALOGUE = "catalogue"
#: Ended sessions are remembered at least this long, and at most so many (rule R4).
_MEMORY_SECONDS = 3600.0
_MEMORY_COUNT = 20_000


class SeenSessions:
    """Which sessions this process has served itself, so that none runs twice (rule R3)."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._memory_begins = clock.seconds()

    def admit(self, request: Open) -> tuple[str, str] | None:
        """Take note of a session; return (code, message) if it must not run."""
        now = self._clock.seconds()
        while self._seen:
            session, when = next(iter(self._seen.items()))
            if now - when < _MEMORY_SECONDS and len(self._seen) < _MEMORY_COUNT:
                break
            del self._seen[session]
            self._memory_begins = when
        if request.resume is not None:
            return ErrorCode.LOST.value, f"{request.handler} ends with its link"
        if request.session in self._seen:
            return ErrorCode.LOST.value, "the session ran before and ended with its link"
        if request.attempt > 1 and (now - self._memory_begins) * 1000 <= request.age_ms:
            return ErrorCode.UNKNOWN.value, "the device cannot tell whether this has run"
        self._seen[request.session] = now
        return None


class StreamDispatcher:
    """Serves the streams of this device's links; it is the host of their channels.

    Args:
        registry: The handlers.
        policy: What may run.
        keeper: Where spliced streams go.
        device: Returns the context for handlers.
        clock: For what must not happen at once.
    """

    _log = Logger()

    def __init__(
        self,
        registry: HandlerRegistry,
        policy: PolicyWatch,
        keeper: KeeperClient,
        device: Callable[[], IDeviceContext],
        clock: IReactorTime,
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._keeper = keeper
        self._device = device
        self._clock = clock
        self._seen = SeenSessions(clock)
        self._couriers: dict[bytes, Courier] = {}

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Answer an OPEN, now or later."""
        if request.operator is None and request.handler == CATALOGUE:
            self._send_catalogue(link, number, request)
        elif request.operator is None:
            link.refuse(number, ErrorCode.BAD_REQUEST, "the request names no operator")
        elif self._registry.get(request.handler) is None:
            known = ", ".join(sorted(self._registry.names & self._policy.current.handlers))
            message = f"this device has no handler {request.handler}; it has {known or 'none'}"
            link.refuse(number, ErrorCode.NOT_FOUND, message)
        elif self._policy.fresh:
            self._serve(link, number, request)
        else:
            Deferred.fromCoroutine(self._serve_by_fresh_policy(link, number, request))

    async def _serve_by_fresh_policy(self, link: LinkProtocol, number: int, request: Open) -> None:
        await self._policy.refresh()
        self._serve(link, number, request)

    def _serve(self, link: LinkProtocol, number: int, request: Open) -> None:
        if not link.waiting(number):
            return
        policy = self._policy.current
        if policy.error is not None:
            message = f"the device's policy cannot be used: {policy.error}"
            link.refuse(number, ErrorCode.POLICY, message)
        elif request.handler not in policy.handlers:
            message = f"the device's policy does not allow the handler {request.handler}"
            link.refuse(number, ErrorCode.POLICY, message)
        else:
            _HandlerRun(
                self._registry.get(request.handler), link, number, request, self, self._clock
            ).start(self._device())

    def _send_catalogue(self, link: LinkProtocol, number: int, request: Open) -> None:
        channel = StreamChannel(link, _Nobody())
        channel.accept(number, request)
        channel.write(self._registry.catalogue(self._policy.current.handlers))
        channel.finish(Outcome(status="ok"))

    # -- ChannelHost ---------------------------------------------------------------------------

    def admit(self, request: Open) -> tuple[str, str] | None:
        """Judge a stream that this process shall serve itself."""
        logins = self._policy.current.logins
        if request.login is not None and request.login not in logins:
            message = f"the device's policy does not allow the login {request.login}"
            return ErrorCode.POLICY.value, message
        return self._seen.admit(request)

    def splice(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        process: ProcessRequest,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
    ) -> None:
        """Hand a stream to the keeper by a courier."""
        try:
            opening = open_frame(request, process)
        except ValueError as error:
            message = f"too large for the device's keeper: {error}"
            link.refuse(number, ErrorCode.BAD_REQUEST, message)
            ended(None, ErrorCode.BAD_REQUEST.value, message)
            return
        session = request.session
        previous = self._couriers.get(session)

        def over(outcome: Outcome | None, code: str, message: str) -> None:
            if code == ErrorCode.POLICY:
                # The keeper reads the file at each OPEN, so it may know what we do not yet.
                Deferred.fromCoroutine(self._policy.refresh())
            if self._couriers.get(session) is courier:
                del self._couriers[session]
                if previous is not None and not previous.over:
                    previous.displaced = False
                    self._couriers[session] = previous
            ended(outcome, code, message)

        courier = Courier(link, number, request, opening, weight, over)
        if previous is not None:
            previous.displaced = True
        self._couriers[session] = courier
        Deferred.fromCoroutine(self._connect(courier))

    async def _connect(self, courier: Courier) -> None:
        try:
            await self._keeper.connect_stream(courier.keeper_side)
        except KeeperUnavailable as error:
            courier.end(ErrorCode.OVERLOAD.value, f"the device's keeper does not answer: {error}")


class _Nobody:
    """The receiver of a stream that only sends."""

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        """Nobody reads."""

    def input_ended(self) -> None:
        """Nobody reads."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """Nobody listens."""

    def channel_closed(self, code: str, message: str) -> None:
        """Nothing to clean up."""


class _HandlerRun:
    """One handler serving one stream, and what becomes of its exceptions."""

    _log = Logger()

    def __init__(
        self,
        handler: Any,
        link: LinkProtocol,
        number: int,
        request: Open,
        host: StreamDispatcher,
        clock: IReactorTime,
    ) -> None:
        self._handler = handler
        self._request = request
        self._clock = clock
        self._task: Deferred[None] | None = None
        weight = PRIORITIES[handler.priority]
        self._channel = HandlerChannel(link, number, request, weight, host, self._closed)

    def start(self, device: IDeviceContext) -> None:
        """Decode the request and run."""
        try:
            request = decode_request(self._request.request, self._handler.request_type)
        except BadRequest as error:
            self._channel.refuse(ErrorCode.BAD_REQUEST.value, str(error))
            return
        self._task = Deferred.fromCoroutine(self._run(request, device))

    async def _run(self, request: Any, device: IDeviceContext) -> None:
        try:
            outcome = await self._handler.run(request, self._channel, device)
            if not isinstance(outcome, Outcome):
                raise TypeError(f"run() returned {type(outcome).__name__}, not an Outcome")
            self._end(outcome)
        except StreamOver:
            pass
        except BadRequest as error:
            self._fail(ErrorCode.BAD_REQUEST, str(error))
        except CancelledError:
            self._fail(ErrorCode.CANCELLED, "cancelled")
        except Exception:  # of a plug-in: the operator gets a code, the device's log the traceback
            self._log.failure("handler {name} failed", name=self._handler.name)
            self._fail(ErrorCode.INTERNAL, f"the handler {self._handler.name} failed")

    def _fail(self, code: ErrorCode, message: str) -> None:
        if self._channel.over:
            return
        if not self._channel.used:
            self._channel.refuse(code.value, message)
        else:
            self._end(Outcome(status="error", code=code.value, message=message[:1024]))

    def _end(self, outcome: Outcome) -> None:
        try:
            self._channel.finish(outcome)
        except StreamOver:
            pass
        except LocalProtocolError as error:
            self._log.error("outcome of {name}: {error}", name=self._handler.name, error=error)
            self._channel.finish(
                Outcome(status="error", code=ErrorCode.INTERNAL.value, message="outcome too large")
            )

    def _closed(self, code: str, message: str) -> None:
        """Cancel the handler, if the stream did not end by its own outcome."""
        if code != ErrorCode.NONE:
            # not from here: the handler may be the one who ended it, and be running just now
            self._clock.callLater(0, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._task.called:
            self._task.cancel()
