"""The door of the ``rshell`` command and the Python library: operators' links."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.access.printable import printable
from rshell.gateway.arrivals import address_text
from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.core import Gateway, planned_stop
from rshell.gateway.device_links import welcome_for
from rshell.gateway.throttle import Throttle
from rshell.identity.names import PeerName
from rshell.identity.tls import PeerCertificate
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.limits import AT_GATEWAY_FROM_OPERATOR, CreditBudget
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.hops import RelayedStream, StreamWitness
from rshell.link.protocol import LinkProtocol
from rshell.store.errors import StoreError

if TYPE_CHECKING:
    from rshell.doors.console.door import Consoles

__all__ = ["LinkDoor"]

#: Lines of the log about links of one operator that ended: a script in a loop, or a revoked key.
LINES_RATE, LINES_BURST = 5.0, 500
_GATEWAY_VERB = "gateway."
_CONSOLE = "gateway.console"


class LinkDoor:
    """Owns the links of all operators.

    Attributes:
        consoles: Serves ``gateway.console``; None where it is not served.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway, wall: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._wall = wall
        self.consoles: Consoles | None = None
        self._callers: dict[LinkProtocol, Caller | None] = {}
        #: Links within this process, whose operators another door knows.
        self._vouched: dict[LinkProtocol, Caller] = {}
        self._lines = Throttle(gateway.wheel.seconds, LINES_RATE, LINES_BURST)

    def vouch(self, caller: Caller) -> LinkProtocol:
        """Return our end of a link within this process, for an operator whom a door has let in.

        What they ask on it is judged as on any other; the link ends when they are revoked.
        """
        link = LinkProtocol(
            self, self._gateway.wheel, dialler=False, limits=AT_GATEWAY_FROM_OPERATOR
        )
        now = datetime.fromtimestamp(self._wall(), UTC)
        # No key: it can renew none, and nobody is known by it.
        link.peer = PeerCertificate(
            name=PeerName("operator", self._gateway.home.keys.fleet, caller.operator.name),
            spki=b"",
            serial=0,
            not_before=now,
            not_after=now,
            expired=False,
        )
        self._vouched[link] = caller
        self._callers[link] = None
        return link

    # -- LinkOwner -----------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        self._callers[link] = None

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        judged = Deferred.fromCoroutine(self._judge(link, hello))
        judged.addErrback(self._broken, link)

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        raise LocalProtocolError("a gateway is not welcomed")

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        """The operator's client leaves; its streams end with the link."""

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """Only devices list sessions."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        caller = self._callers.get(link)
        if caller is None:
            link.refuse(number, ErrorCode.AUTH, "not admitted")
        elif request.handler == _CONSOLE and self.consoles is not None:
            self.consoles.from_link(link, number, request, caller)
        elif request.handler.startswith(_GATEWAY_VERB):
            self._gateway.verbs.from_operator(link, number, request, caller)
        elif not request.device:
            link.refuse(number, ErrorCode.BAD_REQUEST, "name a device")
        else:
            opened = Deferred.fromCoroutine(self._open(link, number, request, caller))
            opened.addErrback(self._not_opened, link, number)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        caller = self._callers.pop(link, None)
        vouched = self._vouched.pop(link, None)
        peer: PeerCertificate = link.peer
        name = peer.name.name
        self._gateway.link_closed(link)
        self._gateway.revocation.operator_went(name, link)
        if vouched is not None:
            return  # whoever vouched for it tells of it
        left_out = self._lines.admit(name)
        if left_out is not None:
            self._log.info(
                "operator {name} at {address} {what}: {reason}{more}",
                name=name,
                address=address_text(link.transport),
                what="left" if caller else "was not admitted",
                reason=printable(reason),
                more=f" ({left_out} such lines left out)" if left_out else "",
            )

    # -- admission -----------------------------------------------------------------------------

    async def _judge(self, link: LinkProtocol, hello: Hello) -> None:
        caller = self._vouched.get(link) or await self._known(link, hello)
        if caller is None or link not in self._callers or link.closed:
            return
        name = caller.operator.name
        if self._gateway.revocation.is_revoked("operator", name):
            # Revoked while the row was written; this link was on no list yet.
            self._refuse(link, ErrorCode.REVOKED, "this operator is revoked")
            return
        if self._gateway.stopping:
            link.go_away(planned_stop(0), close=True, reason="the gateway is going down")
            return
        self._callers[link] = caller
        self._gateway.link_opened(link)
        self._gateway.revocation.operator_came(name, link)
        self._gateway.certificates.link_welcomed(link, hello.features)
        link.welcome(
            welcome_for(
                self._gateway,
                hello,
                name,
                max_streams=AT_GATEWAY_FROM_OPERATOR.max_streams,
            )
        )
        if link not in self._vouched:
            self._log.info(
                "operator {name} entered from {address}", name=name, address=caller.address
            )

    async def _known(self, link: LinkProtocol, hello: Hello) -> Caller | None:
        """Return whose certificate it is, and write that they entered; None if they may not."""
        peer: PeerCertificate = link.peer
        found = await self._gateway.store.operator_by_spki(peer.spki)
        if link not in self._callers or link.closed:
            return None
        if found is None or found.operator.name != peer.name.name:
            self._refuse(link, ErrorCode.AUTH, "this key is not registered here")
            return None
        refusal = found.refusal(self._gateway.now_us())
        revoked = self._gateway.revocation.is_revoked("operator", found.operator.name)
        if refusal is not None or revoked:
            self._refuse(link, ErrorCode.REVOKED, "this operator is revoked")
            return None
        if peer.expired:
            self._refuse(
                link,
                ErrorCode.EXPIRED,
                "this operator's certificate has expired: ask for a new invite",
            )
            return None
        address = address_text(link.transport)
        await self._gateway.store.append_audit(
            AuditRecord(
                kind="operator.entered",
                operator=found.operator.name,
                door="link",
                address=address,
                details={"software": printable(hello.software, 64)},
            )
        )
        return Caller(operator=found.operator, door="link", address=address)

    @staticmethod
    def _refuse(link: LinkProtocol, code: ErrorCode, message: str) -> None:
        link.go_away(GoAway(code=code.value, message=message), close=True, reason=message)

    def _broken(self, failure: Failure, link: LinkProtocol) -> None:
        if failure.check(StoreError):
            self._log.error("the store failed: {reason}", reason=failure.getErrorMessage())
        else:
            self._log.failure("an operator's link failed", failure)
        self._refuse(link, ErrorCode.INTERNAL, "the gateway failed; try again")

    # -- streams -------------------------------------------------------------------------------

    async def _open(self, link: LinkProtocol, number: int, request: Open, caller: Caller) -> None:
        petition = _Petition(link, number, request, self._gateway.relaying)
        await self._gateway.switchboard.open(caller, request, petition)

    def _not_opened(self, failure: Failure, link: LinkProtocol, number: int) -> None:
        error = failure.value
        if isinstance(error, OpenRefused):
            link.refuse(number, error.code, error.message)
        elif isinstance(error, StoreError):
            # Fail closed: what cannot be written down is not done.
            link.refuse(number, error.code, str(error))
        else:
            self._log.failure("a stream could not be opened", failure)
            link.refuse(number, ErrorCode.INTERNAL, "the gateway failed; its log says why")


class _Petition:
    """A stream of an operator's link until the gate has answered: it listens for their RESET.

    It is the stream's receiver until it is joined; of a stream without an answer nothing but its
    end can arrive (rule O1).
    """

    def __init__(
        self, link: LinkProtocol, number: int, request: Open, relaying: CreditBudget
    ) -> None:
        self._relaying = relaying
        self._link = link
        self._number = number
        self._request = request
        self._gone: Callable[[str, str], None] | None = None

    def watch(self, gone: Callable[[str, str], None]) -> None:
        if self._link.waiting(self._number):
            self._gone = gone
            self._link.watch(self._number, self)
        elif self._link.closed:
            gone(ErrorCode.LINK_LOST.value, "the operator's link is gone")
        else:
            gone(ErrorCode.CANCELLED.value, "the operator gave up")

    def join(
        self, device_link: LinkProtocol, request: Open, witness: StreamWitness, weight: int
    ) -> RelayedStream:
        if not self._link.waiting(self._number):
            code = ErrorCode.LINK_LOST if self._link.closed else ErrorCode.CANCELLED
            raise OpenRefused(code, "the operator gave up")
        stream = RelayedStream(
            self._link,
            self._number,
            self._request,
            device_link,
            witness,
            weight,
            self._relaying,
        )
        stream.open(request)
        return stream

    def stream_reset(self, code: str, message: str) -> None:
        self._tell(code, message)

    def link_lost(self, reason: str) -> None:
        self._tell(ErrorCode.LINK_LOST.value, reason)

    def _tell(self, code: str, message: str) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone(code, message)

    def next_control(self) -> OutEvent | OutLimit | None:
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return None

    def stream_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer asked for."""

    def stream_refused(self, code: str, message: str) -> None:
        """Likewise."""

    def stream_finished(self) -> None:
        """Not before an outcome."""

    def data_received(self, event: DataReceived) -> None:
        """Not before OPENED."""

    def event_received(self, event: EventReceived) -> None:
        """Likewise."""

    def limit_received(self, event: LimitReceived) -> None:
        """Likewise."""
