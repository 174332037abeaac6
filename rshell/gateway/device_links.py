"""A device's link from HELLO to its end.

Who admits: the registered key and an active row (rule P4).  Who is the device: the newest accepted
link (rule H2).  A certificate that has expired admits to renewal only (rule E4).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell import __version__
from rshell.access.audit import AuditRecord
from rshell.access.printable import printable
from rshell.gateway.arrivals import address_text
from rshell.gateway.catalogues import CatalogueLearner
from rshell.gateway.clones import QUARANTINED, Sighting
from rshell.gateway.presence import Arrival, LiveDevice
from rshell.gateway.throttle import Throttle
from rshell.identity.revoked import REVOKED_FEATURE
from rshell.identity.tls import PeerCertificate
from rshell.link.clock import WheelTimer
from rshell.link.core.connection import choose_version
from rshell.link.core.constants import DEFAULT_WINDOW, HEARTBEAT_SECONDS, MAX_OFFSET
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.limits import AT_GATEWAY_FROM_DEVICE
from rshell.link.core.messages import (
    GoAway,
    Hello,
    Open,
    PolicyState,
    Sessions,
    Welcome,
)
from rshell.link.protocol import LinkProtocol
from rshell.store.devices import Seen
from rshell.store.errors import StoreError
from rshell.store.records import Device

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["FEATURES", "DeviceLinks", "reported", "welcome_for"]

FEATURES = ("resume", "deadline", "touched", "notices", REVOKED_FEATURE)
#: A device that lay in a drawer for longer has to be invited again (rule E4).
MAX_EXPIRED = timedelta(days=400)
#: Rows of coming and going that one device may add to the audit log, which is for ever.
ROWS_RATE, ROWS_BURST = 1 / 15, 60
#: Lines of the log about one device: a bad day, then one a second.
LINES_RATE, LINES_BURST = 1.0, 100
#: Changes of policy or handlers that one device may tell.
REPORTS_RATE, REPORTS_BURST = 1 / 30, 10
#: Links of one device that may wait for their HELLO: a half-open one or two, and the new one.
MAX_UNJUDGED = 4
#: What runs on a link that said GOAWAY may finish for so long (rule R7).
DRAIN_SECONDS = 60.0
#: SESSIONS frames of one device that may wait for the store: a thousand sessions and more.
MAX_REPORTS = 16
#: How the reason begins when a link ends by rule L2.
SILENT = "silent for "


def reported(facts: dict[str, str]) -> dict[str, str]:
    """Return what a device says of itself, stripped of what could act on a terminal."""
    return {printable(key, 64): printable(value, 256) for key, value in facts.items()}


def welcome_for(gateway: Gateway, hello: Hello, name: str, **more: Any) -> Welcome:
    """Return the WELCOME that every peer gets, with what is particular to it."""
    return Welcome(
        protocol=choose_version(hello.protocol),
        software=f"rshell/{__version__}",
        features=[feature for feature in FEATURES if feature in hello.features],
        name=name,
        time_ms=int(gateway.wall() * 1000),
        heartbeat_ms=int(HEARTBEAT_SECONDS * 1000),
        window=DEFAULT_WINDOW,
        revoked_gateways=gateway.certificates.revoked.current,
        **more,
    )


class DeviceLinks:
    """Owns the links of all devices."""

    _log = Logger()

    def __init__(self, gateway: Gateway, wall: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._wall = wall
        self._entries: dict[LinkProtocol, LiveDevice | None] = {}
        self._by_device: dict[str, dict[LinkProtocol, None]] = {}
        self._reports: dict[LinkProtocol, deque[Sessions]] = {}
        self._draining: dict[LinkProtocol, WheelTimer] = {}
        seconds = gateway.wheel.seconds
        self._rows = Throttle(seconds, ROWS_RATE, ROWS_BURST)
        self._lines = Throttle(seconds, LINES_RATE, LINES_BURST)
        self._catalogues = CatalogueLearner(gateway)
        self._reported = Throttle(seconds, REPORTS_RATE, REPORTS_BURST)

    # -- LinkOwner -----------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        self._entries[link] = None
        same = self._by_device.setdefault(link.peer.name.name, {})
        same[link] = None
        unjudged = [other for other in same if other.connected_at is None and not other.closed]
        if len(unjudged) > MAX_UNJUDGED:
            unjudged[0].abort("too many links of this device wait for their HELLO")

    def links(self) -> list[LinkProtocol]:
        """Return every link of every device, also those that leave or may only renew."""
        return list(self._entries)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        judged = Deferred.fromCoroutine(self._judge(link, hello))
        judged.addErrback(self._broken, link)

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        raise LocalProtocolError("a gateway is not welcomed")

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        # The agent leaves on purpose: nothing new goes there, what runs may finish.
        entry = self._entries.get(link)
        if entry is not None:
            self._gateway.presence.depart(entry.device.id, entry.epoch)
        if link not in self._draining:
            # Once a link, however often it says so.
            self._draining[link] = self._gateway.wheel.call_later(
                DRAIN_SECONDS, lambda: self._refuse(link, ErrorCode.SHUTDOWN, "the grace is over")
            )

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        entry = self._entries.get(link)
        if entry is None:
            return
        waiting = self._reports.setdefault(link, deque())
        if len(waiting) >= MAX_REPORTS:
            self._refuse(link, ErrorCode.OVERLOAD, "too many SESSIONS at once")
            return
        waiting.append(sessions)
        if len(waiting) == 1:
            judged = Deferred.fromCoroutine(self._judge_reports(link, entry, waiting))
            judged.addErrback(self._broken, link)

    async def _judge_reports(
        self, link: LinkProtocol, entry: LiveDevice, waiting: deque[Sessions]
    ) -> None:
        """Judge a link's reports one after the other: each sees what the last one wrote."""
        while waiting and link in self._entries:
            await self._gateway.switchboard.judge_sessions(entry, waiting[0])
            waiting.popleft()
        # An empty one would stay for as long as the link: 600 bytes.
        if self._reports.get(link) is waiting:
            del self._reports[link]

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self._gateway.verbs.from_device(link, number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        entry = self._entries.pop(link, None)
        self._reports.pop(link, None)
        drain = self._draining.pop(link, None)
        if drain is not None:
            drain.cancel()
        peer: PeerCertificate = link.peer
        same = self._by_device.get(peer.name.name, {})
        same.pop(link, None)
        if not same:
            self._by_device.pop(peer.name.name, None)
        if entry is None:
            self._say(
                peer.name.name,
                "device {id} at {address} {what}: {reason}",
                id=peer.name.name,
                address=address_text(link.transport),
                what="was not admitted" if link.connected_at is None else "left after renewal",
                reason=printable(reason),
            )
            return
        current = self._gateway.presence.depart(entry.device.id, entry.epoch)
        self._say(
            entry.device.id,
            "device {name} epoch {epoch:#x} lost{how}: {reason}",
            name=entry.device.name,
            epoch=entry.epoch,
            how="" if current or link.core.goaway_received else " (displaced)",
            reason=printable(reason),
        )
        self._record(entry, "device.lost", reason)
        if reason.startswith(SILENT):
            self._gateway.metrics.heartbeats_lost.inc()
        # When it was heard, not when that was noticed.  Also of one that said GOAWAY before; the
        # store lets no older epoch write.
        silent = entry.silent(self._gateway.wheel.seconds())
        seen = self._gateway.store.record_seen(
            entry.device.id,
            entry.epoch,
            Seen(),
            self._gateway.now_us() - int(silent * 1_000_000),
        )
        seen.addErrback(self._log_failure)

    def close_all(self, device_id: str, code: ErrorCode, message: str) -> int:
        """End every link of a device, also one that may only renew or is being judged.

        Returns:
            How many were not ending already.
        """
        links = [link for link in self._by_device.get(device_id, {}) if not link.closed]
        for link in links:
            self._refuse(link, code, message)
        return len(links)

    # -- admission -----------------------------------------------------------------------------

    async def _judge(self, link: LinkProtocol, hello: Hello) -> None:
        peer: PeerCertificate = link.peer
        presence = self._gateway.presence
        while True:
            changes = presence.changes
            found = await self._gateway.store.device_by_spki(peer.spki)
            if changes == presence.changes:
                break
            # Labels or a name changed while this row was on its way: it may be the old one.
        if link not in self._entries or link.closed or link.core.goaway_received:
            # It went, or broke a rule, while the store answered: it must displace nobody.
            return
        if self._gateway.stopping:
            self._gateway.turn_away(link)
            return
        if found is None or found.device.id != peer.name.name:
            self._refuse(link, ErrorCode.AUTH, "this key is not registered here")
            return
        refusal = found.refusal(self._gateway.now_us())
        if refusal is not None or self._gateway.revocation.is_revoked("device", found.device.id):
            self._refuse(link, ErrorCode.REVOKED, "this device is revoked")
            return
        if found.device.quarantined_at is not None:
            self._refuse(link, ErrorCode.CLONE_SUSPECTED, QUARANTINED)
            return
        if peer.expired:
            expired_for = datetime.fromtimestamp(self._wall(), UTC) - peer.not_after
            if expired_for > MAX_EXPIRED:
                self._refuse(
                    link,
                    ErrorCode.EXPIRED,
                    f"the certificate expired more than {MAX_EXPIRED.days} days ago: join again",
                )
                return
            self._welcome_to_renew(link, hello, found.device)
            return
        self._admit(link, hello, found.device)

    def _refuse(self, link: LinkProtocol, code: ErrorCode, message: str) -> None:
        self._gateway.metrics.links_refused.labels(code.value).inc()
        if self._entries.get(link) is None and not link.closed:
            address = address_text(link.transport)
            self._gateway.flights.refused(link.peer.name.name, address, code.value, message)
        link.go_away(GoAway(code=code.value, message=message), close=True, reason=message)

    def _welcome_to_renew(self, link: LinkProtocol, hello: Hello, device: Device) -> None:
        self._say(
            device.id, "device {name} has an expired certificate: renewal only", name=device.name
        )
        self._close_older(link, only_renewing=True)
        link.welcome(
            welcome_for(self._gateway, hello, device.name, max_streams=1, renew_only=True),
            AT_GATEWAY_FROM_DEVICE,
        )

    def _admit(self, link: LinkProtocol, hello: Hello, device: Device) -> None:
        presence, address = self._gateway.presence, address_text(link.transport)
        if not self._gateway.clones.presented(device, hello, address):
            self._refuse(link, ErrorCode.CLONE_SUSPECTED, QUARANTINED)
            return
        entry = LiveDevice(
            device=device,
            link=link,
            hello=msgspec.structs.replace(
                hello,
                facts=reported(hello.facts),
                problems=[printable(line, 500) for line in hello.problems],
            ),
            epoch=presence.next_epoch(),
            address=address,
            connected_at=datetime.fromtimestamp(self._wall(), UTC),
        )
        arrival, other = presence.arrive(entry)
        if arrival is Arrival.STALE:
            self._refuse(link, ErrorCode.DUPLICATE, "a newer link of this device is connected")
            return
        self._entries[link] = entry
        self._gateway.probes.silences.watch(entry)
        if other is not None:
            self._displace(other, entry)
        self._close_older(link)
        generation = max(device.link_generation, hello.link_generation)
        entry.told_ms = self._gateway.admission.spread_ms()
        link.welcome(
            welcome_for(
                self._gateway,
                hello,
                device.name,
                epoch=entry.epoch,
                max_streams=AT_GATEWAY_FROM_DEVICE.max_streams,
                retry_spread_ms=entry.told_ms,
                link_generation=min(generation, MAX_OFFSET - 1) + 1,
            )
        )
        self._say(
            device.id,
            "device {name} is live: epoch {epoch:#x}, from {address}",
            name=device.name,
            epoch=entry.epoch,
            address=entry.address,
        )
        self._record(entry, "device.live", "")
        self._remember(entry)
        self._catalogues.learn(entry)
        self._gateway.switchboard.device_came(entry)

    def _close_older(self, newest: LinkProtocol, *, only_renewing: bool = False) -> None:
        """End what else was welcomed for this device: links that leave, or may only renew."""
        for link in list(self._by_device.get(newest.peer.name.name, {})):
            if link is newest or link.connected_at is None or link.closed:
                continue
            if self._entries.get(link) is None or not only_renewing:
                self._refuse(link, ErrorCode.DUPLICATE, "a newer link of this device took over")

    def _displace(self, old: LiveDevice, new: LiveDevice) -> None:
        """The newest wins: the old link is told, and cut off if it does not leave (rule H2)."""
        same = old.hello.instance == new.hello.instance
        self._say(
            new.device.id,
            "device {name}: epoch {new:#x} from {address} displaces {old:#x} ({who})",
            name=new.device.name,
            new=new.epoch,
            old=old.epoch,
            address=new.address,
            who="same agent" if same else "another agent process",
        )
        self._gateway.metrics.displaced.inc()
        self._gateway.clones.displaced(
            new.device, Sighting.of(old.hello, old.address), Sighting.of(new.hello, new.address)
        )
        old.link.go_away(
            GoAway(code=ErrorCode.DUPLICATE.value, message="a newer link of this device took over"),
            close=True,
            reason=f"displaced by epoch {new.epoch:#x}",
        )

    def _remember(self, entry: LiveDevice) -> None:
        hello = entry.hello
        seen = self._gateway.store.record_seen(
            entry.device.id,
            entry.epoch,
            Seen(
                last_address=entry.address,
                agent_version=printable(hello.software, 64),
                catalogue=hello.catalogue or None,
                boot_id=printable(hello.boot_id, 64) or None,
                instance=hello.instance.hex(),
                dial=hello.dial,
                link_generation=hello.link_generation,
                facts=hello.facts,
            ),
        )
        seen.addErrback(self._log_failure)

    def _say(self, device_id: str, text: str, **fields: Any) -> None:
        """Write a line of the log about a device, unless it has had too many."""
        left_out = self._lines.admit(device_id)
        if left_out is not None:
            more = f" ({left_out} lines about this device left out)" if left_out else ""
            self._log.info(text + "{more}", more=more, **fields)

    def _record(self, entry: LiveDevice, kind: str, message: str) -> None:
        left_out = self._rows.admit(entry.device.id)
        if left_out is None:
            return
        written = self._gateway.store.append_audit(
            AuditRecord(
                kind=kind,
                device=entry.device.id,
                device_name=entry.device.name,
                address=entry.address,
                message=message or None,
                details={"epoch": entry.epoch} | ({"left_out": left_out} if left_out else {}),
            ),
            patient=True,
        )
        written.addErrback(self._log_failure)

    def _log_failure(self, failure: Failure) -> None:
        self._log.error("the store failed: {reason}", reason=failure.getErrorMessage())

    def _broken(self, failure: Failure, link: LinkProtocol) -> None:
        if failure.check(StoreError):
            self._log_failure(failure)
        else:
            self._log.failure("a device's link failed", failure)
        self._refuse(link, ErrorCode.INTERNAL, "the gateway failed; try again")

    def reported(self, entry: LiveDevice, policy: PolicyState, catalogue: str) -> bool:
        """Take in what a device's HELLO would tell now; say no if it tells too often."""
        if self._reported.admit(entry.device.id) is None:
            return False
        entry.hello = msgspec.structs.replace(entry.hello, policy=policy, catalogue=catalogue)
        seen = self._gateway.store.record_seen(
            entry.device.id, entry.epoch, Seen(catalogue=catalogue or None)
        )
        seen.addErrback(self._log_failure)
        self._catalogues.learn(entry)
        return True
