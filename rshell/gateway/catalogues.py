"""What each device can do: its catalogue of handlers, asked for once for each digest.

A fleet has a handful of different catalogues.  The first device that brings a digest is asked; the
others wait for its answer, and the store keeps it over restarts.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.gateway.presence import LiveDevice
from rshell.gateway.throttle import Throttle
from rshell.handlers import MAX_CATALOGUE_BYTES, HandlerDescription
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["CatalogueLearner"]

#: New catalogues that one device may bring: an upgrade or a change of policy, now and then.
CATALOGUES_RATE, CATALOGUES_BURST = 4 / 3600, 8
#: Others with the same catalogue wait for the one that was asked first.
CATALOGUE_SECONDS = 30.0


class CatalogueLearner:
    """Fills in `LiveDevice.handlers`."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._fetching: dict[str, list[LiveDevice]] = {}
        self._rate = Throttle(gateway.wheel.seconds, CATALOGUES_RATE, CATALOGUES_BURST)

    def learn(self, entry: LiveDevice) -> None:
        """Learn what a device can do, if it told a digest."""
        digest = entry.hello.catalogue
        if digest:
            learned = Deferred.fromCoroutine(self._catalogue(entry, digest))
            learned.addErrback(self._log_failure)

    async def _catalogue(self, entry: LiveDevice, digest: str) -> None:
        """Learn what the device can do: from the store, else once from the device."""
        known = self._gateway.catalogues.get(digest)
        if known is None:
            body = await self._gateway.store.catalogue(digest)
            if body is None and digest in self._fetching:
                self._fetching[digest].append(entry)
                return
            if body is None and self._rate.admit(entry.device.id) is not None:
                body = await self._fetch_for_all(entry, digest)
            if body is None:
                return
            known = self._gateway.catalogues.keep(digest, body)
        entry.handlers = tuple(handler.name for handler in known if handler.allowed)

    async def _fetch_for_all(self, entry: LiveDevice, digest: str) -> str | None:
        """Ask one device; those that came meanwhile look again, and one of them asks if need be."""
        self._fetching[digest] = []
        try:
            return await self._fetch(entry, digest)
        finally:
            for waiting in self._fetching.pop(digest):
                if not waiting.link.closed:
                    self._gateway.wheel.call_later(0, partial(self.learn, waiting))

    async def _fetch(self, entry: LiveDevice, digest: str) -> str | None:
        if entry.link.closed:
            return None
        collector = _Collector(entry.link)
        timer = self._gateway.wheel.call_later(CATALOGUE_SECONDS, collector.give_up)
        body = await collector.collected
        timer.cancel()
        if body is None or hashlib.sha256(body).hexdigest() != digest:
            self._log.warn(
                "device {name} gave no catalogue that fits its digest", name=entry.device.name
            )
            return None
        try:
            msgspec.json.decode(body, type=list[HandlerDescription])
        except msgspec.MsgspecError:
            self._log.warn("device {name} gave a malformed catalogue", name=entry.device.name)
            return None
        text = body.decode()
        await self._gateway.store.put_catalogue(digest, text)
        return text

    def _log_failure(self, failure: Failure) -> None:
        self._log.error("the store failed: {reason}", reason=failure.getErrorMessage())


class _Collector:
    """Asks a device for its catalogue and collects the bytes."""

    def __init__(self, link: LinkProtocol) -> None:
        self.collected: Deferred[bytes | None] = Deferred()
        self._data = bytearray()
        self._channel = StreamChannel(link, self)
        try:
            self._channel.request(Open(handler="catalogue", session=secrets.token_bytes(16)))
        except LocalProtocolError:
            self._done(None)

    def _done(self, body: bytes | None) -> None:
        if not self.collected.called:
            self.collected.callback(body)

    def give_up(self) -> None:
        """Wait no longer."""
        self._channel.reset(ErrorCode.TIMEOUT, "no catalogue in time")
        self._done(None)

    def channel_opened(self, opened: Opened) -> None:
        self._channel.loseConnection()

    def data_received(self, data: bytes, stderr: bool) -> None:
        self._data += data
        if len(self._data) > MAX_CATALOGUE_BYTES:
            self._channel.reset(ErrorCode.OVERLOAD, "too large a catalogue")

    def input_ended(self) -> None:
        pass

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome" and body.get("status") == "ok":
            self._done(bytes(self._data))

    def channel_closed(self, code: str, message: str) -> None:
        self._done(None)
