"""Who fell silent?  Finds the live devices that were not heard for longer than a heartbeat allows.

Each is asked once (probing.py), so that one that lives is not `suspect` for longer than its answer
takes.  Whom nothing comes from then, its link gives up (rshell/link/heartbeat.py); not this.

A device is looked at when it can have become `suspect`, not before: it waits in the slot of that
moment, and who was heard meanwhile goes on to a later one.  A healthy device is looked at about
once for each of its heartbeats.  Slots hold names of devices and no links: of one that left
nothing is kept, and an entry that a newer one of the same device made void is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rshell.gateway.presence import SUSPECT_SECONDS, LiveDevice
from rshell.link.clock import TICK_SECONDS, WheelTimer

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["LATE_SECONDS", "LATE_TICKS", "Silences"]

#: However many devices are due at once, each is looked at so soon ...
LATE_SECONDS = 5.0
LATE_TICKS = int(LATE_SECONDS / TICK_SECONDS)
#: ... so that part of all devices is the most that one tick looks at, others wait meanwhile; but
#: so many, about half a millisecond, never hurt.  Of a fleet that left there are entries, too.
LEAST_LOOKS = 500


class Silences:
    """Looks at each live device when it can have fallen silent.

    Args:
        gateway: whose devices.
        ask: asks one that did.
    """

    def __init__(self, gateway: Gateway, ask: Callable[[LiveDevice], None]) -> None:
        self._gateway = gateway
        self._wheel = gateway.wheel
        self._ask = ask
        #: By slot, which is a tick of the wheel: ids of devices.
        self._slots: dict[int, list[str]] = {}
        #: The slots before this one are done with; what is left of them is due.
        self._slot = self._slot_at(self._wheel.seconds())
        self._due: list[str] = []
        self._timer: WheelTimer | None = None

    def start(self) -> None:
        """Begin to look."""
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._due.clear()

    def watch(self, live: LiveDevice) -> None:
        """Look at a device from now on; until it is gone."""
        self._wait(live, live.link.last_received)

    def _wait(self, live: LiveDevice, since: float) -> None:
        """Look at a device again when it can be suspect, if nothing is heard after ``since``."""
        slot = live.look_at = max(self._slot, self._slot_at(since + SUSPECT_SECONDS))
        self._slots.setdefault(slot, []).append(live.device.id)

    @staticmethod
    def _slot_at(seconds: float) -> int:
        """Return the first slot after a moment."""
        return int(seconds / TICK_SECONDS) + 1

    def _look(self) -> None:
        """Look, with every tick, at those whose slot has come."""
        self._timer = self._wheel.call_later(0.0, self._look)
        now = self._wheel.seconds()
        # 1e-6: a clock that reads a hair before the tick it was set for counts as there.
        reached = now / TICK_SECONDS + 1e-6
        left = max(LEAST_LOOKS, -(-len(self._gateway.presence) // LATE_TICKS))
        while left:
            if not self._due:
                if self._slot > reached:
                    return
                self._due = self._slots.pop(self._slot, [])
                self._slot += 1
                continue
            self._look_at(self._due.pop(), now)
            left -= 1

    def _look_at(self, device_id: str, now: float) -> None:
        """Ask a device if it is silent."""
        live = self._gateway.presence.find(device_id)
        if live is None or live.look_at != self._slot - 1:
            return  # it is gone, or looked at in another slot
        heard = live.link.last_received
        if now - heard > SUSPECT_SECONDS:
            self._wait(live, now)  # once for each silence: a new one can only begin now
            self._ask(live)
        else:
            self._wait(live, heard)
