"""From a stream that the gateway asks for to the handler that serves it.

Refusals come in this order: no operator, no such handler, policy, a request of the wrong shape;
then the handler runs (handler_run.py), and its channel (channel.py) is accepted here or spliced to
the keeper.  A session that lives here is joined instead; what resumes or watches any other one can
only be the keeper's, and goes there without running the handler again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.handlers import PRIORITIES, Outcome, ProcessRequest
from rshell.interfaces import IDeviceContext
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, Opened, SessionReport
from rshell.link.protocol import LinkProtocol
from rshell_agent.courier import Courier, feature_of, open_frame
from rshell_agent.handler_run import HandlerRun
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry
from rshell_agent.served import ServedSessions
from rshell_agent.touch_report import takes_touched

__all__ = ["CATALOGUE", "StreamDispatcher"]

CATALOGUE = "catalogue"


class StreamDispatcher:
    """Serves the streams of this device's links; it is the host of their handlers' runs.

    Args:
        registry: The handlers.
        policy: What may run.
        keeper: Where spliced streams go.
        device: Returns the context for handlers.
        clock: For graces, and what must not happen at once.

    Attributes:
        renew_link: Called with a link when only one that is dialled now can prove a change good.
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
        self.renew_link: Callable[[LinkProtocol], None] | None = None
        self._served = ServedSessions(clock)
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
        run = self._served.get(request.session)
        refusal = self._refusal(request) if run is None else run.judge(request)
        if refusal is not None:
            link.refuse(number, *refusal)
        elif run is None:
            self._begin(link, number, request)
        elif refusal := self._handler_refusal(run.handler_name) or self.login_refusal(run.login):
            link.refuse(number, *refusal)
            run.expel(*refusal)
        else:
            run.rejoin(link, number, request)

    def _refusal(self, request: Open) -> tuple[str, str] | None:
        """Judge a session that does not live here."""
        refusal = self._handler_refusal(request.handler)
        if refusal is None and self._served.ended(request.session):
            code = ErrorCode.NOT_FOUND if request.view else ErrorCode.LOST
            refusal = code.value, "the session is over"
        return refusal

    def _handler_refusal(self, handler: str) -> tuple[str, str] | None:
        policy = self._policy.current
        if policy.error is not None:
            message = f"the device's policy cannot be used: {policy.error}"
        elif handler not in policy.handlers:
            message = f"the device's policy does not allow the handler {handler}"
        else:
            return None
        return ErrorCode.POLICY.value, message

    def _begin(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Serve a session that does not live here."""
        handler: Any = self._registry.get(request.handler)
        if request.view:
            self._carry(link, number, request, PRIORITIES[handler.priority])
        elif request.resume is not None:
            self.splice(link, number, request, None, PRIORITIES[handler.priority], _unheard)
        else:
            refusal = self._served.judge(request)
            run = HandlerRun(
                handler, link, number, request, refusal, self, self._served, self._clock
            )
            self._served.add(run)
            # By this id the gateway's audit log finds the same session.
            self._log.info(
                "session {session} of {operator}: {handler}",
                session=request.session.hex(),
                operator=request.operator,
                handler=request.handler,
            )
            run.start(self._device())

    def end_sessions(self, sessions: list[bytes]) -> None:
        """End those of these sessions that live here: the gateway says so (rule S2)."""
        self._served.end(sessions, ErrorCode.CANCELLED, "the gateway ended the session")

    def session_reports(self) -> list[SessionReport]:
        """Return what the gateway is told of sessions that are not the keeper's (rule S1)."""
        return self._served.reports()

    def sessions_acknowledged(self, sessions: list[bytes]) -> None:
        """Forget how these sessions ended: the gateway has written it down (rule S2)."""
        self._served.acknowledged(sessions)

    def stop(self) -> None:
        """The agent is going down: what it serves itself ends with it."""
        self._served.stop()

    def _send_catalogue(self, link: LinkProtocol, number: int, request: Open) -> None:
        channel = StreamChannel(link, _Nobody())
        channel.accept(number, request)
        channel.write(self._registry.catalogue(self._policy.current.handlers))
        channel.finish(Outcome(status="ok"))

    # -- RunHost -------------------------------------------------------------------------------

    def login_refusal(self, login: str | None) -> tuple[str, str] | None:
        if login is None or login in self._policy.current.logins:
            return None
        return ErrorCode.POLICY.value, f"the device's policy does not allow the login {login}"

    def splice(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        process: ProcessRequest | None,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
    ) -> None:
        """Hand a stream to the keeper by a courier; without ``process`` it joins what runs."""
        session = request.session
        previous = self._couriers.get(session)
        courier: Courier | None = None

        def over(outcome: Outcome | None, code: str, message: str) -> None:
            nonlocal previous
            if courier is not None and self._couriers.get(session) is courier:
                del self._couriers[session]
                if previous is not None and not previous.over:
                    previous.displaced = False
                    self._couriers[session] = previous
            previous = None  # a session that is resumed for months must not chain its couriers
            ended(outcome, code, message)

        courier = self._courier(link, number, request, process, weight, over)
        if courier is None:
            return
        if previous is not None:
            previous.displaced = True
        self._couriers[session] = courier
        Deferred.fromCoroutine(self._connect(courier))

    def _carry(self, link: LinkProtocol, number: int, request: Open, weight: int) -> None:
        """Hand a viewer's stream to the keeper; it displaces nobody (rule R9)."""
        courier = self._courier(link, number, request, None, weight, _unheard)
        if courier is not None:
            Deferred.fromCoroutine(self._connect(courier))

    def _courier(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        process: ProcessRequest | None,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
    ) -> Courier | None:
        """Return a courier for a stream; refuse one that is too large for the keeper."""
        try:
            dialled_at = getattr(link.peer, "dialled_at", None)
            opening = open_frame(request, process, dialled_at, touched=takes_touched(link))
        except ValueError as error:
            message = f"too large for the device's keeper: {error}"
            link.refuse(number, ErrorCode.BAD_REQUEST, message)
            ended(None, ErrorCode.BAD_REQUEST.value, message)
            return None

        def over(outcome: Outcome | None, code: str, message: str) -> None:
            if code == ErrorCode.POLICY:
                # The keeper reads the file at each OPEN, so it may know what we do not yet.
                Deferred.fromCoroutine(self._policy.refresh())
            ended(outcome, code, message)

        needs = feature_of(request, process)
        courier = Courier(link, number, request, opening, weight, over, needs)
        courier.unproved = partial(self._unproved, link)
        return courier

    def _unproved(self, link: LinkProtocol) -> None:
        if self.renew_link is not None:
            # not from here: the courier is in the middle of what the keeper said
            self._clock.callLater(0, self.renew_link, link)

    async def _connect(self, courier: Courier) -> None:
        try:
            await self._keeper.connect_stream(courier.keeper_side)
        except KeeperUnavailable as error:
            courier.end(ErrorCode.OVERLOAD.value, f"the device's keeper does not answer: {error}")


def _unheard(outcome: Outcome | None, code: str, message: str) -> None:
    """Nobody here waits for the end of a stream that was not opened by a handler."""


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
