"""Who sends next: idle streams first, then deficit round robin (rule Q1).

The idea is fq_codel's (RFC 8290 section 4.1 and 4.2): a stream that had nothing to send is *new*
and goes ahead of everyone with one small quantum.  Keystrokes and prompts stay below it and so
win without anyone trusting a class label; a stream that uses its quantum up becomes *old* and
shares the rest by weight.  A new stream that ran empty passes once through the old list, so that
it cannot be new again at once.
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
    """

    __slots__ = ("deficit", "key", "queued", "weight")

    def __init__(self, key: int, weight: int = WEIGHT_NORMAL) -> None:
        self.key = key
        self.weight = weight
        self.deficit = 0
        self.queued = False


class Scheduler:
    """Orders the flows that have something to send."""

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: deque[Flow] = deque()
        self._old: deque[Flow] = deque()

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    def wake(self, flow: Flow) -> None:
        """Note that ``flow`` may have something to send."""
        if not flow.queued:
            flow.queued = True
            flow.deficit = SPARSE_QUANTUM
            self._new.append(flow)

    def remove(self, flow: Flow) -> None:
        """Forget a flow whose stream is over."""
        if flow.queued:
            flow.queued = False
            for queue in (self._new, self._old):
                if flow in queue:
                    queue.remove(flow)

    def current(self) -> Flow | None:
        """Return the flow whose turn it is, or None when all are idle."""
        while True:
            queue = self._new or self._old
            if not queue:
                return None
            flow = queue[0]
            if flow.deficit > 0:
                return flow
            queue.popleft()
            flow.deficit += QUANTUM * flow.weight
            self._old.append(flow)

    def sent(self, flow: Flow, size: int) -> None:
        """Charge the current flow for ``size`` bytes."""
        flow.deficit -= size

    def idle(self, flow: Flow) -> None:
        """Note that the current flow has nothing it could send."""
        if self._new and self._new[0] is flow:
            self._new.popleft()
            if self._old:
                self._old.append(flow)
                return
        elif self._old and self._old[0] is flow:
            self._old.popleft()
        flow.queued = False
