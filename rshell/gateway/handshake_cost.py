"""What one TLS handshake costs on this machine: measured at start, with our own certificates.

The result sets how many handshakes a second `rshell.gateway.admission` lets begin.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL

from rshell.gateway.admission import DEFAULT_RATE
from rshell.identity.authority import FleetKeys
from rshell.identity.keys import PrivateKey, new_key
from rshell.identity.tls import ALPN_LINK, GatewayTLS

__all__ = ["affordable_rate", "handshake_seconds"]

#: Of one core, for handshakes: the rest is for those who are in already.
SHARE = 0.75
#: Accepting, the objects, HELLO and WELCOME, rows, facts and flight record take twice as long as
#: the handshake alone (measured).  Believed to be less, a fleet returns faster than it is let in.
AROUND = 3.0
#: A machine so slow, or so busy at its start, still lets somebody in.
SLOWEST_RATE = 20.0
#: The first is slower (caches, lazy imports); the least of a few is what the machine can do.
ROUNDS = 8
_FLIGHT = 1 << 16


def affordable_rate(seconds: float) -> float:
    """Return handshakes a second from what OpenSSL needs for one.

    At least `DEFAULT_RATE` where a whole core does that, for a fleet that is out is worse than a
    gateway that is slow for a while.
    """
    whole = max(seconds, 1e-6) * AROUND
    return max(SLOWEST_RATE, SHARE / whole, min(DEFAULT_RATE, 1 / whole))


def handshake_seconds(
    tls: GatewayTLS,
    keys: FleetKeys,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds that the gateway's end of a mutual handshake takes, blocking for ~20 ms.

    Args:
        tls: The gateway's side.
        keys: Whose device CA signs a certificate for the occasion; its key is in no store, and
            is forgotten at once.
        rounds: How often; the least counts.
        clock: Seconds, precise.
    """
    key = new_key()
    now = datetime.now(UTC)
    context = _device_context(key, keys.issue_device(key.public_key(), str(uuid.uuid4()), now))
    return min(_one(tls, context, clock) for _ in range(rounds))


def _device_context(key: PrivateKey, certificate: x509.Certificate) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.set_alpn_protos([ALPN_LINK])
    return context


def _one(tls: GatewayTLS, context: SSL.Context, clock: Callable[[], float]) -> float:
    unused: Any = None
    device = SSL.Connection(context, None)
    device.set_connect_state()
    spent = 0.0
    began = clock()
    gateway = tls.serverConnectionForTLS(unused)
    gateway.set_accept_state()
    spent += clock() - began
    done = False
    while not done:
        device_done = _step(device)
        flight = _sent_by(device)
        began = clock()
        if flight:
            gateway.bio_write(flight)
        gateway_done = _step(gateway)
        answer = _sent_by(gateway)
        if gateway_done:
            tls.peer_of(gateway)
        spent += clock() - began
        if answer:
            device.bio_write(answer)
        done = device_done and gateway_done
        if not (done or flight or answer):
            raise SSL.Error([("rshell", "", "the handshake stands still")])
    return spent


def _step(connection: SSL.Connection) -> bool:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def _sent_by(connection: SSL.Connection) -> bytes:
    try:
        return bytes(connection.bio_read(_FLIGHT))
    except SSL.WantReadError:
        return b""
