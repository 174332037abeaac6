"""Which device is live: one entry for each, ordered by epoch, newest wins (rule H2).

The entry of a device is changed and removed only by naming the epoch it is about: what an older
link still does, cannot touch a newer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

import attrs

from rshell.link.core.constants import HEARTBEAT_JITTER, HEARTBEAT_SECONDS, PONG_SECONDS
from rshell.link.core.messages import Hello
from rshell.link.protocol import LinkProtocol
from rshell.store.records import Device

__all__ = ["Arrival", "LiveDevice", "Presence", "State"]

#: A healthy agent has been heard within this long: a heartbeat, its jitter, and the answer.
SUSPECT_SECONDS = HEARTBEAT_SECONDS * (1 + HEARTBEAT_JITTER) + PONG_SECONDS


class State(StrEnum):
    """What the gateway knows of a device's connection."""

    LIVE = "live"
    SUSPECT = "suspect"
    LOST = "lost"
    NEVER = "never"


class Arrival(StrEnum):
    """What came of a link that wants to be the device."""

    ACCEPTED = "accepted"
    STALE = "stale"


@attrs.define(eq=False)
class LiveDevice:
    """A device's current link.

    Attributes:
        device: as the store has it; replaced when labels or name change.
        epoch: orders the links of this device.
        address: of the peer, for people.
        connected_at: aware, UTC.
        handlers: names, once its catalogue is known.
        told_ms: the reconnect spread that it was told last (rule L4).
        look_at: the slot of `silences.Silences` in which it is looked at next.
    """

    device: Device
    link: LinkProtocol
    hello: Hello
    epoch: int
    address: str
    connected_at: datetime
    handlers: tuple[str, ...] = ()
    told_ms: int = 0
    look_at: int = -1

    def silent(self, now: float) -> float:
        """Return for how many seconds nothing was heard, at ``now`` of the link's clock."""
        return max(0.0, now - self.link.last_received)

    def state(self, now: float) -> State:
        """Return LIVE, or SUSPECT when nothing was heard for longer than a heartbeat allows.

        Args:
            now: Seconds of the clock that the link uses.
        """
        return State.SUSPECT if self.silent(now) > SUSPECT_SECONDS else State.LIVE


class Presence:
    """All live devices of this gateway.

    Args:
        start: The gateway's start counter: the upper half of every epoch it gives.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._given = 0
        self._live: dict[str, LiveDevice] = {}
        self._ids: dict[str, str] = {}
        #: Rises with every changed row, so that a row that was being read meanwhile is read again.
        self.changes = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveDevice]:
        return iter(list(self._live.values()))

    @property
    def accepted(self) -> int:
        """How many epochs were given since the start."""
        return self._given

    def next_epoch(self) -> int:
        """Return an epoch above every one given before, by any start of this gateway."""
        self._given += 1
        return (self._start << 32) | self._given

    def arrive(self, entry: LiveDevice) -> tuple[Arrival, LiveDevice | None]:
        """Make ``entry`` the device, unless what is there is newer.

        Returns:
            ACCEPTED and the entry that it displaced, or STALE and the entry that stays.
        """
        current = self._live.get(entry.device.id)
        if current is not None:
            same_process = current.hello.instance == entry.hello.instance
            if current.epoch > entry.epoch or (
                same_process and entry.hello.dial <= current.hello.dial
            ):
                return Arrival.STALE, current
            self._unname(current.device)
        self._live[entry.device.id] = entry
        self._ids[entry.device.name] = entry.device.id
        return Arrival.ACCEPTED, current

    def depart(self, device_id: str, epoch: int) -> bool:
        """Remove a device if ``epoch`` is still the one; say whether it was."""
        current = self._live.get(device_id)
        if current is None or current.epoch != epoch:
            return False
        del self._live[device_id]
        self._unname(current.device)
        return True

    def of_id(self, device_id: str) -> LiveDevice | None:
        """Return the live device of that id."""
        return self._live.get(device_id)

    def find(self, name_or_id: str) -> LiveDevice | None:
        """Return the live device of that id or name."""
        return self._live.get(name_or_id) or self._live.get(self._ids.get(name_or_id, ""))

    def refresh(self, device: Device) -> None:
        """Take a changed row (labels, name) of a device that may be live."""
        self.changes += 1
        current = self._live.get(device.id)
        if current is not None:
            self._unname(current.device)
            current.device = device
            self._ids[device.name] = device.id

    def _unname(self, device: Device) -> None:
        """Forget a device's name, unless it is another device's by now."""
        if self._ids.get(device.name) == device.id:
            del self._ids[device.name]
