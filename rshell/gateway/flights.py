"""What is known of a device's links beside the audit: its own reports, and refusals of ours.

A report is hostile input: it is bounded, stripped and throttled, and no decision rests on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.gateway.throttle import Throttle
from rshell.handlers.flight import FlightRecord, FlightReport
from rshell.store.flight import FlightRow
from rshell.store.times import DAY, MINUTE

__all__ = ["Flights", "Refusal", "placed"]

#: Reports of one device: a backlog after a long night at once, then one every two minutes.
REPORTS_RATE, REPORTS_BURST = 1 / 120, 12
#: Refusals that are remembered: of one device, and of how many.
MAX_REFUSALS, MAX_REFUSED = 20, 2_000
#: A device's clock may be ahead of ours by as much and still be believed.
AHEAD = 5 * MINUTE
#: Nobody has records from before this (2020), whatever a clock says.
EARLIEST = 50 * 365 * DAY
_WORD = 200


@attrs.frozen
class Refusal:
    """A link that was not admitted.

    Attributes:
        at: Microseconds UTC.
        count: How often in a row.
        until: The last of them.
        over: What refused it is no more; the next one is another.
    """

    at: int
    code: str
    message: str
    address: str
    count: int = 1
    until: int = 0
    over: bool = False


class Flights:
    """One gateway's part in `gateway.flight` and `gateway.why`.

    Args:
        seconds: A clock that never goes back.
        now_us: The wall clock, microseconds UTC.
    """

    def __init__(self, seconds: Callable[[], float], now_us: Callable[[], int]) -> None:
        self.reports = Throttle(seconds, REPORTS_RATE, REPORTS_BURST)
        self._now = now_us
        self._refused: OrderedDict[str, deque[Refusal]] = OrderedDict()

    def refused(self, device_id: str, address: str, code: str, message: str) -> None:
        """Note that a link was not admitted."""
        now = self._now()
        known = self._refused.pop(device_id, deque(maxlen=MAX_REFUSALS))
        last = known[-1] if known else None
        same = last is not None and (last.code, last.message) == (code, message)
        if last is not None and same and not last.over:
            known[-1] = attrs.evolve(last, address=address, count=last.count + 1, until=now)
        else:
            known.append(Refusal(now, code, printable(message), address, until=now))
        self._refused[device_id] = known
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def over(self, device_id: str) -> None:
        """Note that what refused a device is no more: the next refusal is another one."""
        known = self._refused.get(device_id)
        if known:
            known[-1] = attrs.evolve(known[-1], over=True)

    def refusals(self, device_id: str) -> list[Refusal]:
        """Return what is remembered, oldest first."""
        return list(self._refused.get(device_id, ()))


def placed(report: FlightReport, received: int) -> list[FlightRow]:
    """Return a report's records on the gateway's clock.

    By the device's clock since boot where both are of the same boot: how long before the report
    it was.  Else by its wall clock, if it trusts it and it is not absurd.  Else only in order:
    just before what followed.

    Args:
        received: When the report came, microseconds UTC.
    """
    rows: list[FlightRow] = []
    latest = received
    for record in sorted(report.records, key=lambda record: record.seq, reverse=True):
        at, how = _moment(report, record, received)
        if at is None:
            at = latest
        latest = min(latest, at)
        rows.append(_row(record, at, how, received))
    return rows[::-1]


def _moment(report: FlightReport, record: FlightRecord, received: int) -> tuple[int | None, str]:
    if record.boot_id and record.boot_id == report.boot_id:
        at = received - max(0, report.mono_ms - record.mono_ms) * 1000
        if at >= EARLIEST:
            return at, "monotonic"
    wall = record.wall_ms * 1000
    if record.clock_trusted and EARLIEST <= wall <= received + AHEAD:
        return min(wall, received), "wall"
    return None, "order"


def _row(record: FlightRecord, at: int, how: str, received: int) -> FlightRow:
    seconds = record.seconds
    details: dict[str, Any] = {
        printable(name, 32): _value(value) for name, value in record.details.items()
    }
    if record.count > 1:
        details["count"] = record.count
        if seconds is None and record.last_mono_ms is not None:
            seconds = max(0, record.last_mono_ms - record.mono_ms) / 1000
    return FlightRow(
        seq=record.seq,
        at=at,
        placed=how,
        received_at=received,
        boot_id=printable(record.boot_id, 64),
        kind=record.kind,
        target=printable(record.target, _WORD),
        message=printable(record.message, _WORD),
        seconds=seconds,
        details=details,
    )


def _value(value: Any) -> Any:
    """Return a short value as it is, and anything else as a short text."""
    if (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and abs(value) < 2**63)
    ):
        return value
    return printable(str(value), _WORD)
