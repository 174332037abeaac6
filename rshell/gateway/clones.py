"""Two machines with one identity: noticed, told, and shut out if the gateway is set to (H4, H5).

Two signs.  A link that presents an older generation than was presented before is a restored backup
or a copy of it.  Two agent processes that displace each other, to and fro, both live: an agent that
crashes over and over is a new process each time, and a network that flaps keeps one process.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.access.audit import AuditRecord
from rshell.access.printable import printable
from rshell.gateway.config import CloneAction
from rshell.gateway.throttle import Throttle
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Hello
from rshell.store.records import Device

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["QUARANTINED", "Clones", "Sighting"]

#: Rule H5: an operator who moves a disk to and fro stays below this.
DISPLACEMENTS = 5
WITHIN_SECONDS = 600.0
#: An alert that nothing repeats is of no use for longer.
QUIET_SECONDS = 24 * 3600.0
#: Devices whose displacements or alerts are remembered; those quiet for longest go first.
MAX_DEVICES = 10_000
#: Audit rows about one device: they are for ever.
ROWS_RATE, ROWS_BURST = 1 / 600, 5

QUARANTINED = "this device is quarantined as a suspected clone: an operator has to release it"


@attrs.frozen
class Sighting:
    """One of the two: what a link's HELLO and address tell of the machine behind it."""

    address: str
    instance: str
    boot_id: str

    @classmethod
    def of(cls, hello: Hello, address: str) -> Sighting:
        """Return what a link tells."""
        return cls(address, hello.instance.hex(), printable(hello.boot_id, 64))


class Clones:
    """Watches for clones on one gateway.

    Args:
        gateway: Whose links, store and log it uses.
        action: ``quarantine`` to refuse a suspected device until it is released.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway, action: CloneAction = "alert") -> None:
        self._gateway = gateway
        self.action = action
        self._seconds = gateway.wheel.seconds
        self._displaced: OrderedDict[str, deque[tuple[float, frozenset[str]]]] = OrderedDict()
        self._alerts: OrderedDict[str, dict[str, tuple[float, str]]] = OrderedDict()
        self._rows = Throttle(self._seconds, ROWS_RATE, ROWS_BURST)

    def alerts(self, device_id: str) -> list[str]:
        """Return what there is to tell of a device, in one line each."""
        told = self._alerts.get(device_id)
        if told is None:
            return []
        oldest = self._seconds() - QUIET_SECONDS
        return [text for at, text in told.values() if at >= oldest]

    # -- signs ---------------------------------------------------------------------------------

    def presented(self, device: Device, hello: Hello, address: str) -> bool:
        """Judge a link generation (rule H4); say whether the link may go on."""
        if hello.link_generation >= device.link_generation:
            return True
        if hello.instance.hex() == device.instance and hello.dial <= device.dial:
            # A HELLO that waited in some queue, of the very process that presented more since.
            return True
        known = Sighting(device.last_address or "?", device.instance or "", device.boot_id or "")
        self._suspect(
            device,
            "generation",
            f"link generation {hello.link_generation} from {address} is older than "
            f"{device.link_generation}, which was presented before: a restored backup or a copy",
            (known, Sighting.of(hello, address)),
        )
        return self.action == "alert"

    def displaced(self, device: Device, old: Sighting, new: Sighting) -> None:
        """Note that a link replaced another (rule H5)."""
        if old.instance == new.instance:
            return
        now = self._seconds()
        pair = frozenset((old.instance, new.instance))
        moments = self._displaced.pop(device.id, deque(maxlen=8 * DISPLACEMENTS))
        moments.append((now, pair))
        while moments[0][0] < now - WITHIN_SECONDS:
            moments.popleft()
        count = sum(same == pair for _, same in moments)
        if count > DISPLACEMENTS:
            moments.clear()
            self._suspect(
                device,
                "alternation",
                f"two agents displaced each other {count} times within "
                f"{WITHIN_SECONDS / 60:g} min, from {old.address} and {new.address}",
                (old, new),
            )
            return
        self._displaced[device.id] = moments
        if len(self._displaced) > MAX_DEVICES:
            self._displaced.popitem(last=False)

    # -- consequences --------------------------------------------------------------------------

    def _suspect(
        self, device: Device, kind: str, text: str, sightings: tuple[Sighting, Sighting]
    ) -> None:
        self._gateway.metrics.clones.labels(kind).inc()
        alerts = self._alerts.pop(device.id, {})
        alerts[kind] = (self._seconds(), f"clone: {text}")
        self._alerts[device.id] = alerts
        if len(self._alerts) > MAX_DEVICES:
            self._alerts.popitem(last=False)
        left_out = self._rows.admit(device.id)
        if left_out is not None:
            self._log.warn("device {name}: clone suspected: {text}", name=device.name, text=text)
            self._tell_audit(device, kind, text, sightings, left_out)
        if self.action == "quarantine":
            shut = Deferred.fromCoroutine(self.quarantine(device.id, f"clone: {text}"))
            shut.addErrback(self._failed)

    def _tell_audit(
        self,
        device: Device,
        kind: str,
        text: str,
        sightings: tuple[Sighting, Sighting],
        left_out: int,
    ) -> None:
        written = self._gateway.store.append_audit(
            AuditRecord(
                kind="device.clone-suspected",
                device=device.id,
                device_name=device.name,
                address=sightings[1].address,
                message=text,
                details={
                    "sign": kind,
                    "action": self.action,
                    "seen": [attrs.asdict(sighting) for sighting in sightings],
                }
                | ({"left_out": left_out} if left_out else {}),
            )
        )
        written.addErrback(self._failed)

    async def quarantine(self, name_or_id: str, reason: str) -> Device:
        """Refuse a device until it is released, and end its links.

        Raises:
            NotFound: There is no such device.
        """
        device = await self._gateway.store.quarantine(name_or_id, reason)
        # Who is being judged by an older row is judged again.
        self._gateway.presence.refresh(device)
        self._gateway.devices.close_all(device.id, ErrorCode.CLONE_SUSPECTED, QUARANTINED)
        self._log.warn("device {name} is quarantined: {reason}", name=device.name, reason=reason)
        return device

    async def release(self, name_or_id: str, by: str) -> Device:
        """Let a device in again: the next link wins, and its generation is believed.

        Args:
            name_or_id: Which.
            by: The operator.

        Raises:
            NotFound: There is no such device.
        """
        before = await self._gateway.store.device(name_or_id)
        device = await self._gateway.store.release(name_or_id)
        if before is not None and before.quarantined_at is not None:
            # The last word on its absence, over restarts: its quarantine is none any more.
            self._gateway.flights.over(device.id)
            written = self._gateway.store.append_audit(
                AuditRecord(
                    kind="device.released",
                    operator=by,
                    device=device.id,
                    device_name=device.name,
                    message=f"by operator {by}; its next link is let in",
                )
            )
            written.addErrback(self._failed)
        self._alerts.pop(device.id, None)
        self._displaced.pop(device.id, None)
        self._gateway.presence.refresh(device)
        self._log.info("device {name} is released", name=device.name)
        return device

    def _failed(self, failure: object) -> None:
        self._log.error("a suspected clone could not be recorded: {why}", why=failure)
