"""Gateway: presence, switchboard, verbs and revocation joined, without a single port.

`rshell.tap` gives it a store and a clock, opens the ports and tells it where they are.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.access.printable import printable
from rshell.access.recordings import RecordingPolicy
from rshell.gateway import audit_services as _audit  # noqa: F401  # fills the registry of verbs
from rshell.gateway import ca_services as _ca  # noqa: F401  # fills the registry of verbs
from rshell.gateway import door_services as _doors  # noqa: F401  # fills the registry of verbs
from rshell.gateway import fact_services as _facts  # noqa: F401  # fills the registry of verbs
from rshell.gateway import invite_services as _invites  # noqa: F401  # likewise
from rshell.gateway import key_services as _keys  # noqa: F401  # fills the registry of verbs
from rshell.gateway import link_services as _link_services  # noqa: F401  # fills the registry of verbs
from rshell.gateway import pending_services as _pending  # noqa: F401  # likewise
from rshell.gateway import recording_services as _recordings  # noqa: F401  # likewise
from rshell.gateway import role_services as _roles  # noqa: F401  # likewise
from rshell.gateway import services as _services  # noqa: F401  # fills the registry of verbs
from rshell.gateway import session_services as _sessions  # noqa: F401  # likewise
from rshell.gateway import touch_services as _touch  # noqa: F401  # likewise
from rshell.gateway import why_services as _why  # noqa: F401  # likewise
from rshell.gateway.admission import DEFAULT_RATE, Admission
from rshell.gateway.audit_feed import AuditFeed
from rshell.gateway.audit_shipping import AuditShipper
from rshell.gateway.audit_spool import AuditSpool
from rshell.gateway.certificates import Certificates
from rshell.gateway.clones import Clones
from rshell.gateway.config import CloneAction
from rshell.gateway.device_links import DeviceLinks
from rshell.gateway.door_services import SshAddress
from rshell.gateway.flights import Flights
from rshell.gateway.heap import HeapTrim
from rshell.gateway.home import GatewayHome
from rshell.gateway.joining import Joiner, JoinExchange
from rshell.gateway.long_answers import Slices
from rshell.gateway.metrics import Metrics, ReactorLag
from rshell.gateway.pending import Pending
from rshell.gateway.presence import Presence
from rshell.gateway.probing import Probes
from rshell.gateway.recordings import Recordings
from rshell.gateway.revocation import OperatorConnection, Revocation
from rshell.gateway.rights import Rights
from rshell.gateway.session_table import SessionTable
from rshell.gateway.steering import Fleet
from rshell.gateway.switchboard import Switchboard
from rshell.gateway.throttle import Throttle
from rshell.gateway.verbs import Verbs
from rshell.handlers import HandlerDescription
from rshell.identity.tls import GatewayTLS
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import RELAY_BUDGET
from rshell.link.core.errors import ErrorCode
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import GoAway
from rshell.link.protocol import LinkProtocol
from rshell.store.store import Store
from rshell.store.threads import InlineThreads, Threads

__all__ = ["Catalogues", "Gateway", "planned_stop", "tls_of"]

#: As JSON text; parsed, they take about ten times as much.  A usual one has 4 KiB.
MAX_CATALOGUES_BYTES = 4 * 1024 * 1024
#: Certificates that one device or operator may ask for: one in two months, and lost answers.
RENEWALS_RATE, RENEWALS_BURST = 3 / 3600, 10
#: Rows about refused uses of one invite.
REFUSED_JOINS_RATE, REFUSED_JOINS_BURST = 1 / 60, 10
#: Joins of one source that may be refused; a whole site may sit behind it.
GUESSES_RATE, GUESSES_BURST = 5 / 60, 50
#: Probes that one operator may ask for, of all devices: a look at a whole site at once.
PROBES_RATE, PROBES_BURST = 20.0, 500
#: What a gateway records that was told nothing: the configuration's default is another.
NOT_RECORDED = RecordingPolicy(mode="off")
#: Facts that one device may tell: a look a minute, and what operators ask for between them.
FACTS_RATE, FACTS_BURST = 1 / 30, 20
#: Parts of what sessions touched that one device may tell, a hundred names each: what a session
#: had waiting at once, then what an agent paces itself to. One that invents names fills the log no
#: faster.
TOUCHED_RATE, TOUCHED_BURST = 30, 300
#: Agents come back this soon after a planned stop, and not all at once.
RESTART_SECONDS = 2
#: A peer that has not taken our last words by then is cut off by the end of the process.
STOP_SECONDS = 3.0


def planned_stop(spread_ms: int) -> GoAway:
    """Return what a peer is told when the gateway goes down on purpose."""
    return GoAway(
        code=ErrorCode.SHUTDOWN.value,
        message="the gateway is going down",
        retry_min_ms=RESTART_SECONDS * 1000,
        retry_spread_ms=spread_ms,
    )


def tls_of(home: GatewayHome) -> GatewayTLS:
    """Return a gateway's side of TLS."""
    return GatewayTLS(
        home.leaf.key,
        home.leaf.chain,
        home.keys.device.certificate,
        home.keys.operator.certificate,
    )


