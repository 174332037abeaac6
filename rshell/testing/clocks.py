"""ProcessClock: one simulated process's time, which stops when its machine sleeps or it dies.

All of them tick on the fleet's one `task.Clock`.  What it is not: the wall clock, which is a
`WallClock` and may be set to anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

__all__ = ["ProcessClock", "WallClock"]


@implementer(IDelayedCall)
class _Call:
    """One delayed call; ``_inner`` is its place on the fleet's clock while time goes on."""

    def __init__(self, owner: ProcessClock, when: float, call: Callable[[], object]) -> None:
        self._owner = owner
        self._when = when
        self._call: Callable[[], object] | None = call
        self._inner: Any = None

    def arm(self) -> None:
        """Be called when the time comes."""
        if self._call is not None:
            delay = max(0.0, self._when - self._owner.seconds())
            self._inner = self._owner.clock.callLater(delay, self._fire)

    def disarm(self) -> None:
        """Not be called while the process's time stands still."""
        inner, self._inner = self._inner, None
        if inner is not None and inner.active():
            inner.cancel()

    def _fire(self) -> None:
        call, self._call = self._call, None
        self._owner.done(self)
        if call is not None:
            call()

    def getTime(self) -> float:
        return self._when

    def cancel(self) -> None:
        from twisted.internet.error import AlreadyCalled

        if self._call is None:
            raise AlreadyCalled
        self._call = None
        self.disarm()
        self._owner.done(self)

    def delay(self, secondsLater: float) -> None:
        self._when += secondsLater
        self.disarm()
        self.arm()

    def reset(self, secondsFromNow: float) -> None:
        self._when = self._owner.seconds() + secondsFromNow
        self.disarm()
        self.arm()

    def active(self) -> bool:
        return self._call is not None


@implementer(IReactorTime)
class ProcessClock:
    """Monotonic seconds and delayed calls of one process.

    Args:
        clock: The fleet's.

    Attributes:
        dead: The process was killed: nothing of it is called any more.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dead = False
        self._slept = 0.0
        self._asleep_since: float | None = None
        self._calls: dict[_Call, None] = {}

    def seconds(self) -> float:
        """Return seconds that do not count while the machine sleeps (CLOCK_MONOTONIC)."""
        now = self.clock.seconds() if self._asleep_since is None else self._asleep_since
        return float(now - self._slept)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call later; a dead process calls nothing."""
        call = _Call(self, self.seconds() + delay, lambda: callable(*args, **kw))
        if not self.dead:
            self._calls[call] = None
            if self._asleep_since is None:
                call.arm()
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return what is still to come."""
        return list(self._calls)

    def done(self, call: _Call) -> None:
        """Forget a call that was made or cancelled."""
        self._calls.pop(call, None)

    @property
    def asleep(self) -> bool:
        """Whether time stands still."""
        return self._asleep_since is not None

    def sleep(self) -> None:
        """Let time stand still, as when a laptop is closed."""
        if self._asleep_since is None:
            self._asleep_since = self.clock.seconds()
            for call in list(self._calls):
                call.disarm()

    def wake(self) -> None:
        """Let time go on."""
        if self._asleep_since is not None:
            self._slept += self.clock.seconds() - self._asleep_since
            self._asleep_since = None
            for call in list(self._calls):
                call.arm()

    def die(self) -> None:
        """Call nothing any more."""
        self.dead = True
        for call in list(self._calls):
            call.disarm()
        self._calls.clear()


class WallClock:
    """Seconds since 1970 as one machine believes them; `step` sets it wrong."""

    def __init__(self, clock: Clock, began: float) -> None:
        self._clock = clock
        self._began = began

    def __call__(self) -> float:
        """Return the time."""
        return self._began + float(self._clock.seconds())

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self._began += seconds
