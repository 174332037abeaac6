"""The middle of a stream: two hops joined, nothing kept that matters (rule F7).

::

    operator's link                                        device's link
    DataReceived ----> [ queue of the device side ]  ----> next_frame
    next_frame   <---- [ queue of the operator side ] <--- DataReceived
    LIMIT        ----> consumed and events unchanged, limit lowered to
                       what the outgoing link has taken plus the allowance  ----> LIMIT

Offsets are the same on both hops.  Each `RelaySide` is the source of one hop's frames and holds
at most the allowance, because it never lets the other hop's peer send more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rshell.link.core.constants import ALLOWANCE, WIDE_ALLOWANCE
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Open, Opened, Positions
from rshell.link.core.sources import OutData, OutEvent, OutLimit

__all__ = ["Relay", "RelaySide"]


def _nothing() -> None:
    """Stand in for a wake call before the hop is known."""


class RelaySide:
    """What a relay sends on one of its two hops.

    Attributes:
        wake: Tells this hop's link that there may be something to send.
        queued: Bytes that wait for this hop's transport.
    """

    def __init__(self, budget: CreditBudget | None, share: CreditBudget | None = None) -> None:
        self.wake: Callable[[], None] = _nothing
        self.queued = 0
        self.other: RelaySide
        self._budget = budget
        self._share = share
        self._queue: deque[OutData | OutEvent] = deque()
        self._urgent: deque[OutEvent] = deque()
        self._events_queued = 0
        #: Whether this hop's peer has said its outcome: no byte is of use to it any more.
        self._done = False
        #: Bytes of this hop's outgoing direction that its transport has taken, absolute.
        self._forwarded = 0
        #: The far end's positions for what this hop's peer sends, to be announced to that peer.
        self._far = Positions(0, 0, 0)
        self._announced = Positions(0, 0, 0)

    # -- what the owner reports --------------------------------------------------------------

    def data(self, event: DataReceived) -> None:
        """Queue bytes that arrived on the other hop."""
        if self._done:
            return
        self._queue.append(OutData(event.data, event.stderr, event.eof))
        self.queued += len(event.data)
        self.wake()

    def event(self, event: EventReceived) -> None:
        """Queue an event that arrived on the other hop, unchanged.

        An urgent one overtakes bytes but no event: the numbers must stay in order (rule V1).
        """
        outcome = event.event.kind == "outcome"
        if outcome:
            self.other._done = True
        item = OutEvent(event.payload, event.event.seq, event.urgent, outcome)
        if event.urgent and not self._events_queued:
            self._urgent.append(item)
        else:
            self._queue.append(item)
            self._events_queued += 1
        self.wake()

    def limit(self, event: LimitReceived) -> None:
        """Take the far end's positions, which arrived on the other hop."""
        self._far = Positions(event.consumed, event.limit, event.events)
        self.wake()

    # -- opening -----------------------------------------------------------------------------

    def begin(self, forwarded: int) -> None:
        """Set where the outgoing direction of this hop goes on."""
        self._forwarded = forwarded

    def lowered(self, far: Positions) -> Positions:
        """Return the far end's positions as this hop's peer may hear them, and note them."""
        self._far = far
        self._announced = Positions(far.consumed, self._allowed(), far.events)
        return self._announced

    # -- FrameSource -------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        """Return an urgent event, or the far end's positions when they are news."""
        if self._urgent:
            return self._urgent.popleft()
        far, told = self._far, self._announced
        allowed = self._raised()
        if allowed is None:
            if far.consumed <= told.consumed and far.events <= told.events:
                return None
            allowed = max(told.limit, self._allowed())
        self._announced = Positions(far.consumed, allowed, far.events)
        return OutLimit(far.consumed, allowed, far.events)

    def _raised(self) -> int | None:
        """Return the limit for this hop's peer if it has risen by enough to be told alone."""
        told, far = self._announced.limit, self._far.limit
        if told >= far:
            return None
        allowance = self._allowance()
        allowed = min(far, self.other._forwarded + allowance)
        if allowed - told >= allowance // 2 or (allowed > told and allowed == far):
            return allowed
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        """Return what has waited longest; bytes only as far as credit and room go."""
        if not self._queue:
            return None
        head = self._queue[0]
        if isinstance(head, OutEvent):
            self._queue.popleft()
            self._events_queued -= 1
            return head
        size = min(room, credit)
        if len(head.data) > size:
            if size <= 0:
                return None
            view = memoryview(head.data)
            self._queue[0] = OutData(view[size:], head.stderr, head.eof)
            head = OutData(view[:size], head.stderr, False)
        else:
            self._queue.popleft()
        self._took(len(head.data))
        return head if self._queue else OutData(head.data, head.stderr, head.eof, last=True)

    def _took(self, size: int) -> None:
        self.queued -= size
        self._forwarded += size
        if self.other._raised() is not None:
            self.other.wake()

    def _allowance(self) -> int:
        wanted = ALLOWANCE
        if self._share is not None:
            wanted = max(ALLOWANCE, self._share.window(WIDE_ALLOWANCE))
        return wanted if self._budget is None else self._budget.window(wanted)

    def _allowed(self) -> int:
        """The limit for this hop's peer: never above the far end's, never above our room."""
        return min(self._far.limit, self.other._forwarded + self._allowance())


class Relay:
    """Joins the operator's hop and the device's hop of one session.

    Args:
        operator_budget: Bounds what the operator's link may have in flight towards us.
        device_budget: Likewise for the device's link.
        share: What this relay may share of the process's memory, if it may hold more than the
            narrow allowance; whoever made the relay joins it for both directions, and leaves it.
    """

    def __init__(
        self,
        operator_budget: CreditBudget | None = None,
        device_budget: CreditBudget | None = None,
        share: CreditBudget | None = None,
    ) -> None:
        self.operator = RelaySide(operator_budget, share)
        self.device = RelaySide(device_budget, share)
        self.operator.other = self.device
        self.device.other = self.operator

    def opening(self, request: Open) -> Positions:
        """Return the positions to state in the device's OPEN, from the operator's."""
        start = request.start
        self.operator.begin(start.consumed)
        return self.device.lowered(start)

    def opened(self, opened: Opened) -> Opened:
        """Return the OPENED for the operator, from the device's."""
        self.operator.begin(self.operator._forwarded + opened.gap)
        self.device.begin(opened.consumed)
        told = self.operator.lowered(Positions(opened.consumed, opened.limit, opened.events))
        return Opened(told.consumed, told.limit, told.events, opened.gap, opened.replay)
