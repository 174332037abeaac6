"""What the gateway itself answers: one registry, for whom, and with which request type.

There is no other way from a stream's handler name to code of the gateway: names are looked up in
`VERBS`, never with getattr.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.long_answers import AnswerPour, LongAnswer
from rshell.gateway.verb_audit import VerbAudit, told
from rshell.handlers import HandlerDescription, Outcome, decode_request, describe
from rshell.identity.tls import PeerCertificate
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol
from rshell.store.records import Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["VERBS", "Asker", "Verb", "Verbs", "verb"]


@attrs.frozen(kw_only=True)
class Asker:
    """Who asks the gateway: an operator's caller, or a device by its certificate."""

    peer: PeerCertificate
    caller: Caller | None = None

    @property
    def name(self) -> str:
        """The operator's name, or the device's id."""
        return self.peer.name.name

    @property
    def operator(self) -> Operator:
        """Who asks, for a verb that only operators ask."""
        assert self.caller is not None
        return self.caller.operator


Work = Callable[["Gateway", Asker, Any], Awaitable[Any]]


@attrs.frozen(kw_only=True)
class Verb:
    """One thing the gateway answers.

    Attributes:
        peers: ``device``, ``operator`` or both.
        open_to_all: Any operator may, whatever the roles grant: it tells and changes nothing but
            what is theirs, or on devices that they may see.  Else it needs an administrator.
        changes: An audit row is written before it runs, and one how it ended before it answers.
        own: Whether a request is about the asker's own things only: then any operator may.
        throttled: One asker may ask only now and then; told before that row is written.
    """

    name: str
    summary: str
    request_type: type[Struct]
    work: Work
    peers: frozenset[str]
    open_to_all: bool
    changes: bool
    throttled: bool
    own: Callable[[Asker, Any], bool] | None = None


VERBS: dict[str, Verb] = {}


def verb(
    name: str,
    request_type: type[Struct],
    *,
    peers: tuple[str, ...] = ("operator",),
    open_to_all: bool = False,
    changes: bool = False,
    throttled: bool = False,
    own: Callable[[Asker, Any], bool] | None = None,
) -> Callable[[Work], Work]:
    """Register ``work(gateway, asker, request)`` as the answer to a name.

    It returns JSON values, or a `LongAnswer` of them, which no verb does that changes something.
    """

    def register(work: Work) -> Work:
        summary = (work.__doc__ or "").strip().splitlines()[0]
        VERBS[name] = Verb(
            name=name,
            summary=summary,
            request_type=request_type,
            work=work,
            peers=frozenset(peers),
            open_to_all=open_to_all,
            changes=changes,
            throttled=throttled,
            own=own,
        )
        return work

    return register


def descriptions() -> list[HandlerDescription]:
    """Describe what operators can ask the gateway."""
    return [
        describe(entry.name, entry.summary, entry.request_type, "normal")
        for entry in VERBS.values()
        if "operator" in entry.peers
    ]


