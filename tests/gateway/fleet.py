"""A fleet in one process: a gateway on a fake clock, and ends joined to it by hand.

::

    fleet = Fleet(self)
    pump = fleet.enrol("pump-1")            # a row and a key in the store
    end = fleet.dial(pump)                  # HELLO, judged, WELCOME
    ann = fleet.dial(fleet.add_operator("ann"))
    talk = ann.call("exec", device="pump-1")
    fleet.pump()                            # deliver until nothing moves

``fleet.threads.hold()`` keeps the store's writes (or reads) from happening until ``release()``.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.doors.link import LinkDoor
from rshell.gateway.arrivals import Arrivals
from rshell.gateway.core import Gateway
from rshell.gateway.home import GatewayHome, prepare_home
from rshell.identity.join_string import token_hash
from rshell.identity.keys import PrivateKey, new_key, spki_hash
from rshell.identity.names import PeerName
from rshell.identity.tls import PeerCertificate
from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_AGENT, AT_CLIENT
from rshell.link.core.messages import Hello, VersionRange
from rshell.link.protocol import LinkProtocol
from rshell.store.records import AuditRow, Device, Grant, NewToken, TokenGrant
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from tests.gateway.ends import DeviceEnd, End, OperatorEnd
from tests.gateway.wires import Wire

__all__ = ["DAY", "Fleet", "FleetTestCase", "GatedThreads", "Peer", "hello", "template_home"]

T = TypeVar("T")
E = TypeVar("E", bound=End)
DAY = 86_400.0
NAMES = ("localhost", "127.0.0.1")


@cache
def template_home() -> Path:
    """Return a gateway's home, made once per run; tests copy it."""
    path = Path(tempfile.mkdtemp(prefix="rshell-test-home."))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    prepare_home(path / "home", NAMES)
    return path / "home"


def hello(**more: Any) -> Hello:
    """Return a dialler's introduction."""
    fields: dict[str, Any] = {
        "protocol": VersionRange(1, 1),
        "software": "test/1",
        "instance": b"I" * 16,
        "dial": 1,
        "features": ["resume"],
        "max_streams": 256,
        "window": 262144,
    }
    return Hello(**(fields | more))


class GatedThreads(InlineThreads):
    """Runs the store's work at once, unless a test holds it back."""

    def __init__(self) -> None:
        self._holding: set[str] = set()
        self._held: deque[Callable[[], None]] = deque()

    def hold(self, *kinds: str) -> None:
        """Hold back what comes from now on: ``write``, ``read``."""
        self._holding |= set(kinds or ("write",))

    def release(self) -> None:
        """Run what was held back, and hold nothing any more."""
        self._holding.clear()
        while self._held:
            self._held.popleft()()

    def release_one(self) -> None:
        """Run what was held back first."""
        self._held.popleft()()

    @property
    def held(self) -> int:
        """How many calls wait."""
        return len(self._held)

    def in_writer(self, work: Callable[[], None]) -> None:
        self._run("write", work)

    def in_reader(self, work: Callable[[], None]) -> None:
        self._run("read", work)

    def _run(self, kind: str, work: Callable[[], None]) -> None:
        if kind in self._holding:
            self._held.append(work)
        else:
            work()


@attrs.frozen
class Peer:
    """A device or operator with a registered key.

    Attributes:
        owner: the device's id or the operator's name.
        name: for people.
    """

    certificate: PeerCertificate
    owner: str
    name: str
    key: PrivateKey = attrs.field(repr=False)

    def changed(self, **changes: Any) -> Peer:
        """Return it with another certificate: ``spki``, ``expired``, ``name`` ..."""
        return attrs.evolve(self, certificate=attrs.evolve(self.certificate, **changes))


