"""The time stamp at the beginning of a line of a log, if there is one.  Best effort.

Known: ISO 8601 and its relatives (``2026-11-22T14:17:03.5Z``, ``2026/11/22 14:17:03,500 +0100``),
syslog (``Nov 22 14:17:03``, which has no year), ``22/Nov/2026:14:17:03 +0000`` of web servers, and
seconds since 1970 (``1795357023.5``).  What names no zone is the device's local time.
"""

from __future__ import annotations

import calendar
import re
import time

__all__ = ["stamp_of"]

#: The stamp must lie within so many bytes: web servers and JSON have something before it.
SEARCH_BYTES = 128
_DAY = 86_400

_MONTHS = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1
    )
}
_ZONE = rb" ?(?P<zone>Z|[+-]\d\d:?\d\d)?"
_CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:[.,](?P<part>\d{1,9}))?"
_ISO = re.compile(rb"(?P<year>\d{4})[-/](?P<month>\d\d)[-/](?P<day>\d\d)[T ]" + _CLOCK + _ZONE)
_NAMED = rb"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_WEB = re.compile(rb"(?P<day>\d\d)/" + _NAMED + rb"/(?P<year>\d{4}):" + _CLOCK + _ZONE)
_SYSLOG = re.compile(rb"(?:<\d{1,3}>)?" + _NAMED + rb" {1,2}(?P<day>\d{1,2}) " + _CLOCK)
_EPOCH = re.compile(rb"[\[(]?(?P<seconds>[1-9]\d{8,10})(?:\.(?P<part>\d{1,9}))?(?!\d)")


def stamp_of(line: bytes, now: float) -> float | None:
    """Return a line's time in seconds since 1970, None if it has none that can be read.

    Args:
        line: As it is in the file.
        now: The device's time: what has no year is of the year before it.
    """
    head = line[:SEARCH_BYTES]
    found = _SYSLOG.match(head)
    if found:
        return _without_year(found, now)
    found = _ISO.search(head) or _WEB.search(head)
    if found:
        return _seconds(found, int(found["year"]))
    found = _EPOCH.match(head)
    if found:
        return int(found["seconds"]) + _fraction(found)
    return None


def _fraction(found: re.Match[bytes]) -> float:
    part = found["part"]
    return float(b"0." + part) if part else 0.0


def _without_year(found: re.Match[bytes], now: float) -> float | None:
    year = time.localtime(now).tm_year
    seconds = _seconds(found, year)
    # December's lines are read in January; a clock may be a little ahead.
    if seconds is None or seconds > now + _DAY:
        seconds = _seconds(found, year - 1)
    return seconds


def _seconds(found: re.Match[bytes], year: int) -> float | None:
    named = _MONTHS.get(found["month"])
    month = named or int(found["month"])
    day, hour = int(found["day"]), int(found["hour"])
    minute, second = int(found["minute"]), int(found["second"])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        return None
    moment = (year, month, day, hour, minute, second, 0, 0, -1)
    zone = found.groupdict().get("zone")
    try:
        if zone is None:
            return time.mktime(moment) + _fraction(found)
        return calendar.timegm(moment) - _offset(zone) + _fraction(found)
    except (OverflowError, ValueError):
        return None


def _offset(zone: bytes) -> int:
    if zone == b"Z":
        return 0
    digits = zone[1:].replace(b":", b"")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if zone[:1] == b"-" else seconds