class Catalogues:
    """What devices can do, by digest: those asked for last, the rest is in the store."""

    def __init__(self, max_bytes: int = MAX_CATALOGUES_BYTES) -> None:
        #: Entries, the names of those that the device allows, size of the text.
        self._known: OrderedDict[str, tuple[list[HandlerDescription], list[str], int]] = (
            OrderedDict()
        )
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, digest: str) -> list[HandlerDescription] | None:
        """Return a catalogue that is at hand."""
        found = self._known.get(digest)
        if found is None:
            return None
        self._known.move_to_end(digest)
        return found[0]

    def allowed(self, digest: str) -> list[str]:
        """Return the names of the handlers that a device with this catalogue allows, if known."""
        return [] if self.get(digest) is None else self._known[digest][1]

    def keep(self, digest: str, body: str) -> list[HandlerDescription]:
        """Keep a catalogue's JSON text, which the caller has checked against its digest."""
        entries = [
            # It comes from a device and goes to operators' terminals.
            msgspec.structs.replace(entry, summary=printable(entry.summary, 200))
            for entry in msgspec.json.decode(body, type=list[HandlerDescription])
        ]
        self._bytes += len(body) - self._known.pop(digest, ((), (), 0))[2]
        names = [entry.name for entry in entries if entry.allowed]
        self._known[digest] = (entries, names, len(body))
        while self._bytes > self._max_bytes and len(self._known) > 1:
            _, (_, _, size) = self._known.popitem(last=False)
            self._bytes -= size
        return entries