class Fleet:
    """One gateway, its store, and the wires to it.

    Attributes:
        clock: everybody's time; ``advance`` it.
        wires: every connection so far.
    """

    def __init__(self, case: SynchronousTestCase, home: Path | None = None, **options: Any) -> None:
        self._case = case
        #: Of the gateway: recording, recording_threads, syslog ...
        self.options = options
        if home is None:
            home = Path(case.mktemp()).absolute()
            shutil.copytree(template_home(), home)
        self.path = home
        self.clock = Clock()
        self._began = datetime.now(UTC).timestamp()
        self.wires: list[Wire] = []
        self._tokens = 0
        self.start()

    def start(self) -> None:
        """Open the store and start a gateway, as a process does."""
        self.home: GatewayHome = prepare_home(self.path, NAMES)
        self.threads = GatedThreads()
        self.wheel = TimerWheel(self.clock)
        self.store = Store.open(self.home.database, self.threads, lambda: int(self.wall() * 1e6))
        self._case.addCleanup(self.store.close)
        self.gateway = Gateway(self.home, self.store, self.wheel, self.wall, **self.options)
        self.gateway.advertised = [("gw.example.net", 7411)]
        self.door = LinkDoor(self.gateway, self.wall)
        self.arrivals = Arrivals(
            self.gateway.tls,
            self.wheel,
            self.gateway.devices,
            self.door,
            self.gateway.joiner,
            admission=self.gateway.admission,
            metrics=self.gateway.metrics,
        )
        self.run(self.gateway.start())

    def crash(self) -> None:
        """The process dies: every wire is cut and nothing else is done; then start again."""
        self.got(self.store.close())
        wires, self.wires = self.wires, []
        for wire in wires:
            wire.gateway.protocol = _Deaf()
            wire.cut()
        self.start()

    def wall(self) -> float:
        """Return the wall clock, which goes with the fake clock."""
        return self._began + self.clock.seconds()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returned."""
        return self.got(Deferred.fromCoroutine(coroutine))

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, delivering as it goes."""
        left = seconds
        while left > 0:
            self.clock.advance(min(step, left))
            left -= step
            self.pump()

    def got(self, deferred: Deferred[T]) -> T:
        """Return what a Deferred fired with."""
        result: T = self._case.successResultOf(deferred)
        return result

    def pump(self) -> None:
        """Deliver until nothing moves."""
        moved = True
        while moved:
            # Each wire in turn, whatever the others did.
            moved = sum(wire.step() for wire in list(self.wires)) > 0

    # -- who is in the store -----------------------------------------------------------------

    def certificate(self, kind: Any, name: str, spki: bytes) -> PeerCertificate:
        """Return a certificate as TLS would have found it."""
        now = datetime.fromtimestamp(self.wall(), UTC)
        return PeerCertificate(
            name=PeerName(kind, self.home.keys.fleet, name),
            spki=spki,
            serial=1,
            not_before=now - timedelta(hours=1),
            not_after=now + timedelta(days=90),
            expired=False,
        )

    def enrol(self, name: str) -> Peer:
        """Make a device with that name and a key."""
        self._tokens += 1
        key = new_key()
        spki = spki_hash(key.public_key())
        token = NewToken(
            id=hashlib.sha256(f"{name}{self._tokens}".encode()).digest()[:8],
            secret_hash=token_hash(b"x" * 20),
            kind="device",
            expires_at=int((self.wall() + 60) * 1e6),
            created_by="admin",
            name=name,
        )
        self.got(self.store.add_token(token))
        grant = self.got(self.store.use_token(token.id, token.secret_hash, spki, "device"))
        assert isinstance(grant, TokenGrant), grant
        device = self.got(self.store.enrol_device(grant, name))
        return Peer(self.certificate("device", device.id, spki), device.id, device.name, key)

    def add_operator(self, name: str, *roles: str) -> Peer:
        """Make an operator with a key; without a role named, an administrator."""
        key = new_key()
        spki = spki_hash(key.public_key())
        self.got(self.store.add_operator(name, roles or ("admin",), spki))
        return Peer(self.certificate("operator", name, spki), name, name, key)

    def add_role(self, name: str, *grants: Grant) -> str:
        """Make a role."""
        self.run(self.gateway.rights.put_role(name, grants, "admin", add=False))
        return name

    # -- links -------------------------------------------------------------------------------

    def dial(self, peer: Peer, *, pump: bool = True, **more: Any) -> Any:
        """Connect a peer; returns its `DeviceEnd` or `OperatorEnd`."""
        kind = DeviceEnd if peer.certificate.name.kind == "device" else OperatorEnd
        return self.join(kind(hello(**more)), peer, pump=pump)

    def join(self, end: E, peer: Peer, *, pump: bool = True) -> E:
        """Wire an end to the gateway; TLS is done, HELLO is on its way."""
        host = f"192.0.2.{len(self.wires) % 250 + 1}"
        port = 40_000 + len(self.wires)
        gateway_link: Any = self.arrivals.protocol_for(peer.certificate, f"{host}:{port}", 10.0)
        limits = AT_AGENT if isinstance(end, DeviceEnd) else AT_CLIENT
        end.gateway_link = gateway_link
        end.link = LinkProtocol(
            end, self.wheel, dialler=True, limits=limits, uniform=lambda low, high: (low + high) / 2
        )
        end.wire = Wire(end.link, gateway_link, host, port)
        self.wires.append(end.wire)
        gateway_link.makeConnection(end.wire.gateway)
        gateway_link.handshake_completed()
        end.link.makeConnection(end.wire.dialler)
        end.link.handshake_completed()
        if pump:
            self.pump()
        return end

    # -- what a test wants to know -------------------------------------------------------------

    def audit(self, kind: str | None = None, **wanted: Any) -> list[AuditRow]:
        """Return committed rows, oldest first, of a kind or with these fields."""
        rows = self.got(self.store.audit_rows(limit=10_000))[::-1]
        return [
            row
            for row in rows
            if (kind is None or row.record.kind == kind)
            and all(getattr(row.record, name) == value for name, value in wanted.items())
        ]

    def device(self, name_or_id: str) -> Device:
        """Return a device's row, which must be there."""
        device = self.got(self.store.device(name_or_id))
        assert device is not None
        return device

    def listed(self, operator: OperatorEnd) -> dict[str, dict[str, Any]]:
        """Return what ``gateway.devices`` answers, by name."""
        talk = operator.call("gateway.devices")
        self.pump()
        return {row["name"]: row for row in talk.answer()}


class _Deaf:
    """Stands for a process that is gone."""

    def connectionLost(self, reason: Any) -> None:
        """Nobody is there to hear it."""


class FleetTestCase(SynchronousTestCase):
    """A fleet with an operator ``ann`` and a device ``pump-1``, neither connected yet."""

    def setUp(self) -> None:
        self.fleet = Fleet(self)
        self.ann = self.fleet.add_operator("ann")
        self.pump = self.fleet.enrol("pump-1")

    def both(self) -> tuple[OperatorEnd, DeviceEnd]:
        """Connect both."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        operator: OperatorEnd = self.fleet.dial(self.ann)
        assert operator.welcome is not None
        assert device.welcome is not None
        return operator, device
