"""Operator certificates renew themselves: in the background of any command, never failing it."""

from __future__ import annotations

import base64
import fcntl
import os
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from rshell.client.profiles import Profile
from rshell.identity.authority import renewal_time
from rshell.identity.credentials import Credentials
from rshell.identity.keys import make_csr

__all__ = ["renew_when_due"]

_log = Logger()


class GatewayCaller(Protocol):
    """What a renewal needs of a client."""

    @property
    def gateway_time_ms(self) -> int:
        """The gateway's wall clock, milliseconds since 1970."""

    async def call_gateway(self, verb: str, request: Any = None) -> Any:
        """Ask the gateway."""


class _Renewed(msgspec.Struct, frozen=True):
    chain: str
    gateways: list[str] = msgspec.field(default_factory=list)


def renew_when_due(client: GatewayCaller, profile: Profile) -> Deferred[None] | None:
    """Renew the profile's certificate if two thirds of its life are over.

    Args:
        client: Connected.
        profile: Whose credentials are replaced on disk; the open link stays as it is.

    Returns:
        None if it is not due; else a Deferred that fires when it was tried.  It never fails.
    """
    now = datetime.fromtimestamp(client.gateway_time_ms / 1000, UTC)
    if now < renewal_time(profile.credentials.certificate):
        _confirm(profile)
        return None
    done: Deferred[None] = ensureDeferred(_renew(client, profile))
    done.addErrback(lambda failure: _log.warn("renewal failed: {reason}", reason=failure.value))
    return done


def _confirm(profile: Profile) -> None:
    """The credentials that count have just connected: forget the older ones."""
    try:
        if profile.store.previous() is not None:
            profile.store.confirm()
    except OSError as error:
        _log.warn("cannot tidy the profile: {reason}", reason=error)


async def _renew(client: GatewayCaller, profile: Profile) -> None:
    # Two commands at once must not both write the slot that does not count.
    lock = os.open(profile.directory / "renewal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        key = profile.store.pending_key()
        csr = base64.b64encode(make_csr(key)).decode("ascii")
        answer = msgspec.convert(await client.call_gateway("renew", {"csr": csr}), _Renewed)
        gateways = tuple(answer.gateways) or profile.credentials.gateways
        renewed = Credentials.new(
            key, answer.chain.encode("ascii"), profile.credentials.root_pem, gateways
        )
        if renewed.name != profile.credentials.name:
            raise ValueError("the renewed certificate names somebody else")
        profile.store.save(renewed)
    finally:
        os.close(lock)
