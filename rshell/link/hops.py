"""RelayedStream: the two streams of a session that a gateway joins (rule F7)."""

from __future__ import annotations

from typing import Any, Protocol

from rshell.link.core.constants import WEIGHT_INTERACTIVE
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Notice, Open, Opened, Sessions
from rshell.link.core.relay import Relay, RelaySide
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol

__all__ = ["RelayedStream", "StreamWitness"]


class StreamWitness(Protocol):
    """Is told what becomes of a relayed stream.

    Calls come in this order: `stream_accepted` and `outcome_passed` at most once each, then
    exactly one of `outcome_taken` and `stream_broken`.
    """

    def stream_accepted(self) -> None:
        """The device said OPENED."""

    def outcome_passed(self, body: dict[str, Any]) -> None:
        """The device's outcome passed by on its way to the operator."""

    def outcome_taken(self) -> None:
        """The operator's end has acknowledged the outcome: the session is over."""

    def stream_broken(self, code: str, message: str) -> None:
        """The stream ended without that: refused, reset, or a hop broke."""


class _Hop:
    """One of the two streams: what arrives here goes to the other side's queue."""

    def __init__(self, stream: RelayedStream, side: RelaySide) -> None:
        self._stream = stream
        self._side = side
        self.link: LinkProtocol | None = None
        self.number = 0
        #: That arrived here.
        self.bytes = 0
        self._ended = False

    def attach(self, link: LinkProtocol, number: int) -> None:
        """Use this stream of this link."""
        self.link = link
        self.number = number
        self._side.wake = self._wake

    def _wake(self) -> None:
        if self.link is not None:
            self.link.wake(self.number)

    def reset(self, code: str, message: str) -> None:
        """End this hop, if it still lives."""
        link, self.link = self.link, None
        if link is not None:
            link.reset(self.number, code, message)

    def next_control(self) -> OutEvent | OutLimit | None:
        return self._side.next_control()

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return self._side.next_frame(room, credit)

    def data_received(self, event: DataReceived) -> None:
        if self._ended and not event.data:
            return  # the end again: it needs no credit, so nothing else bounds how often
        self._ended = self._ended or event.eof
        self.bytes += len(event.data)
        self._side.other.data(event)

    def event_received(self, event: EventReceived) -> None:
        if event.event.kind == "outcome":
            self._stream.outcome_passed(event.event.body)
        self._side.other.event(event)

    def limit_received(self, event: LimitReceived) -> None:
        self._side.other.limit(event)

    def stream_opened(self, opened: Opened) -> None:
        self._stream.device_accepted(opened)

    def stream_refused(self, code: str, message: str) -> None:
        self.link = None
        self._stream.device_refused(code, message)

    def stream_reset(self, code: str, message: str) -> None:
        self.link = None
        self._stream.broken(code, message)

    def stream_finished(self) -> None:
        # The operator's hop is first, by a LIMIT; the device's hop follows by passing that on.
        self.link = None
        self._stream.outcome_taken()

    def link_lost(self, reason: str) -> None:
        self.link = None
        self._stream.broken(ErrorCode.LINK_LOST.value, reason)


