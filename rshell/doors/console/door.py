"""Consoles: who may have one, what each acts through, and how many there are.

One operator's console is a `rshell.client.Client` on a link within this process.  The link door
judges what it asks as what any other operator asks; the only difference is who vouches for it: the
door through which the operator came, instead of a certificate.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import Any

import attrs
from twisted.logger import Logger

from rshell.access.audit import AuditRecord
from rshell.access.roles import CONSOLE
from rshell.client import Client, Uplink
from rshell.client.dialling import GatewayLink, new_hello
from rshell.doors.console.link_stream import LinkStream
from rshell.doors.console.session import ConsoleReceiver, ConsoleRequest, ConsoleSession
from rshell.doors.console.watchdog import Watchdog
from rshell.doors.console.wire import join_by_wire
from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.core import Gateway
from rshell.handlers import BadRequest, Outcome, decode_request
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.errors import ErrorCode
from rshell.link.core.limits import AT_CLIENT
from rshell.link.core.messages import Open
from rshell.link.protocol import LinkProtocol

__all__ = ["Consoles"]

#: Consoles at once: each is Python in the server, and a few people's work.
MAX_CONSOLES = 20
#: Losing the right to it ends a console within a second.
CHECK_SECONDS = 0.4


class Consoles:
    """All consoles of one gateway.

    Args:
        gateway: The running server.
        reactor: For the clients' delays and threads.
        vouch: `rshell.doors.link.LinkDoor.vouch`.
        watchdog: Interrupts lines that block.
    """

    _log = Logger()

    def __init__(
        self,
        gateway: Gateway,
        reactor: Any,
        vouch: Callable[[Caller], LinkProtocol],
        watchdog: Watchdog,
    ) -> None:
        self.gateway = gateway
        self._reactor = reactor
        self._vouch = vouch
        self._watchdog = watchdog
        self._open: set[ConsoleSession] = set()
        #: By operator; in memory only, because lines may hold secrets that the audit's readers
        #: may see and files on disk should not spread.
        self._histories: dict[str, list[str]] = {}
        self._timer: WheelTimer | None = None

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    # -- doors -----------------------------------------------------------------------------------

    def for_door(
        self, caller: Caller, handler: str, request: dict[str, Any], receiver: ConsoleReceiver
    ) -> ConsoleSession:
        """Return a console for a door that speaks no link; it has not been started.

        Args:
            caller: Whom the door vouches for.
            handler: ``shell`` or ``exec``, as a device would be asked.
            request: Likewise.
            receiver: Takes what it sends.
        """
        try:
            typed = decode_request(request, ConsoleRequest)
        except BadRequest as error:
            text = str(error)
            return _Refusal(self, caller, receiver, text)
        return ConsoleSession(self, caller, typed, receiver)

    def from_link(self, link: LinkProtocol, number: int, request: Open, caller: Caller) -> None:
        """Answer an operator's link that asks for a console."""
        LinkStream(link, number, request).begin(
            lambda receiver: self.for_door(caller, "shell", dict(request.request), receiver)
        )

    # -- Reception -------------------------------------------------------------------------------

    def check(self, caller: Caller) -> None:
        """Ask whether an operator may have a console now.

        Raises:
            OpenRefused: They may not.
        """
        if self.gateway.revocation.is_revoked("operator", caller.operator.name):
            raise OpenRefused(ErrorCode.REVOKED, "this operator is revoked")
        decision = self.gateway.rights.decide(caller.operator, None, CONSOLE)
        if not decision:
            raise OpenRefused(ErrorCode.POLICY, decision.reason)
        if self.gateway.stopping:
            raise OpenRefused(ErrorCode.SHUTDOWN, "the gateway is going down")

    async def admit(self, caller: Caller, session: str) -> int:
        """Write the row that opens a console, or the one that tells of a refusal.

        Raises:
            OpenRefused: They may not, or there are too many.
        """
        record = AuditRecord(
            kind=CONSOLE,
            opens=True,
            operator=caller.operator.name,
            session=session,
            door=caller.door,
            address=caller.address,
        )
        try:
            self.check(caller)
            if len(self._open) >= MAX_CONSOLES:
                text = f"{MAX_CONSOLES} consoles are open: close one"
                raise OpenRefused(ErrorCode.OVERLOAD, text)
        except OpenRefused as error:
            await self.gateway.store.append_audit(
                AuditRecord(
                    kind=CONSOLE,
                    operator=record.operator,
                    session=session,
                    door=record.door,
                    address=record.address,
                    status="refused",
                    code=error.code,
                    message=error.message,
                )
            )
            raise
        row = await self.gateway.store.append_audit(record)
        self.check(caller)  # meanwhile they may have been revoked
        self._log.info(
            "operator {name} opened a console from {address}",
            name=caller.operator.name,
            address=caller.address,
        )
        return row

    async def connect(self, caller: Caller) -> Client:
        """Return a client that acts as the operator, over a link within this process.

        Raises:
            ConnectionFailed: The link door let it not in.
        """
        wheel = TimerWheel(self._reactor)

        async def dial() -> GatewayLink:
            self.check(caller)
            owner = GatewayLink("", new_hello(), wheel)
            link = owner.link = LinkProtocol(owner, wheel, dialler=True, limits=AT_CLIENT)
            name = f"console of {caller.operator.name}"
            # What is done from here came through the console, whatever door the console came by.
            vouched = self._vouch(attrs.evolve(caller, door=CONSOLE))
            join_by_wire(link, vouched, wheel.call_next_turn, name)
            link.hello(new_hello())
            return await owner.welcomed

        uplink = Uplink(self._reactor, wheel, dial)
        try:
            await uplink.connect()
        except BaseException:
            wheel.stop()
            raise
        return Client(self._reactor, wheel, uplink)

    def history(self, caller: Caller) -> MutableSequence[str]:
        """Return the operator's earlier lines, of this run of the gateway."""
        return self._histories.setdefault(caller.operator.name, [])

    def opened(self, session: ConsoleSession) -> None:
        """A console begins."""
        self._open.add(session)
        self._watchdog.enter()
        if self._timer is None:
            self._timer = self.gateway.wheel.call_later(CHECK_SECONDS, self._check_all)

    def closed(self, session: ConsoleSession) -> None:
        """A console is over."""
        if session not in self._open:
            return
        self._open.discard(session)
        self._watchdog.leave()
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_all(self) -> None:
        self._timer = self.gateway.wheel.call_later(CHECK_SECONDS, self._check_all)
        for session in list(self._open):
            try:
                self.check(session.caller)
            except OpenRefused as error:
                outcome = Outcome(status="refused", code=error.code, message=error.message)
                session.end(outcome)
            else:
                self._limit(session)

    def _limit(self, session: ConsoleSession) -> None:
        """Warn of a limit of the role, or end the console by it."""
        rights, metrics = self.gateway.rights, self.gateway.metrics
        terms = rights.terms(session.caller.operator, None, CONSOLE)
        limited = session.use.limited(
            terms, self.gateway.wheel.seconds(), seat=session.is_interactive
        )
        if limited is None:
            return
        if limited.over:
            code = limited.code.value
            metrics.sessions_limited.labels(code).inc()
            session.end(Outcome(status="timeout", code=code, message=limited.text))
        else:
            session.tell(limited.text)


class _Refusal(ConsoleSession):
    """A console that was asked for in a way that cannot be read."""

    def __init__(
        self, reception: Consoles, caller: Caller, receiver: ConsoleReceiver, text: str
    ) -> None:
        super().__init__(reception, caller, ConsoleRequest(), receiver)
        self._text = text

    def start(self) -> None:
        """Say so."""
        self.end(Outcome(status="refused", code=ErrorCode.BAD_REQUEST.value, message=self._text))