class Gateway:
    """One gateway.

    Args:
        home: Certificates and keys.
        store: Open.
        wheel: Timers of this process.
        wall: Seconds since 1970, for records only.
        handshakes_per_second: At most.
        clone_action: What happens to a device of which there seem to be two.
        recording: Which sessions are recorded.
        recording_threads: Where recordings are written; at once if None.
        syslog: Where rows of the audit log go too; "" is nowhere.
        tell_watched: Whether operators are told while somebody else watches their session.

    Attributes:
        joins: Admits machines that join.
        advertised: ``(host, port)`` pairs under which devices and operators dial in; set by
            whoever opens the ports.
        ssh_door: where the SSH door is dialled, likewise; None while there is none.
        stopping: It is going down on purpose: nobody is let in any more.
    """

    _log = Logger()

    def __init__(
        self,
        home: GatewayHome,
        store: Store,
        wheel: TimerWheel,
        wall: Callable[[], float] = time.time,
        *,
        handshakes_per_second: float = DEFAULT_RATE,
        clone_action: CloneAction = "alert",
        recording: RecordingPolicy = NOT_RECORDED,
        recording_threads: Threads | None = None,
        syslog: str = "",
        tell_watched: bool = True,
    ) -> None:
        self.home = home
        self.store = store
        self.wheel = wheel
        self.wall = wall
        self.name = socket.gethostname()
        self.advertised: Sequence[tuple[str, int]] = ()
        self.ssh_door: SshAddress | None = None
        self.catalogues = Catalogues()
        self.presence = Presence(0)
        #: What relayed streams may hold beyond the narrow allowance, all together (rule F7).
        self.relaying = CreditBudget(RELAY_BUDGET)
        self.metrics = Metrics()
        self.lag = ReactorLag(wheel)
        self.fleet = Fleet(self)
        self.heap = HeapTrim(wheel, lambda: self.presence.accepted, lambda: len(self.presence))
        self.admission = Admission(
            wheel,
            handshakes_per_second,
            self.fleet.size,
            self.metrics.admission_wait.observe,
        )
        self.clones = Clones(self, clone_action)
        self.probes = Probes(self)
        self.flights = Flights(wheel.seconds, self.now_us)
        self.probing = Throttle(wheel.seconds, PROBES_RATE, PROBES_BURST)
        self.fact_reports = Throttle(wheel.seconds, FACTS_RATE, FACTS_BURST)
        self.touches = Throttle(wheel.seconds, TOUCHED_RATE, TOUCHED_BURST)
        self.sessions = SessionTable(wheel.seconds)
        self.rights = Rights(self)
        self.audit_feed = AuditFeed(store, home.audit_key, wheel)
        self.audit_spool = AuditSpool(store, home.path, wheel)
        self.shipper = AuditShipper(self, syslog) if syslog else None
        self.recordings = Recordings(self, recording, recording_threads or InlineThreads())
        self.switchboard = Switchboard(self, tell_watched=tell_watched)
        #: Of turns, for answers that are long.
        self.slices = Slices(wheel)
        self.verbs = Verbs(self)
        self.revocation = Revocation(self)
        self.devices = DeviceLinks(self, wall)
        self.tls = tls_of(home)
        self.certificates = Certificates(self)
        self.renewals = Throttle(wheel.seconds, RENEWALS_RATE, RENEWALS_BURST)
        self.pending = Pending(store, wheel, self.metrics)
        self.joins = Joiner(
            home,
            store,
            self.gateways,
            Throttle(wheel.seconds, REFUSED_JOINS_RATE, REFUSED_JOINS_BURST),
            wall,
            Throttle(wheel.seconds, GUESSES_RATE, GUESSES_BURST),
            self.pending,
            self.metrics,
        )
        self._links: set[OperatorConnection] = set()
        self.stopping = False

    def now_us(self) -> int:
        """Return the wall clock in the store's unit, microseconds since 1970 UTC."""
        return int(self.wall() * 1_000_000)

    def gateways(self) -> list[str]:
        """Return ``host:port`` of where to dial, for joiners and renewals."""
        return [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.advertised
        ]

    def dialled_at(self) -> tuple[str, int]:
        """Return the first of them."""
        return self.advertised[0]

    def joiner(self, address: str) -> JoinExchange:
        """Return the protocol for a machine that joins."""
        return JoinExchange(self.joins, self.wheel, address)

    def link_opened(self, link: OperatorConnection) -> None:
        """Note an operator's link or other connection, to be told when the gateway stops."""
        self._links.add(link)

    def link_closed(self, link: OperatorConnection) -> None:
        """Forget it."""
        self._links.discard(link)
        self.certificates.link_closed(link)

    async def start(self) -> None:
        """Take an epoch range and complete what an earlier run left open."""
        start = await self.store.next_start()
        self.presence = Presence(start)
        await self.rights.start()
        await self.audit_feed.start()
        await self.audit_spool.start()
        if self.shipper is not None:
            await self.shipper.start()
        await self.recordings.start()
        await self.switchboard.start()
        await self.fleet.start()
        await self.pending.start()
        self.probes.start()
        self.lag.start()
        self.heap.start()
        self.certificates.start()

    async def stop(self) -> None:
        """Tell every peer when to come back, and wait until they have heard or three seconds.

        Sessions are not ended: devices keep them, and operators resume.  To the audit each
        attempt is detached; none has failed.
        """
        self.stopping = True
        for part in (
            self.fleet,
            self.pending,
            self.probes,
            self.lag,
            self.heap,
            self.switchboard,
        ):
            part.stop()
        devices, operators = self.devices.links(), list(self._links)
        self._send_away(devices, self.admission.spread_ms())
        # They are few beside the devices, and people wait at them.
        self._send_away(operators, int(len(operators) * 1000 / self.admission.rate))
        count = len(devices) + len(operators)
        if count:
            waited: Deferred[None] = Deferred()
            self._await_links(waited, self.wheel.seconds() + STOP_SECONDS)
            await waited
        self._log.info("told {count} links to come back later", count=count)
        await self.recordings.stop()
        await self.certificates.stop()
        await self.audit_spool.stop()
        await self.audit_feed.stop()
        if self.shipper is not None:
            await self.shipper.stop()

    def turn_away(self, link: LinkProtocol) -> None:
        """Tell a device that comes while this gateway goes down when to try again."""
        self._send_away([link], self.admission.spread_ms())

    @staticmethod
    def _send_away(links: Sequence[OperatorConnection], spread_ms: int) -> None:
        goaway = planned_stop(spread_ms)
        for link in links:
            link.go_away(goaway, close=True, reason=goaway.message)

    def _await_links(self, waited: Deferred[None], until: float) -> None:
        if not (self.devices.links() or self._links) or self.wheel.seconds() >= until:
            waited.callback(None)
        else:
            self.wheel.call_later(0.1, lambda: self._await_links(waited, until))
