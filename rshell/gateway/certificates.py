"""Certificates: the gateway's own certificate, fresh, and the list of gateways that are revoked.

::

    HOME/gateway.pem, ca/revoked.json --look--> GatewayTLS, WELCOME and ADVICE
    ca.journal --------------------------look--> audit log
    ca/gateway-ca.key, if it is here --renew--> HOME/gateway.pem

The commands that change them (`rshell ca`) work on files, for the certificate may have ended or the
gateway may be stopped; so files are how they tell a gateway that runs.  It looks every second, and
says in ``HOME/certificates.json`` what it uses.  A link in use keeps running whatever changes.
"""

from __future__ import annotations

import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.gateway.ca_report import InUse, warnings
from rshell.identity.authority import renewal_time
from rshell.identity.ca_journal import Note, note, taken, untake, waiting
from rshell.identity.clock_floor import BUILD_TIME
from rshell.identity.files import write_atomic
from rshell.identity.fleet_home import DamagedHome, FleetHome, GatewayLeaf, HomeBusy
from rshell.identity.gateway_leaf import fingerprint, names_of
from rshell.identity.keys import new_key
from rshell.identity.revoked import REVOKED_FEATURE, RevokedMemory
from rshell.link.clock import WheelTimer
from rshell.link.core.messages import Advice
from rshell.link.protocol import LinkProtocol
from rshell.store.errors import StoreError
from rshell.store.records import AuditRecord

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Certificates"]

#: Four looks at a directory entry, some 10 µs: whoever installed something waits for it.
LOOK_SECONDS = 1.0
#: The certificate lives for months, but a clock may be set at any moment.
CARE_SECONDS = 600.0
#: What only a person can change is said once a day.
REMIND_SECONDS = 86_400.0
#: 7 KB each at the worst: 300 links a second are 2 MB.
TELL_SECONDS, LINKS_A_STEP = 0.25, 75

#: A store that takes no rows has a full disk; others say so too.
AUDIT_RETRY_SECONDS = 60.0

_Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """Keeps what this gateway shows, and what it tells of others.

    Args:
        gateway: Whose home, TLS, store and links.

    Attributes:
        leaf: The gateway's key and chain in use.
        revoked: The list in use.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self.leaf: GatewayLeaf = gateway.home.leaf
        self._gateway = gateway
        self._home = FleetHome(gateway.home.path)
        root = gateway.home.keys.root.certificate
        self.revoked = RevokedMemory(self._home.revoked_path, root)
        self._seen = self._stamp()
        self._due: tuple[x509.Certificate, datetime] | None = None
        self._reminded: float | None = None
        self._listeners: dict[LinkProtocol, None] = {}
        self._to_tell: deque[tuple[LinkProtocol, int]] = deque()
        self._timers: dict[str, WheelTimer] = {}
        self._auditing: Deferred[None] | None = None
        self._audit_not_before = 0.0
        self._stopped = False

    def start(self) -> None:
        """Begin to look; the gateway knows by now where it is dialled."""
        self._say()
        self._care()
        self._look()

    async def stop(self) -> None:
        """Leave no timer behind, and no word that this gateway uses anything."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._auditing is not None:
            await self._auditing
        self._state_path.unlink(missing_ok=True)

    def link_welcomed(self, link: LinkProtocol, features: list[str]) -> None:
        """An operator's link takes lists in ADVICE if it has that feature."""
        if REVOKED_FEATURE in features:
            self._listeners[link] = None

    def link_closed(self, link: object) -> None:
        """It takes nothing any more."""
        if isinstance(link, LinkProtocol):
            self._listeners.pop(link, None)

    def seconds_left(self) -> float:
        """Return how long the certificate in use is still valid; negative if it is not."""
        return self.leaf.chain[0].not_valid_after_utc.timestamp() - self._gateway.wall()

    def _again(self, what: str, delay_seconds: float) -> None:
        call = {"look": self._look, "care": self._care, "tell": self._tell}[what]
        if what in self._timers:
            self._timers[what].cancel()
        if not self._stopped:
            self._timers[what] = self._gateway.wheel.call_later(delay_seconds, call)

    # -- what others changed -------------------------------------------------------------------

    def _stamp(self) -> _Stamp:
        return _identity(self._home.home / "gateway.pem"), _identity(self._home.revoked_path)

    def _look(self) -> None:
        self._again("look", LOOK_SECONDS)
        noted = (
            self._auditing is None
            and self._gateway.wheel.seconds() >= self._audit_not_before
            and waiting(self._home.home)
        )
        if self._stamp() == self._seen and not noted:
            return
        notes: list[Note] | None = None
        try:
            with self._home.locked():
                self._seen = self._stamp()
                self._use_leaf()
                self._use_list()
                notes = taken(self._home.home) if noted else None
        except HomeBusy:
            self._seen = ()
            return
        except OSError as error:
            self._log.error("the home cannot be read: {error}", error=error)
            self._audit_not_before = self._gateway.wheel.seconds() + AUDIT_RETRY_SECONDS
        self._say()
        if notes is not None:
            # It may be over before it is kept.
            auditing = self._auditing = Deferred.fromCoroutine(self._audit(notes))
            auditing.addBoth(self._audited)

    def _use_leaf(self) -> None:
        try:
            leaf = self._home.load_leaf()
            if leaf is None or leaf.chain == self.leaf.chain:
                return
            self._gateway.tls.replace(leaf.key, leaf.chain)
        except (DamagedHome, SSL.Error, ValueError) as error:
            self._log.error(
                "the certificate in the home cannot be used, the one before stays: {error}",
                error=error,
            )
            return
        self.leaf = leaf
        self._log.info(
            "new connections see the certificate {fingerprint}, valid until {end}",
            fingerprint=fingerprint(leaf.chain[0])[:16],
            end=f"{leaf.chain[0].not_valid_after_utc:%Y-%m-%d}",
        )
        self._reminded = None
        self._remind()

    def _use_list(self) -> None:
        before = self.revoked.number
        self.revoked.reload()
        if self.revoked.number == before:
            return
        self._log.info(
            "list {number} of revoked gateways: {count} keys",
            number=self.revoked.number,
            count=len(self.revoked.keys),
        )
        self._to_tell.clear()
        self._to_tell.extend(
            (live.link, live.told_ms)
            for live in self._gateway.presence
            if REVOKED_FEATURE in live.hello.features
        )
        self._to_tell.extend((link, 0) for link in self._listeners)
        self._tell()

    def _tell(self) -> None:
        for _ in range(min(LINKS_A_STEP, len(self._to_tell))):
            link, spread_ms = self._to_tell.popleft()
            link.advise(Advice(retry_spread_ms=spread_ms, revoked_gateways=self.revoked.current))
        if self._to_tell:
            self._again("tell", TELL_SECONDS)

    async def _audit(self, notes: list[Note]) -> None:
        try:
            for noted in notes:
                await self._gateway.store.append_audit(
                    AuditRecord(
                        kind=noted.kind,
                        door="local",
                        details={"user": noted.user, "noted_at": noted.at, **noted.details},
                    )
                )
            untake(self._home.home)
        except (StoreError, OSError) as error:
            self._log.error("the notes of rshell ca wait for the audit log: {why}", why=str(error))
            self._audit_not_before = self._gateway.wheel.seconds() + AUDIT_RETRY_SECONDS

    def _audited(self, result: Failure | None) -> None:
        self._auditing = None
        if isinstance(result, Failure):
            self._log.failure("the notes of rshell ca were not taken", result)
            self._audit_not_before = self._gateway.wheel.seconds() + AUDIT_RETRY_SECONDS

    # -- what we do ourselves ------------------------------------------------------------------

    def _care(self) -> None:
        self._again("care", CARE_SECONDS)
        certificate = self.leaf.chain[0]
        if self._due is None or self._due[0] != certificate:
            self._due = (certificate, renewal_time(certificate))
        now = self._now()
        # One that was issued while the clock was ahead is believed by nobody once it is right.
        ahead = BUILD_TIME <= now < certificate.not_valid_before_utc
        if now >= self._due[1] or ahead:
            try:
                with self._home.locked():
                    self._renew(now)
            except HomeBusy:
                self._again("care", LOOK_SECONDS)
                return
            except (DamagedHome, OSError, ValueError) as error:
                self._log.error("the gateway's certificate was not renewed: {e}", e=error)
        self._remind()

    def _renew(self, now: datetime) -> None:
        """Issue another, with a new key, if the gateway CA's key is here.

        In the reactor's thread: a few small synced writes, once in months.
        """
        keys = self._home.load(issuing=True)  # not the root's: that makes no leaves
        if keys.gateway.key is None:
            return
        key = new_key()
        names = names_of(self.leaf.chain[0])
        certificate = keys.issue_gateway(key.public_key(), names, keys.moment(now))
        current = self.leaf.chain[0]
        if now >= current.not_valid_before_utc and (
            certificate.not_valid_after_utc <= current.not_valid_after_utc
        ):
            return  # the CA itself ends: no leaf outlives it
        end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        details = {"gateway": fingerprint(certificate), "valid_until": end}
        note(self._home.home, "ca.leaf-renewed", int(now.timestamp() * 1_000_000), details)
        self._home.save_leaf(
            GatewayLeaf(key, (certificate, keys.gateway.certificate, keys.root.certificate))
        )
        self._use_leaf()
        self._say()

    def _remind(self) -> None:
        seconds = self._gateway.wheel.seconds()
        if self._reminded is not None and seconds - self._reminded < REMIND_SECONDS:
            return
        self._reminded = seconds
        hosts = [host for host, _ in self._gateway.advertised]
        for line in warnings(self._home, self.leaf, self.revoked, self._now(), hosts):
            self._log.warn("{line}", line=line)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._gateway.wall(), UTC)

    # -- what we use ---------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self._home.home / "certificates.json"

    def _say(self) -> None:
        state = InUse(
            pid=os.getpid(), leaf=fingerprint(self.leaf.chain[0]), revoked=self.revoked.number
        )
        try:
            write_atomic(self._state_path, msgspec.json.encode(state) + b"\n")
        except OSError as error:
            self._log.warn("certificates.json cannot be written: {error}", error=error)


def _identity(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced or grows."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
