"""The agent's flight recorder: what happened to the link, and why, across restarts and power cuts.

It is told by `Journal.note`.  What repeats is counted: a night without a network is a few records,
not ten thousand.  Writes are batched, at most one in ten seconds and rarely synced, for flash wears
out; when the link is lost they are not kept waiting.  A disk that cannot be written costs records,
never the link.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rshell.handlers.flight import MAX_RECORDS, FlightRecord
from rshell.identity.files import make_private_dir, write_atomic
from rshell_agent.flight_ring import FlightRing

__all__ = ["DeviceTimes", "FlightRecorder", "recorded"]

#: In memory, about 150 KB at the most.
KEPT = 300
WRITE_SECONDS = 10.0
SYNC_SECONDS = 300.0
#: Of one record; the rest of an OPEN's frame is for its neighbours and its envelope.
_MAX_TEXT = 200
#: Of one report: an OPEN frame holds 16,376 bytes (rule W1), and the envelope takes some.
REPORT_BYTES = 12 * 1024
#: What may be counted instead of told again.
_REPEATING = frozenset({"dns", "tcp", "proxy", "tls", "unwelcomed", "refused"})
#: What a person will ask about first: it is written at once.
_URGENT = frozenset({"start", "lost", "heartbeat-lost", "suspended", "clock"})


@attrs.frozen
class DeviceTimes:
    """The device's clocks.

    Attributes:
        mono: Seconds since boot, suspended time included (CLOCK_BOOTTIME, clock_gettime(2)).
        wall: Seconds since 1970.
        trusted: Whether the second can be true.
    """

    mono: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    wall: Callable[[], float] = time.time
    trusted: Callable[[], bool] = lambda: True


class FlightRecorder:
    """Keeps records, on disk and in memory; it is a `Journal`.

    Args:
        directory: For the records and how far they were acknowledged.
        clock: For batching.
        boot_id: Of this boot.
        times: The device's clocks.
    """

    _log = Logger()

    def __init__(
        self, directory: Path, clock: IReactorTime, boot_id: str, times: DeviceTimes | None = None
    ) -> None:
        self._ring = FlightRing(directory)
        self._directory = directory
        self._sent_file = directory / "sent"
        self._clock = clock
        self.boot_id = boot_id
        self._times = times or DeviceTimes()
        self._records: dict[int, FlightRecord] = {r.seq: r for r in self._ring.load()[-KEPT:]}
        self._through = self._read_sent()
        self._seq = max(self._through, *self._records, 0)
        self._open: dict[tuple[str, str, str], int] = {}
        self._dirty: dict[int, None] = {}
        self._timer: IDelayedCall | None = None
        self._synced_at = clock.seconds()
        self._broken = False

    @property
    def mono_ms(self) -> int:
        """Now, on the clock of the records' ``mono_ms``."""
        return int(self._times.mono() * 1000)

    # -- Journal -------------------------------------------------------------------------------

    def note(
        self,
        kind: str,
        message: str = "",
        *,
        target: str = "",
        seconds: float | None = None,
        **details: Any,
    ) -> None:
        """Keep it; see `Journal.note`."""
        message, target = _line(message), _line(target)
        if kind == "welcomed":
            self._open.clear()
        key = (kind, target, message)
        known = self._records.get(self._open.get(key, 0))
        if known is not None:
            record = msgspec.structs.replace(
                known, count=known.count + 1, last_mono_ms=self.mono_ms
            )
        else:
            self._seq += 1
            record = FlightRecord(
                seq=self._seq,
                boot_id=self.boot_id,
                mono_ms=self.mono_ms,
                wall_ms=int(self._times.wall() * 1000),
                clock_trusted=self._times.trusted(),
                kind=kind,
                target=target,
                message=message,
                seconds=None if seconds is None else round(max(0.0, seconds), 3),
                details={
                    name: _line(value) if isinstance(value, str) else value
                    for name, value in details.items()
                },
            )
            if kind in _REPEATING:
                self._open[key] = record.seq
        self._keep(record, at_once=kind in _URGENT)

    def _keep(self, record: FlightRecord, *, at_once: bool) -> None:
        self._records[record.seq] = record
        while len(self._records) > KEPT:
            oldest = next(iter(self._records))
            del self._records[oldest]
            self._dirty.pop(oldest, None)
            self._open = {key: seq for key, seq in self._open.items() if seq != oldest}
        self._dirty[record.seq] = None
        delay = 0.0 if at_once else WRITE_SECONDS
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() - self._clock.seconds() <= delay:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._write_some)

    def started(self, version: str) -> None:
        """The agent begins: say how its last run ended, if there was one."""
        last = next(reversed(self._records.values()), None)
        if last is None:
            ended = "the first start"
        elif last.kind == "stop":
            ended = "the last run was ended"
        elif last.boot_id != self.boot_id:
            ended = "the device was rebooted or lost power while the agent ran"
        else:
            ended = "the last run broke off: killed or crashed"
        self.note("start", ended, version=version)

    def close(self, reason: str) -> None:
        """The agent ends: write all, and wait for the disk."""
        self.note("stop", reason)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._write(sync=True)

    # -- telling -------------------------------------------------------------------------------

    def unsent(self) -> list[FlightRecord]:
        """Return the oldest records that were not acknowledged, as many as fit into one report.

        What is being told is told as it is now: repetitions begin a new record.
        """
        chosen: list[FlightRecord] = []
        size = 0
        for record in self._records.values():
            if record.seq <= self._through:
                continue
            size += len(msgspec.json.encode(record)) + 1
            if chosen and (size > REPORT_BYTES or len(chosen) >= MAX_RECORDS):
                break
            chosen.append(record)
        told = {record.seq for record in chosen}
        self._open = {key: seq for key, seq in self._open.items() if seq not in told}
        return chosen

    def acknowledged(self, through: int) -> None:
        """The gateway has all up to this number."""
        if not self._through < through <= self._seq:
            return
        self._through = through
        try:
            make_private_dir(self._directory)
            write_atomic(self._sent_file, b"%d\n" % through)
        except OSError as error:
            self._log.warn("how far the flight record was told is not kept: {e}", e=error)

    # -- the disk ------------------------------------------------------------------------------

    def _write_some(self) -> None:
        self._timer = None
        self._write(sync=self._clock.seconds() - self._synced_at >= SYNC_SECONDS)

    def _write(self, *, sync: bool) -> None:
        dirty, self._dirty = self._dirty, {}
        records = [self._records[seq] for seq in dirty]
        if not records:
            return
        try:
            self._ring.append(records, sync=sync)
            self._broken = False
        except OSError as error:
            if not self._broken:
                self._log.warn("the flight record cannot be written: {error}", error=error)
            self._broken = True
        if sync:
            self._synced_at = self._clock.seconds()

    def _read_sent(self) -> int:
        try:
            return max(0, int(self._sent_file.read_bytes()[:20]))
        except (OSError, ValueError):
            return 0


def recorded(home: Path, count: int) -> list[FlightRecord]:
    """Return the newest records of a home, oldest first, as far as they are on disk."""
    return FlightRing(home / "state" / "flight").load()[-count:]


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_TEXT]
