"""Who sends next: idle streams first, then deficit round robin (rule Q1).

The idea is fq_codel's (RFC 8290 section 4.1 and 4.2): a stream that had nothing to send is *new*
and goes ahead of everyone with one small quantum.  Keystrokes and prompts stay below it and so
win without anyone trusting a class label; a stream that uses its quantum up becomes *old* and
shares the rest by weight.  A new stream that ran empty is parked in the old list until its turn
there: when it wakes before that, it goes ahead again, but only with what is left of its quantum.
So nobody starves, and a keystroke need not wait for a round of bulk (fq_codel makes it wait, which
is right for its rounds of a packet and wrong for ours of up to 128 KiB a stream).
"""

from __future__ import annotations

from collections import deque

from rshell.link.core.constants import QUANTUM, SPARSE_QUANTUM, WEIGHT_NORMAL

__all__ = ["Flow", "Scheduler"]


class Flow:
    """One stream's place in the queue.

    Attributes:
        weight: Its share against others: interactive 8, normal 4, bulk 1.
        deficit: Bytes it may still send in this round; below 0 when a frame overdrew it.
        new: Whether it is among the streams that go first.
        old: Whether it has a turn to come among the others.
        parked: Whether it had nothing to send when it got that turn.
        woken_at: When it last joined those that go first.
        sent_at: When it last sent something; below ``woken_at`` if it has not since.
    """

    __slots__ = ("deficit", "key", "new", "old", "parked", "sent_at", "weight", "woken_at")

    def __init__(self, key: int, weight: int = WEIGHT_NORMAL) -> None:
        self.key = key
        self.weight = weight
        self.deficit = 0
        self.new = False
        self.old = False
        self.parked = False
        self.woken_at = 0.0
        self.sent_at = -1.0


class Scheduler:
    """Orders the flows that have something to send."""

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: deque[Flow] = deque()
        self._old: deque[Flow] = deque()

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    @property
    def alone(self) -> bool:
        """Whether only one flow has anything to send."""
        return len(self._new) + len(self._old) == 1

    def wake(self, flow: Flow, now: float = 0.0) -> None:
        """Note that ``flow`` may have something to send."""
        if flow.new or (flow.old and not (flow.parked and flow.deficit > 0)):
            return
        if not flow.old:
            flow.deficit = SPARSE_QUANTUM
        flow.new = True
        flow.woken_at = now
        flow.sent_at = now - 1
        self._new.append(flow)

    def remove(self, flow: Flow) -> None:
        """Forget a flow whose stream is over."""
        if flow.new:
            self._new.remove(flow)
        if flow.old:
            self._old.remove(flow)
        flow.new = flow.old = False

    def current(self) -> Flow | None:
        """Return the flow whose turn it is, or None when all are idle."""
        while self._new or self._old:
            flow = (self._new or self._old)[0]
            if flow.deficit > 0:
                flow.parked = flow.parked and flow.new
                return flow
            if flow.new:
                self._new.popleft()
                flow.new = flow.parked = False
                if flow.old:
                    continue  # its turn is to come
            else:
                self._old.popleft()
            flow.deficit += QUANTUM * flow.weight
            flow.old = True
            self._old.append(flow)
        return None

    def sent(self, flow: Flow, size: int) -> None:
        """Charge the current flow for ``size`` bytes."""
        flow.deficit -= size

    def idle(self, flow: Flow) -> bool:
        """Note that the current flow has nothing it could send.

        Returns:
            Whether it is sparse: it has sent something since it woke, within its small quantum.
        """
        sparse = flow.new and flow.sent_at >= flow.woken_at
        if flow.new:
            self._new.popleft()
            flow.new = False
            flow.parked = True
            if not flow.old and self._old:
                flow.old = True
                self._old.append(flow)
        elif flow.old:
            self._old.popleft()
            flow.old = False
        return sparse