class Verbs:
    """Answers ``gateway.*`` streams."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._audit = VerbAudit(gateway)

    def from_device(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Answer a device: it may renew its certificate and nothing else (rule G1)."""
        self._answer(link, number, request, Asker(peer=link.peer))

    def from_operator(self, link: LinkProtocol, number: int, request: Open, caller: Caller) -> None:
        """Answer an operator."""
        self._answer(link, number, request, Asker(peer=link.peer, caller=caller))

    def _answer(self, link: LinkProtocol, number: int, request: Open, asker: Asker) -> None:
        working = Deferred.fromCoroutine(self._answered(link, number, request, asker))
        working.addErrback(lambda failure: self._refuse(link, number, failure))
        working.addErrback(lambda failure: self._log.failure("a verb failed", failure))

    async def _answered(self, link: LinkProtocol, number: int, request: Open, asker: Asker) -> None:
        answer = await self._work(request, asker)
        if isinstance(answer, bytes):
            self._reply(link, number, request, answer)
            return
        async with aclosing(answer.rows), aclosing(answer.pieces()) as pieces:
            piece, last = await anext(pieces)  # what is wrong with the request comes out here
            if last:
                self._reply(link, number, request, piece)
            elif link.waiting(number):
                await self._pour(link, number, request, piece, pieces)

    async def _pour(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        piece: bytes,
        pieces: AsyncGenerator[tuple[bytes, bool], None],
    ) -> None:
        """Answer as the pieces come; an error among them ends it with that outcome."""
        channel = StreamChannel(link, _DEAF)
        channel.accept(number, request)
        pour = AnswerPour(channel)
        outcome = Outcome(status="ok")
        try:
            await pour.write(piece)
            while not pour.gone:
                piece, last = await anext(pieces)
                await pour.write(piece)
                if last:
                    break
        except Exception as error:
            code, message = self._told(Failure(error))
            outcome = Outcome(status="error", code=code, message=message)
        pour.close()
        channel.finish(outcome)

    async def _work(self, request: Open, asker: Asker) -> bytes | LongAnswer:
        entry = VERBS.get(request.handler)
        if entry is None or asker.peer.name.kind not in entry.peers:
            raise OpenRefused(ErrorCode.NOT_FOUND, f"the gateway does not answer {request.handler}")
        rule = await self._check(entry, asker, request)
        typed = decode_request(request.request, entry.request_type)
        if entry.throttled and self._gateway.renewals.admit(asker.name) is None:
            raise OpenRefused(ErrorCode.OVERLOAD, "too often: try again in an hour")
        if not entry.changes:
            found = await self._run(entry, asker, typed)
            return found if isinstance(found, LongAnswer) else msgspec.json.encode(found)
        row = await self._audit.opening(asker.peer, asker.caller, request, rule)
        try:
            # While the row was written the role may have changed.
            self._rule(entry, asker, request)
            answer = await self._run(entry, asker, typed)
            body = msgspec.json.encode(answer)
        except Exception as error:
            # Whatever it was: no row stays without its end.
            await self._audit.failed(row, error)
            raise
        await self._audit.done(row, answer)
        return body

    async def _run(self, entry: Verb, asker: Asker, typed: Any) -> Any:
        if asker.caller is not None and self._gateway.revocation.is_revoked("operator", asker.name):
            # Revoked while the row was written: nothing more is done for this operator.
            raise OpenRefused(ErrorCode.REVOKED, "this operator is revoked")
        return await entry.work(self._gateway, asker, typed)

    async def _check(self, entry: Verb, asker: Asker, request: Open) -> str:
        """Return the rule by which an operator may ask this.

        Raises:
            OpenRefused: It needs an administrator; audited.
        """
        try:
            return self._rule(entry, asker, request)
        except OpenRefused as error:
            await self._audit.refusal(asker.peer, asker.caller, request, error.message)
            raise

    def _rule(self, entry: Verb, asker: Asker, request: Open) -> str:
        if asker.caller is None or entry.open_to_all or self._is_own(entry, asker, request):
            return "anyone"
        decision = self._gateway.rights.decide(asker.operator, None, entry.name)
        if not decision:
            raise OpenRefused(ErrorCode.POLICY, decision.reason)
        return decision.rule or ""

    @staticmethod
    def _is_own(entry: Verb, asker: Asker, request: Open) -> bool:
        if entry.own is None:
            return False
        return entry.own(asker, decode_request(request.request, entry.request_type))

    def _reply(self, link: LinkProtocol, number: int, request: Open, body: bytes) -> None:
        if link.waiting(number):
            # One record instead of three: each costs a system call and wakes the peer.
            link.together(lambda: self._tell(link, number, request, body))

    @staticmethod
    def _tell(link: LinkProtocol, number: int, request: Open, body: bytes) -> None:
        channel = StreamChannel(link, _DEAF)
        channel.accept(number, request)
        channel.write(body)
        channel.finish(Outcome(status="ok"))

    def _refuse(self, link: LinkProtocol, number: int, failure: Failure) -> None:
        link.refuse(number, *self._told(failure))

    def _told(self, failure: Failure) -> tuple[str, str]:
        refused = told(failure.value)
        if refused is not None:
            return refused
        self._log.failure("the gateway failed to answer", failure)
        return ErrorCode.INTERNAL.value, "the gateway failed; its log says why"


class _Deaf:
    """Listens to nothing: an answer needs nobody.

    It knows no channel, so that a finished one is freed at once: the five kilobytes of each would
    else wait for Python's search for cyclic garbage, which is rare, beside every device that came.
    """

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer asked for."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        """Input means nothing to a verb."""

    def input_ended(self) -> None:
        """Likewise."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """Likewise."""

    def channel_closed(self, code: str, message: str) -> None:
        """The answer was taken, or nobody wants it any more."""


_DEAF = _Deaf()
