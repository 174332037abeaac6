"""The join exchange: one JOIN, one answer, fifteen seconds (section 11 of docs/protocol.md).

The joiner has no certificate yet: this is the only input the gateway takes from strangers beside
TLS itself.  It costs one frame of at most 16 KiB, one signature check and one indexed query.

A device may have to wait for an operator: it is told so and asks again (rule J7).  What operators
do about it is in `rshell.gateway.pending_services`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.access.names import suggest_name
from rshell.access.printable import printable
from rshell.gateway.admission import source_of
from rshell.gateway.home import GatewayHome
from rshell.gateway.metrics import Metrics
from rshell.gateway.pending import Pending, poll_seconds
from rshell.gateway.throttle import Throttle
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.join_string import token_hash
from rshell.identity.keys import BadCertificateRequest, fingerprint, read_csr, spki_hash
from rshell.identity.sources import host_of
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.constants import FrameType
from rshell.link.core.errors import ErrorCode, RemoteProtocolError
from rshell.link.core.frames import FrameReader, encode_frame
from rshell.link.core.messages import GoAway, Join, Joined, decode, encode
from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.pending_records import Applicant, Waiting
from rshell.store.records import OwnerKind, Refusal, TokenGrant, TokenRefused
from rshell.store.store import Store

__all__ = ["JoinExchange", "Joiner", "issue"]

_log = Logger()

JOIN_SECONDS = 15.0
#: One text for every reason: a stranger learns nothing about which strings exist.
REFUSED_TEXT = "this join string is not valid: it is spent, expired, revoked or for another kind"
WAIT_TEXT = "this device waits until an operator accepts it"
#: Nor does this tell whether it was the source's tries, or too many devices that wait.
OVERLOAD_TEXT = "too many tries to join: try again later"
OVERLOAD_SECONDS = 60


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
        refusals: How many rows the refused uses of one invite may add to the audit log, and lines
            about what is too much of one source to the other one.
        wall: Returns seconds since 1970.
        guesses: How often one source may be refused; beyond, only who is known is looked at.
        pending: The devices that wait.
        metrics: What is counted.
    """

    home: GatewayHome
    store: Store
    gateways: Callable[[], list[str]]
    refusals: Throttle
    wall: Callable[[], float]
    guesses: Throttle
    pending: Pending
    metrics: Metrics

    async def join(self, request: Join, address: str) -> Joined | GoAway:
        """Answer one JOIN."""
        if request.kind not in ("device", "operator"):
            return GoAway(code=ErrorCode.BAD_REQUEST.value, message="a device or an operator joins")
        kind: OwnerKind = "operator" if request.kind == "operator" else "device"
        host = host_of(address)
        source = source_of(host)
        try:
            public_key = read_csr(request.csr)
        except BadCertificateRequest as error:
            self.guesses.admit(source)
            self.metrics.joins.labels("refused").inc()
            return GoAway(code=ErrorCode.BAD_REQUEST.value, message=str(error)[:256])
        spki = spki_hash(public_key)
        # Who waits, or was accepted, must not pay for what others behind the same NAT try.
        if self.guesses.exhausted(source) and not await self.store.knows_joiner(spki):
            return self._overload(source, address, "too many refused tries from there")
        proposed = suggest_name(request.name or request.facts.get("hostname", ""))
        applicant = Applicant(host=host, source=source, address=address, proposed=proposed)
        answer = await self.store.use_token(
            request.id, token_hash(request.secret), spki, kind, applicant
        )
        if isinstance(answer, Waiting):
            return await self._wait(request, answer, spki, address)
        if isinstance(answer, TokenRefused) and answer.reason is Refusal.FULL:
            why = "too many wait: of its invite, from there, or in all (see: rshell pending)"
            return self._overload(source, address, why, "full")
        if isinstance(answer, TokenRefused):
            self.guesses.admit(source)
            return await self._refuse(request, answer.reason, address, spki)
        return await self._admit(request, answer, public_key, address, proposed)

    def _overload(self, source: str, address: str, why: str, result: str = "overload") -> GoAway:
        self.metrics.joins.labels(result).inc()
        if self.refusals.admit(("overload", source)) is not None:
            _log.info("refused to join {address}: {why}", address=address, why=why)
        return GoAway(
            code=ErrorCode.OVERLOAD.value,
            message=OVERLOAD_TEXT,
            retry_min_ms=OVERLOAD_SECONDS * 1000,
        )

    async def _refuse(self, request: Join, reason: Refusal, address: str, spki: bytes) -> GoAway:
        invite = request.id.hex() or "without an id"
        self.metrics.joins.labels("refused").inc()
        _log.info(
            "refused to join {address}: invite {id} is {reason}",
            address=address,
            id=invite,
            reason=reason.value,
        )
        # Strangers who know no invite must not be able to fill the audit log.
        if reason is not Refusal.UNKNOWN and self.refusals.admit(request.id) is not None:
            key = {"fingerprint": fingerprint(spki)}
            await self._audit("join.refused", request, address, code=reason.value, details=key)
        return GoAway(code=ErrorCode.AUTH.value, message=REFUSED_TEXT)

    async def _wait(self, request: Join, waiting: Waiting, spki: bytes, address: str) -> GoAway:
        self.pending.count = waiting.count
        self.metrics.joins.labels("pending" if waiting.first else "polled").inc()
        if waiting.first:
            key = fingerprint(spki)
            await self._audit(
                "join.pending",
                request,
                address,
                status="pending",
                details={"fingerprint": key, "name": waiting.name},
            )
            _log.info(
                "{address} asks to join as {name}: its key is {key}",
                address=address,
                name=waiting.name,
                key=key,
            )
        age = self.wall() - waiting.first_seen / 1_000_000
        return GoAway(
            code=ErrorCode.PENDING.value,
            message=WAIT_TEXT,
            retry_min_ms=int(poll_seconds(age, waiting.count) * 1000),
        )

    async def _admit(
        self, request: Join, grant: TokenGrant, public_key: Any, address: str, proposed: str
    ) -> Joined:
        if grant.kind == "device":
            device = await self.store.enrol_device(grant, proposed)
            owner, name = device.id, device.name
        else:
            operator = await self.store.enrol_operator(grant)
            owner = name = operator.name
        chain = grant.certificate
        if chain is None:
            now = datetime.fromtimestamp(self.wall(), UTC)
            made, not_after = issue(self.home, grant.kind, owner, public_key, now)
            chain = await self.store.keep_certificate(grant, made, not_after)
            details = {
                "fingerprint": fingerprint(grant.spki),
                "invite": grant.token_id.hex(),
                # "key": an operator accepted it, or registered it beforehand
                "by": "key" if grant.bound else "secret",
            }
            await self._audit("join", request, address, name=name, owner=owner, details=details)
            self.metrics.joins.labels("joined").inc()
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
        status: str = "ok",
        code: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        details: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        device = request.kind != "operator"
        told = {"invite": request.id.hex(), "proposed": printable(request.name or "", 64)}
        await self.store.append_audit(
            AuditRecord(
                kind=kind,
                operator=None if device else name,
                device=owner if device else None,
                device_name=name if device else None,
                address=address,
                status="refused" if code else status,
                code=code,
                details={**told, **details},
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
