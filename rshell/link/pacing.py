"""Pacing: fits the size of records, and what the kernel holds, to one link's rate (rule Q3)."""

from __future__ import annotations

import socket
from typing import Final

from rshell.link.core.constants import RECORD_SIZE
from rshell.link.core.figures import CLASSES, LinkFigures, Traffic
from rshell.link.core.pace import STEPS, Pace
from rshell.link.kernel import set_low_water, tcp_facts

__all__ = ["Pacing"]

#: The kernel is asked how fast the link is at most this often, and only while we send.
MEASURE_SECONDS: Final = 0.25
#: Who sent less than the smallest record since then was never held up by the link, so there is
#: nothing to ask: heartbeats and keys.  Bulk hands over a record at least between two measures.
LEAST_BYTES: Final = STEPS[-1].size


class Pacing:
    """What the kernel tells of one link, and what follows from it.

    Args:
        traffic: What went over the link.
    """

    __slots__ = ("_measured_at", "_pace", "_sent_before", "_socket", "_traffic")

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._pace = Pace()
        self._socket: socket.socket | None = None
        self._measured_at = 0.0
        self._sent_before = 0

    def use(self, sock: socket.socket) -> None:
        """Measure this socket; without one, nothing is known and records are full."""
        self._socket = sock

    def fit(self, now: float) -> int:
        """Return how many bytes to hand over next: a record, or several on a fast link.

        Args:
            now: Seconds of the clock by which `Traffic` counts.
        """
        if self._socket is not None and now - self._measured_at >= MEASURE_SECONDS:
            self._measure(self._socket, now)
        pace = self._pace
        if pace.slow and pace.judge(now - self._traffic.sparse_sent_at):
            set_low_water(self._socket, pace.size)
        return pace.size * pace.records if pace.size == RECORD_SIZE else pace.size

    def _measure(self, sock: socket.socket, now: float) -> None:
        total = sum(self._traffic.sent)
        sent, seconds = total - self._sent_before, now - self._measured_at
        self._measured_at, self._sent_before = now, total
        rate = sent * 8 / seconds
        if sent < LEAST_BYTES:
            if self._pace.records > 1:  # of a link that was fast before it fell silent
                self._pace.measured(0.0, limited_by_us=True, sent_bits_per_second=rate)
            return
        facts = tcp_facts(sock)
        if facts is not None:
            self._pace.measured(
                facts.bits_per_second,
                limited_by_us=facts.limited_by_us,
                sent_bits_per_second=rate,
            )

    def figures(self, rtt_seconds: float | None) -> LinkFigures:
        """Return the link's figures.

        Args:
            rtt_seconds: The last PING's; without one, the kernel's estimate is told.
        """
        traffic, pace = self._traffic, self._pace
        if rtt_seconds is None:
            facts = tcp_facts(self._socket)
            rtt_seconds = None if facts is None else facts.rtt_seconds
        return LinkFigures(
            rtt_ms=_milliseconds(rtt_seconds),
            queue_delay_ms=_milliseconds(traffic.sparse_delays.average),
            queue_delay_p95_ms=_milliseconds(traffic.sparse_delays.p95()),
            delivery_bits_per_second=pace.bits_per_second,
            record_bytes=pace.size,
            received=dict(zip(CLASSES, traffic.received, strict=True)),
            sent=dict(zip(CLASSES, traffic.sent, strict=True)),
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
