"""The join exchange: one JOIN, one answer, fifteen seconds (section 11 of docs/protocol.md).

The joiner has no certificate yet: this is the only input the gateway takes from strangers beside
TLS itself.  It costs one frame of at most 16 KiB, one signature check and one indexed query.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.access.names import suggest_name
from rshell.access.printable import printable
from rshell.gateway.home import GatewayHome
from rshell.gateway.throttle import Throttle
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.join_string import token_hash
from rshell.identity.keys import BadCertificateRequest, read_csr, spki_hash
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.constants import FrameType
from rshell.link.core.errors import ErrorCode, RemoteProtocolError
from rshell.link.core.frames import FrameReader, encode_frame
from rshell.link.core.messages import GoAway, Join, Joined, decode, encode
from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.records import OwnerKind, Refusal, TokenGrant, TokenRefused
from rshell.store.store import Store

__all__ = ["JoinExchange", "Joiner", "issue"]

_log = Logger()

JOIN_SECONDS = 15.0
#: One text for every reason: a stranger learns nothing about which strings exist.
REFUSED_TEXT = "this join string is not valid: it is spent, expired, revoked or for another kind"


def issue(
    home: GatewayHome, kind: OwnerKind, owner: str, public_key: Any, now: datetime
) -> tuple[str, int]:
    """Return a new certificate chain for a device id or operator name, and its end.

    Returns:
        PEM (leaf, then its CA), and the end of life in microseconds since 1970 UTC.

    Raises:
        KeyAbsent: The CA's key is not on this machine.
    """
    now = home.keys.moment(now)
    if kind == "device":
        leaf = home.keys.issue_device(public_key, owner, now)
        authority = home.keys.device.certificate
    else:
        leaf = home.keys.issue_operator(public_key, owner, now)
        authority = home.keys.operator.certificate
    not_after = int(leaf.not_valid_after_utc.timestamp() * 1_000_000)
    return chain_to_pem((leaf, authority)).decode("ascii"), not_after


@attrs.frozen
class Joiner:
    """Admits machines that hold a join string.

    Attributes:
        home: Whose CAs sign.
        store: Where invites and keys are.
        gateways: Returns the ``host:port`` list that joiners are told to dial.
        refusals: How many rows the refused uses of one invite may add to the audit log.
        wall: Returns seconds since 1970.
    """

    home: GatewayHome
    store: Store
    gateways: Callable[[], list[str]]
    refusals: Throttle
    wall: Callable[[], float] = time.time

    async def join(self, request: Join, address: str) -> Joined | GoAway:
        """Answer one JOIN."""
        if request.kind not in ("device", "operator"):
            return GoAway(code=ErrorCode.BAD_REQUEST.value, message="a device or an operator joins")
        kind: OwnerKind = "operator" if request.kind == "operator" else "device"
        try:
            public_key = read_csr(request.csr)
        except BadCertificateRequest as error:
            return GoAway(code=ErrorCode.BAD_REQUEST.value, message=str(error)[:256])
        spki = spki_hash(public_key)
        grant = await self.store.use_token(request.id, token_hash(request.secret), spki, kind)
        if isinstance(grant, TokenRefused):
            _log.info(
                "refused to join {address}: invite {id} is {reason}",
                address=address,
                id=request.id.hex(),
                reason=grant.reason.value,
            )
            # Strangers who know no invite must not be able to fill the audit log.
            if grant.reason is not Refusal.UNKNOWN and self.refusals.admit(request.id) is not None:
                await self._audit("join.refused", request, address, code=grant.reason.value)
            return GoAway(code=ErrorCode.AUTH.value, message=REFUSED_TEXT)
        return await self._admit(request, grant, public_key, address)

    async def _admit(
        self, request: Join, grant: TokenGrant, public_key: Any, address: str
    ) -> Joined:
        if grant.kind == "device":
            proposed = request.name or request.facts.get("hostname", "")
            device = await self.store.enrol_device(grant, suggest_name(proposed))
            owner, name = device.id, device.name
        else:
            operator = await self.store.enrol_operator(grant)
            owner = name = operator.name
        chain = grant.certificate
        if chain is None:
            now = datetime.fromtimestamp(self.wall(), UTC)
            made, not_after = issue(self.home, grant.kind, owner, public_key, now)
            chain = await self.store.keep_certificate(grant, made, not_after)
            await self._audit("join", request, address, name=name, owner=owner)
            _log.info(
                "{kind} {name} joined from {address}", kind=grant.kind, name=name, address=address
            )
        return Joined(
            chain=chain,
            root=chain_to_pem((self.home.keys.root.certificate,)).decode("ascii"),
            fleet=self.home.keys.fleet,
            id=owner,
            name=name,
            gateways=self.gateways(),
            time_ms=int(self.wall() * 1000),
        )

    async def _audit(
        self,
        kind: str,
        request: Join,
        address: str,
        *,
        code: str | None = None,
        name: str | None = None,
        owner: str | None = None,
    ) -> None:
        device = request.kind != "operator"
        await self.store.append_audit(
            AuditRecord(
                kind=kind,
                operator=None if device else name,
                device=owner if device else None,
                device_name=name if device else None,
                address=address,
                status="refused" if code else "ok",
                code=code,
                details={"invite": request.id.hex(), "proposed": printable(request.name or "", 64)},
            )
        )


class JoinExchange(Protocol):
    """One connection of a machine that joins."""

    _log = Logger()

    def __init__(self, joiner: Joiner, wheel: TimerWheel, address: str) -> None:
        self._joiner = joiner
        self._wheel = wheel
        self._address = address
        self._reader = FrameReader()
        self._timer: WheelTimer | None = None
        self._asked = False
        self._gone = False

    def connectionMade(self) -> None:
        self._timer = self._wheel.call_later(JOIN_SECONDS, self._late)

    def dataReceived(self, data: bytes) -> None:
        if self._asked:
            return
        try:
            self._reader.feed(data)
            frame = self._reader.next_frame()
            if frame is None:
                return
            if frame.type != FrameType.JOIN or frame.stream != 0:
                raise RemoteProtocolError(ErrorCode.PROTOCOL, "expected JOIN")
            request = decode(frame.payload, Join)
        except RemoteProtocolError as error:
            self._say(error.reason)
            self._answer(GoAway(code=error.code.value, message=error.reason[:256]))
            return
        self._asked = True
        joining = Deferred.fromCoroutine(self._joiner.join(request, self._address))
        joining.addCallbacks(self._answer, self._failed)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        self._cancel()

    def _answer(self, answer: Joined | GoAway) -> None:
        self._asked = True
        if self._gone:
            return  # the same key may ask again
        kind = FrameType.JOINED if isinstance(answer, Joined) else FrameType.GOAWAY
        transport: Any = self.transport
        transport.write(encode_frame(kind, 0, encode(answer)))
        transport.loseConnection()
        self._cancel()
        self._timer = self._wheel.call_later(2.0, transport.abortConnection)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, StoreUnavailable):
            # Names a path of this machine, which is no stranger's business.
            self._log.error("the store failed: {reason}", reason=failure.getErrorMessage())
            self._answer(GoAway(code=ErrorCode.INTERNAL.value, message="the gateway failed"))
            return
        if isinstance(failure.value, StoreError):
            message = str(failure.value)
            self._say(message)
            # A taken name and the like are the inviter's to mend, and the joiner holds the string.
            self._answer(GoAway(code=ErrorCode.BAD_REQUEST.value, message=message[:256]))
            return
        self._log.failure("a join from {address} failed", failure, address=self._address)
        self._answer(GoAway(code=ErrorCode.INTERNAL.value, message="the gateway failed"))

    def _late(self) -> None:
        self._say("no JOIN in time")
        transport: Any = self.transport
        transport.abortConnection()

    def _say(self, why: str) -> None:
        self._log.info(
            "refused a join from {address}: {why}", address=self._address, why=printable(why)
        )

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