class RelayedStream:
    """Joins an operator's stream to a stream that it opens on a device's link.

    Args:
        operator_link: Where the request came from.
        number: Its stream number there; it must still wait for an answer.
        request: The operator's OPEN.
        device_link: The device's current link.
        witness: Told what becomes of it.
        weight: The stream's share on both links.
        share: What relays of the process share beyond the narrow allowance (rule F7); streams on
            which somebody types take none of it.
    """

    def __init__(
        self,
        operator_link: LinkProtocol,
        number: int,
        request: Open,
        device_link: LinkProtocol,
        witness: StreamWitness,
        weight: int,
        share: CreditBudget | None = None,
    ) -> None:
        if weight >= WEIGHT_INTERACTIVE:
            share = None
        self._share: CreditBudget | None = None
        self._relay = Relay(operator_link.receive_budget, device_link.receive_budget, share)
        self._wanted_share = share
        self._operator = _Hop(self, self._relay.operator)
        self._device = _Hop(self, self._relay.device)
        self._operator_link = operator_link
        self._device_link = device_link
        self._number = number
        self._request = request
        self._witness: StreamWitness | None = witness
        self._weight = weight
        self._accepted = False

    @property
    def bytes_in(self) -> int:
        """Bytes that the operator has sent so far."""
        return self._operator.bytes

    @property
    def bytes_out(self) -> int:
        """Bytes that the device has sent so far."""
        return self._device.bytes

    @property
    def bytes_relayed(self) -> int:
        """Of both directions, so far."""
        return self._operator.bytes + self._device.bytes

    def tell(self, code: str, message: str) -> bool:
        """Tell the operator something, beside the stream; return whether they can be told."""
        link = self._operator.link
        if link is None or "notices" not in link.core.peer_features:
            return False
        notice = Notice(self._request.session, code, message[:256])
        link.sessions(Sessions(notices=[notice]))
        return True

    def open(self, request: Open) -> None:
        """Open the device's hop.

        Args:
            request: The OPEN for the device, without positions; they are filled in here.

        Raises:
            LocalProtocolError: The device's link takes no new stream; nothing was done.
        """
        start = self._relay.opening(self._request)
        number = self._device_link.open_stream(
            request.starting(start, resuming=self._request.resume is not None),
            self._device,
            self._weight,
        )
        self._take_share()
        self._device.attach(self._device_link, number)
        self._operator_link.watch(self._number, self._operator)
        self._operator.attach(self._operator_link, self._number)

    def device_accepted(self, opened: Opened) -> None:
        """The device said OPENED: say so to the operator, and let both directions run."""
        if not self._operator_link.waiting(self._number):
            # Its link is ending and will say so later; the device need not wait for that.
            self.broken(ErrorCode.LINK_LOST.value, "the operator's link is gone")
            return
        self._accepted = True
        if self._witness is not None:
            self._witness.stream_accepted()
        told = self._relay.opened(opened)
        self._operator_link.accept(self._number, self._request, told, self._operator, self._weight)
        self._relay.device.wake()

    def device_refused(self, code: str, message: str) -> None:
        """The device said REFUSED: pass it on."""
        self._operator_link.refuse(self._number, code, message)
        self._over(code, message)

    def outcome_passed(self, body: dict[str, Any]) -> None:
        """Note the outcome as it passes: the audit wants it."""
        if self._witness is not None:
            self._witness.outcome_passed(body)

    def outcome_taken(self) -> None:
        """The operator's end has the outcome; the device's hop ends by hearing so."""
        self._return_share()
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.outcome_taken()

    def broken(self, code: str, message: str) -> None:
        """End what is left of both hops with this code: one broke, or the gate says so."""
        self._end_hops(code, code, message)

    def displaced(self, message: str) -> None:
        """A higher attempt of the same session takes over (rule R3).

        To the device this hop broke, and it keeps the session; the operator's end is told
        `duplicate`, because to open again would only displace the newer attempt.
        """
        self._end_hops(ErrorCode.DUPLICATE.value, ErrorCode.LINK_LOST.value, message)

    def _end_hops(self, to_operator: str, to_device: str, message: str) -> None:
        if not self._accepted:
            self._operator_link.refuse(self._number, to_operator, message)
        self._operator.reset(to_operator, message)
        self._device.reset(to_device, message)
        self._over(to_operator, message)

    def _over(self, code: str, message: str) -> None:
        self._return_share()
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.stream_broken(code, message)

    def _take_share(self) -> None:
        self._share, self._wanted_share = self._wanted_share, None
        if self._share is not None:
            self._share.join()  # for what the operator sends
            self._share.join()  # for what the device sends

    def _return_share(self) -> None:
        share, self._share = self._share, None
        if share is not None:
            share.leave()
            share.leave()
