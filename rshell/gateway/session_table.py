"""SessionTable: which sessions live on which device, as far as this gateway knows.

It is filled by what passes through and by what devices list after WELCOME, so a restart of the
gateway loses nothing that lasts.  It is for listings only: rights are judged from the store, and
a session that is not listed can be attached and ended all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.gateway.live_sessions import LiveSession
from rshell.link.core.messages import Outcome, SessionReport

__all__ = ["SessionTable", "TableEntry"]

#: A keeper holds up to 64 running sessions and 256 that ended; an agent takes 256 streams.
MAX_PER_DEVICE = 512
#: Ends that are remembered: a device's list is judged within moments, while few sessions end.
MAX_ENDED = 1_000
#: About 1 KB each.  The one that was heard of longest ago is forgotten first.
MAX_ENTRIES = 50_000
#: No session that nobody is attached to lives longer (rule R7).
LONGEST_SECONDS = 24 * 3600.0
#: Ages come from devices and operators, and become dates: more than a year is not believed.
OLDEST_SECONDS = 366 * 24 * 3600.0


def _seconds(age_ms: int) -> float:
    return min(age_ms / 1000, OLDEST_SECONDS)


@attrs.define(eq=False, kw_only=True)
class TableEntry:
    """One session on a device.

    Attributes:
        began, detached_at: seconds of the gateway's monotonic clock.
        attempt: the highest that was asked for.
        epoch: of the device's link that told of it last.
        known: the device has confirmed that it has the session.
        outcome: once it is finished.
        door, address: through which its last attempt came, and from where; "" if not known.
        terminal: whether it has one; None if not known.
        used: when it was used last, as far as was looked; None if nobody did.
        bytes_in, bytes_out: of its attempts that are over.
        judged, allowed: by which version of the roles it may last how many seconds.
    """

    session: bytes
    device_id: str
    operator: str
    handler: str
    login: str
    began: float
    attempt: int
    epoch: int
    detached_at: float | None = None
    known: bool = False
    outcome: dict[str, Any] | None = None
    door: str = ""
    address: str = ""
    terminal: bool | None = None
    used: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    judged: int = -1
    allowed: float = 0.0


class SessionTable:
    """Knows the sessions of all devices.

    Args:
        seconds: A clock that never goes back.
        max_entries: In all.
        max_per_device: Of one device.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        max_entries: int = MAX_ENTRIES,
        max_per_device: int = MAX_PER_DEVICE,
    ) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._max_per_device = max_per_device
        #: The one heard of last is last.
        self._entries: OrderedDict[TableEntry, None] = OrderedDict()
        self._by_device: dict[str, dict[bytes, TableEntry]] = {}
        #: The epoch whose first list is complete, by device.
        self._listed: dict[str, int] = {}
        #: When sessions ended through an attempt, the last ones.
        self._ended: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[TableEntry]:
        """Return what lives, as far as known."""
        now = self._seconds()
        for entry in list(self._entries):
            alone = 0.0 if entry.detached_at is None else now - entry.detached_at
            if alone > LONGEST_SECONDS:
                self.forget(entry.device_id, entry.session)
        return list(self._entries)

    def of_device(self, device_id: str) -> list[TableEntry]:
        """Return what lives on one device, as far as known."""
        return list(self._by_device.get(device_id, {}).values())

    def listed(self, device_id: str, epoch: int) -> bool:
        """Whether the device has told all it has over the link of this epoch."""
        return self._listed.get(device_id) == epoch

    def find(self, device_id: str, session: bytes) -> TableEntry | None:
        """Return one session, as far as known."""
        return self._by_device.get(device_id, {}).get(session)

    def came_by(
        self, device_id: str, session: bytes, door: str, address: str, *, terminal: bool
    ) -> None:
        """Fill in how a session that a device listed came about, as the audit log has it."""
        entry = self.find(device_id, session)
        if entry is not None and not entry.door:
            entry.door, entry.address, entry.terminal = door, address, terminal

    def owner(self, device_id: str, session: bytes) -> str | None:
        """Return whose session it is, as far as known."""
        entry = self._by_device.get(device_id, {}).get(session)
        return None if entry is None else entry.operator

    # -- what passes through -------------------------------------------------------------------

    def asked(self, live: LiveSession, epoch: int) -> None:
        """The OPEN of an attempt leaves for the device."""
        entry = self._mine(live)
        if entry is None:
            if live.session in self._by_device.get(live.device.id, ()):
                return  # somebody else's: the device will say so
            entry = self._add(
                TableEntry(
                    session=live.session,
                    device_id=live.device.id,
                    operator=live.owner.name,
                    handler=live.handler,
                    login=live.login or "",
                    began=live.received - _seconds(live.age_ms),
                    attempt=live.attempt,
                    epoch=epoch,
                )
            )
        entry.attempt = max(entry.attempt, live.attempt)
        entry.epoch = max(entry.epoch, epoch)
        entry.door, entry.address = live.caller.door, live.caller.address
        entry.terminal = live.use.typed
        entry.detached_at = None
        self._heard(entry)

    def accepted(self, live: LiveSession) -> None:
        """The device said OPENED."""
        entry = self._mine(live)
        if entry is not None:
            entry.known = True

    def left(self, live: LiveSession) -> None:
        """An attempt that was joined is over: what it carried counts for its session."""
        entry = self._mine(live)
        if entry is not None and live.stream is not None:
            entry.bytes_in += live.stream.bytes_in
            entry.bytes_out += live.stream.bytes_out
            entry.used = live.use.used

    def finished(self, live: LiveSession, outcome: Outcome) -> None:
        """The outcome passed by; until it is taken the device keeps it."""
        entry = self._mine(live)
        if entry is not None:
            entry.outcome = _shown(outcome)

    def detached(self, live: LiveSession) -> None:
        """The attempt is over, and the session goes on for all we know."""
        entry = self._mine(live)
        if entry is not None:
            entry.detached_at = self._seconds()

    def refused(self, live: LiveSession, *, gone: bool) -> None:
        """The device refused the attempt; ``gone``: because it does not have the session."""
        entry = self._mine(live)
        if entry is None:
            return
        if gone or not entry.known:
            self.forget(entry.device_id, entry.session)
        elif entry.detached_at is None:
            entry.detached_at = self._seconds()

    def over(self, live: LiveSession) -> None:
        """The session ended, or was cancelled, through this attempt."""
        if self._mine(live) is not None:
            self.forget(live.device.id, live.session)
            self._ended[live.device.id, live.session] = self._seconds()
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def ended_since(self, device_id: str, session: bytes, since: float) -> bool:
        """Whether it ended through an attempt at ``since`` (clock seconds) or later.

        What a device listed before may be judged only now, and must not bring it back.
        """
        at = self._ended.get((device_id, session))
        return at is not None and at >= since

    def _mine(self, live: LiveSession) -> TableEntry | None:
        entry = self._by_device.get(live.device.id, {}).get(live.session)
        if entry is None or entry.operator != live.owner.name:
            return None
        return entry

    # -- what a device lists -------------------------------------------------------------------

    def reported(
        self, device_id: str, epoch: int, reports: Iterable[SessionReport], *, complete: bool
    ) -> None:
        """Take in sessions that a device listed and that may live.

        Args:
            device_id: Whose.
            epoch: Of the link that told.
            reports: A part of the list.
            complete: It was the last part: what the first list of a link leaves out is gone.
        """
        for report in reports:
            self._report(device_id, epoch, report)
        if complete and self._listed.get(device_id) != epoch:
            self._listed[device_id] = epoch
            for entry in list(self._by_device.get(device_id, {}).values()):
                if entry.epoch != epoch:
                    self.forget(device_id, entry.session)

    def _report(self, device_id: str, epoch: int, report: SessionReport) -> None:
        now = self._seconds()
        same = self._by_device.get(device_id, {})
        entry = same.get(report.session)
        if entry is not None and entry.operator != report.operator:
            # Somebody asks for another's session, whose the device says it is.
            self.forget(device_id, report.session)
            entry = None
        if entry is None:
            if len(same) >= self._max_per_device:
                return
            entry = self._add(
                TableEntry(
                    session=report.session,
                    device_id=device_id,
                    operator=report.operator,
                    handler=report.handler,
                    login=report.login,
                    began=now,
                    attempt=1,
                    epoch=epoch,
                    detached_at=now - _seconds(report.detached_ms),
                )
            )
        entry.began = min(entry.began, now - _seconds(report.age_ms))
        entry.attempt = max(entry.attempt, report.attempt)
        entry.epoch = epoch
        entry.known = True
        if report.outcome is not None:
            entry.outcome = _shown(report.outcome)
        self._heard(entry)

    # -- keeping -------------------------------------------------------------------------------

    def forget(self, device_id: str, session: bytes) -> None:
        """A session is over."""
        same = self._by_device.get(device_id, {})
        entry = same.pop(session, None)
        if entry is not None:
            del self._entries[entry]
            if not same:
                del self._by_device[device_id]

    def forget_device(self, device_id: str) -> None:
        """A device was revoked."""
        self._listed.pop(device_id, None)
        for entry in self._by_device.pop(device_id, {}).values():
            del self._entries[entry]

    def _add(self, entry: TableEntry) -> TableEntry:
        while len(self._entries) >= self._max_entries:
            oldest = next(iter(self._entries))
            self.forget(oldest.device_id, oldest.session)
        self._entries[entry] = None
        self._by_device.setdefault(entry.device_id, {})[entry.session] = entry
        return entry

    def _heard(self, entry: TableEntry) -> None:
        self._entries.move_to_end(entry)


def _shown(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as listings show it: safe for a terminal, without its result."""
    shown = {
        "status": printable(outcome.status, 32),
        "exit_code": outcome.exit_code,
        "signal": outcome.signal and printable(outcome.signal, 16),
        "code": outcome.code and printable(outcome.code, 64),
        "message": outcome.message and printable(outcome.message, 240),
    }
    return {key: value for key, value in shown.items() if value is not None}
