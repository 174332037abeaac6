"""Renewing the device's certificate over its own link (rules E3 and E4).

At two thirds of its life, less some jitter, with a new key that is stored before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rshell.identity.authority import renewal_time
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.keys import make_csr
from rshell.link.core.errors import LocalProtocolError
from rshell.link.protocol import LinkProtocol
from rshell_agent.gateway_call import CallFailed, GatewayCall
from rshell_agent.identity import DeviceIdentity

__all__ = ["Renewal"]

#: How often to look whether it is time; the clock may be set at any moment.
_LOOK_SECONDS = 3600.0
_RETRY_SECONDS = (60.0, 3600.0)
#: Less life than this left is worth an error in the log (of 90 days).
_ALARM = timedelta(days=9)


class _Answer(msgspec.Struct, frozen=True):
    chain: str
    gateways: tuple[str, ...] = ()


class Renewal:
    """Watches the certificate's age while there is a link, and renews.

    Args:
        clock: For timers.
        now: The best guess at the true time, aware (`ClockFloor.logical_now`).
        identity: Whose certificate it is.
        store: Keeps the new key until the answer has come.
        renewed: Called with the link over which it was renewed.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], datetime],
        identity: DeviceIdentity,
        store: CredentialStore,
        renewed: Callable[[LinkProtocol], None],
    ) -> None:
        self._clock = clock
        self._now = now
        self._identity = identity
        self._store = store
        self._renewed = renewed
        self._timer: IDelayedCall | None = None
        self._asking: Deferred[None] | None = None
        self._delay = _RETRY_SECONDS[0]
        self._planned: tuple[x509.Certificate, datetime] | None = None

    def link_welcomed(self, link: LinkProtocol, *, at_once: bool) -> None:
        """There is a link: renew over it when it is time, or now."""
        self.link_lost()
        self._look(link, at_once)

    def link_lost(self) -> None:
        """There is no link any more."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def due(self) -> datetime:
        """Return when the current certificate is to be renewed; drawn once for each."""
        certificate = self._identity.current.certificate
        if self._planned is None or self._planned[0] != certificate:
            self._planned = (certificate, renewal_time(certificate))
        return self._planned[1]

    def _look(self, link: LinkProtocol, at_once: bool) -> None:
        remaining = (self.due() - self._now()).total_seconds()
        if remaining > 0 and not at_once:
            self._timer = self._clock.callLater(
                min(remaining, _LOOK_SECONDS), self._look, link, False
            )
            return
        self._timer = None
        self._asking = Deferred.fromCoroutine(self._renew(link, at_once))

    async def _renew(self, link: LinkProtocol, at_once: bool) -> None:
        try:
            credentials = await self._ask(link)
            self._identity.replace(credentials)
        except CancelledError:
            return
        except (CallFailed, LocalProtocolError, CredentialsDamaged, OSError) as error:
            self._asking = None
            self._failed(link, at_once, str(error))
            return
        self._asking = None
        self._delay = _RETRY_SECONDS[0]
        end = credentials.certificate.not_valid_after_utc
        self._log.info("certificate renewed, valid until {end}", end=end.isoformat())
        self._renewed(link)
        if not link.closed and self._timer is None:
            # not at once: with clocks far apart a fresh certificate may look old again
            self._timer = self._clock.callLater(_LOOK_SECONDS, self._look, link, False)

    async def _ask(self, link: LinkProtocol) -> Credentials:
        key = self._store.pending_key()
        call = GatewayCall(link)
        call.ask("gateway.renew", {"csr": msgspec.to_builtins(make_csr(key))}, self._clock)
        try:
            answer = msgspec.json.decode(await call.answer, type=_Answer)
        except msgspec.DecodeError as error:
            raise CallFailed(f"the answer is malformed: {error}") from None
        current = self._identity.current
        credentials = Credentials.new(
            key, answer.chain.encode(), current.root_pem, answer.gateways or current.gateways
        )
        if credentials.name != current.name:
            raise CallFailed("the new certificate is for somebody else")
        return credentials

    def _failed(self, link: LinkProtocol, at_once: bool, reason: str) -> None:
        left = self._identity.current.certificate.not_valid_after_utc - self._now()
        report = self._log.error if left < _ALARM else self._log.warn
        report(
            "the certificate could not be renewed ({reason}); {days} days left",
            reason=reason,
            days=left.days,
        )
        if not link.closed:
            self._timer = self._clock.callLater(self._delay, self._look, link, at_once)
        self._delay = min(_RETRY_SECONDS[1], self._delay * 2)
