"""Heartbeat: asks a silent peer for a sign of life, and notices when none comes (rules L1, L2, L5).

Any byte from the peer proves it alive.  What is measured is how long *the peer* was silent: a
process that was itself blocked, stopped or suspended first reads what waits in the kernel before
it judges anyone.  Times are those of the wheel's clock, which never goes back; each deadline is
met at the last tick of the wheel before it, not the first one after.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from rshell.link.clock import TICK_SECONDS, TimerWheel, WheelTimer
from rshell.link.core.constants import (
    HEARTBEAT_JITTER,
    HEARTBEAT_SECONDS,
    PONG_SECONDS,
    SILENCE_SECONDS,
)

__all__ = ["Heartbeat"]

#: A gateway whose data brought no answer for this long asks for one (rule L5).
UNANSWERED_SECONDS: Final = 15.0
#: On a link too busy for heartbeats the round trip is measured this often.
SAMPLE_SECONDS: Final = 60.0
#: So many reads in about that time are more than heartbeats, and what a device tells of itself when
#: it has arrived.
_BUSY_READS: Final = 16
#: A timer that is so late says that this process did not run.
STALL_SECONDS: Final = 5.0
#: What it then gets to read what the peer said meanwhile.
CATCH_UP_SECONDS: Final = 1.0


class Heartbeat:
    """The liveness of one link.

    Args:
        wheel: Timers and time.
        dialler: Whether this side dialled: it asks; the other side mostly listens.
        ping: Sends a PING with this number.
        dead: Called once, with the reason, when the peer is to be given up.
        idle: Called now and then while only heartbeats pass.
        uniform: Random numbers for the jitter: (low, high) -> float.

    Attributes:
        last_received: Wheel seconds of the last byte.
        rtt_seconds: The last measured round trip, None before the first.
        last_pong: Wheel seconds of the last answer to a PING, None before the first.
    """

    def __init__(
        self,
        wheel: TimerWheel,
        *,
        dialler: bool,
        ping: Callable[[int], None],
        dead: Callable[[str], None],
        idle: Callable[[], None] = lambda: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.last_received = 0.0
        self.rtt_seconds: float | None = None
        self.last_pong: float | None = None
        self._wheel = wheel
        self._dialler = dialler
        self._ping = ping
        self._dead = dead
        self._idle = idle
        self._uniform = uniform
        self._interval = HEARTBEAT_SECONDS
        self._hurry: float | None = None
        self._last_sent = 0.0
        #: Set while a PING waits for any byte at all; the PONG itself measures the round trip.
        self._pinged_at: float | None = None
        self._ping_sent_at = 0.0
        self._count = 0
        #: When the first data was sent after the last byte came.
        self._unanswered_since: float | None = None
        self._sampled_at = 0.0
        self._reads = 0
        self._timer: WheelTimer | None = None
        self._timer_due = 0.0
        self._stopped = False

    # -- what the link reports -----------------------------------------------------------------

    def connected(self, now: float) -> None:
        """TCP is up; nothing is judged before `start`."""
        self.last_received = self._last_sent = self._sampled_at = now

    def start(self, interval_seconds: float | None = None) -> None:
        """The link is welcomed: watch it.

        Args:
            interval_seconds: What the gateway told a dialler; jitter is added here.
        """
        if interval_seconds is not None:
            self._interval = interval_seconds * self._uniform(
                1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER
            )
        self._sleep()

    def hurry(self, interval_seconds: float | None) -> None:
        """Beat at least this often, while somebody waits; None: as the gateway told."""
        self._hurry = interval_seconds
        if self._timer is not None:
            self._sleep()

    def received(self, now: float) -> None:
        """Bytes came."""
        self.last_received = now
        self._unanswered_since = None
        self._reads += 1

    def answered(self, now: float) -> None:
        """A PING came, and its PONG went out."""
        self.last_received = self._last_sent = now
        self._unanswered_since = None
        self._reads += 1

    def sent(self, now: float, *, data: bool) -> None:
        """Bytes went out; ``data`` if they were of a stream, which the peer will acknowledge."""
        self._last_sent = now
        if data and self._unanswered_since is None and not self._dialler:
            self._unanswered_since = now
            if self._timer is not None and self._timer_due > now + UNANSWERED_SECONDS:
                self._sleep()

    def pong(self) -> None:
        """The newest PING was answered."""
        now = self._wheel.seconds()
        self.rtt_seconds = now - self._ping_sent_at
        self.last_pong = now
        self._sampled_at = now
        self._reads = 0
        self._pinged_at = None
        if self._timer is not None:
            self._sleep()

    def probe(self) -> None:
        """Send a PING; any byte that comes back proves the peer alive."""
        self._pinged_at = self._ping_sent_at = self._last_sent = self._wheel.seconds()
        self._count += 1
        self._ping(self._count)
        if self._timer is not None:
            self._sleep()

    def stop(self) -> None:
        """The link is ending; nothing is judged any more."""
        self._stopped = True
        self._cancel()

    # -- time ------------------------------------------------------------------------------------

    def _due(self) -> float:
        """Return when something may have to be done."""
        if self._dialler:
            if self._pinged_at is not None:
                return self._pinged_at + PONG_SECONDS
            interval = self._interval if self._hurry is None else min(self._interval, self._hurry)
            return min(self.last_received, self._last_sent) + interval
        due = self.last_received + SILENCE_SECONDS
        if self._unanswered_since is not None and self._pinged_at is None:
            due = min(due, self._unanswered_since + UNANSWERED_SECONDS)
        return due

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _sleep(self, at_least_seconds: float = 0.0) -> None:
        self._cancel()
        if self._stopped:
            return
        now = self._wheel.seconds()
        delay = max(at_least_seconds, self._due() - now - TICK_SECONDS, 0.0)
        self._timer_due = now + delay
        self._timer = self._wheel.call_later(delay, self._check)

    def _check(self) -> None:
        """Do what is due, then sleep until the next thing can be due."""
        self._timer = None
        now = self._wheel.seconds()
        if now - self._timer_due > STALL_SECONDS:
            self._sleep(CATCH_UP_SECONDS)
            return
        if self._pinged_at is not None and self.last_received > self._pinged_at:
            self._pinged_at = None
        if self._due() - now <= TICK_SECONDS:
            if self._given_up(now):
                return
            self._idle()
            self.probe()
        elif now - self._sampled_at < SAMPLE_SECONDS:
            self._idle()
        elif self._reads >= _BUSY_READS:
            self.probe()
        else:
            # Counted anew: in the end heartbeats alone would be as many.
            self._sampled_at, self._reads = now, 0
            self._idle()
        if self._timer is None:
            self._sleep()

    def _given_up(self, now: float) -> bool:
        if self._dialler and self._pinged_at is not None:
            self._dead(f"no answer to a heartbeat for {PONG_SECONDS:g} s")
            return True
        silent = now - self.last_received
        if not self._dialler and silent >= SILENCE_SECONDS - TICK_SECONDS:
            self._dead(f"silent for {SILENCE_SECONDS:g} s")
            return True
        return False
