"""Times as the store keeps them: integer microseconds since 1970-01-01 UTC.

Integers compare and index the same in every database, have no time zone to lose, and
sort as text never would.  Nothing here measures durations; those want a monotonic clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["DAY", "MINUTE", "SECOND", "from_datetime", "rfc3339", "to_datetime", "utc_now"]

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> int:
    """Return the system's time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def to_datetime(micros: int) -> datetime:
    """Return *micros* as an aware UTC datetime.

    Raises:
        OverflowError: beyond the year 9999.
    """
    return _EPOCH + timedelta(microseconds=micros)


def from_datetime(moment: datetime) -> int:
    """Return an aware datetime in microseconds since 1970 UTC.

    Raises:
        ValueError: *moment* has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def rfc3339(micros: int) -> str:
    """Return *micros* as RFC 3339 in UTC with milliseconds, ``2026-11-22T08:05:00.123Z``."""
    text = to_datetime(micros).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
