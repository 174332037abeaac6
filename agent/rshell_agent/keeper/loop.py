"""A loop over epoll with timers. It knows nothing of sessions or connections."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

__all__ = ["Loop", "Timer"]

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A call to come; `cancel` makes it not come."""

    __slots__ = ("_call", "_number", "when")

    def __init__(self, when: float, number: int, call: Callable[[], None]) -> None:
        self.when = when
        self._number = number
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call; harmless when it is over."""
        self._call = None

    def fire(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def alive(self) -> bool:
        """Whether the call is still to come."""
        return self._call is not None

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._number) < (other.when, other._number)


class Loop:
    """Calls back when descriptors are ready and when times have come.

    A callback may be called once too often (a descriptor's number can be used again within one
    turn), so every descriptor is non-blocking. A callback that raises is reported and no longer
    watched: a fault in one session must not end the others.

    Args:
        report: Takes a line about a fault.
        now: The clock, in seconds; for whom time passes otherwise, `turn` is there.
    """

    def __init__(
        self, report: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[], None]]] = {}
        self._timers: list[Timer] = []
        self._count = 0
        self._report = report
        self.running = True
        self.now = now

    def watch(self, fd: int, call: Callable[[], None], events: int) -> None:
        """Call when `fd` is ready (or hung up); `events` 0 stops that, and also hangup reports."""
        before = self._watched.get(fd)
        if not events:
            if before is not None:
                del self._watched[fd]
                self._epoll.unregister(fd)
            return
        self._watched[fd] = (events, call)
        if before is None:
            self._epoll.register(fd, events)
        elif before[0] != events:
            self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop calling; to be done before `fd` is closed."""
        self.watch(fd, self.stop, 0)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, `seconds` from now."""
        self._count += 1
        timer = Timer(self.now() + seconds, self._count, call)
        heapq.heappush(self._timers, timer)
        if len(self._timers) > 256 and self._count % 256 == 0:  # long waits that were cancelled
            self._timers = [t for t in self._timers if t.alive]
            heapq.heapify(self._timers)
        return timer

    def stop(self) -> None:
        """End `run` after this turn."""
        self.running = False

    def run(self) -> None:
        """Call back until `stop`."""
        while self.running:
            self.turn()

    def turn(self, longest: float | None = None) -> bool:
        """Call back once for all that is ready or due; return whether there was anything.

        Args:
            longest: Seconds to wait for it; None is until something happens.
        """
        timers = self._timers
        while timers and not timers[0].alive:
            heapq.heappop(timers)
        wait = max(0.0, timers[0].when - self.now()) if timers else -1
        if longest is not None:
            wait = min(wait, longest) if timers else longest
        ready = self._epoll.poll(wait)
        for fd, _ in ready:
            watched = self._watched.get(fd)
            if watched is not None and not self._guarded(watched[1]):
                self.unwatch(fd)
        now = self.now()
        due = 0
        while self._timers and self._timers[0].when <= now:
            due += 1
            self._guarded(heapq.heappop(self._timers).fire)
        return bool(ready) or due > 0

    def close(self) -> None:
        """Let go of the system's part, after the last turn."""
        self._epoll.close()

    def _guarded(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception:  # a fault of ours; the loop holds everybody's sessions
            import traceback  # 1 MB that a healthy keeper never needs

            self._report("fault: " + traceback.format_exc().replace("\n", " | "))
            return False
        return True
