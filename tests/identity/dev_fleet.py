"""The throw-away fleet of ``certs/make-dev``, made once per test run, and in-memory handshakes."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.protocols.tls import TLSMemoryBIOProtocol

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.tls import ClientTLS, GatewayTLS, JoinTLS

SCRIPT = Path(__file__).resolve().parents[2] / "certs" / "make-dev"
# creators get the protocol by interface but do not look at it
NO_PROTOCOL = cast(TLSMemoryBIOProtocol, None)


@cache
def make_dev() -> ModuleType:
    """Import the script as a module."""
    loader = SourceFileLoader("make_dev", str(SCRIPT))
    loader.path = str(SCRIPT)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def fleet() -> Any:
    """Return the one fleet of this run (a make-dev DevFleet)."""
    return make_dev().make_fleet(datetime.now(UTC))


def credentials(name: str) -> Credentials:
    """Return the credentials which the holder of a leaf would keep."""
    leaf = fleet().leaves[name]
    root = chain_to_pem((fleet().keys.root.certificate,))
    return Credentials.new(leaf.key, chain_to_pem(leaf.chain), root, ("localhost:7411",))


def gateway_tls(name: str = "gateway") -> GatewayTLS:
    """Return the server side for a leaf."""
    leaf = fleet().leaves[name]
    keys = fleet().keys
    return GatewayTLS(leaf.key, leaf.chain, keys.device.certificate, keys.operator.certificate)


def client_tls(name: str = "device-1", wall: float | None = None, **options: Any) -> ClientTLS:
    """Return the client side for a leaf; `wall` is its system clock, seconds since 1970."""
    clock = ClockFloor(None, wall=lambda: datetime.now(UTC).timestamp() if wall is None else wall)
    return ClientTLS(credentials(name), clock, **options)


@attrs.define
class Handshake:
    """Two OpenSSL connections joined in memory, and what each of them met."""

    client: SSL.Connection
    server: SSL.Connection
    client_error: SSL.Error | None = None
    server_error: SSL.Error | None = None

    def run(self) -> Handshake:
        """Carry bytes back and forth until both are done or one failed."""
        for _ in range(6):
            self.client_error = self.client_error or _step(self.client)
            _carry(self.client, self.server)
            self.server_error = self.server_error or _step(self.server)
            _carry(self.server, self.client)
        return self


def shake(client: ClientTLS | JoinTLS | SSL.Context, server: GatewayTLS | SSL.Context) -> Handshake:
    """Let a client and a server meet."""
    if isinstance(client, SSL.Context):
        client_connection = SSL.Connection(client, None)
    else:
        client_connection = client.clientConnectionForTLS(NO_PROTOCOL)
    if isinstance(server, SSL.Context):
        server_connection = SSL.Connection(server, None)
    else:
        server_connection = server.serverConnectionForTLS(NO_PROTOCOL)
    client_connection.set_connect_state()
    server_connection.set_accept_state()
    return Handshake(client_connection, server_connection).run()


def _step(connection: SSL.Connection) -> SSL.Error | None:
    """Handshake and read, for alerts arrive after a TLS 1.3 client is done."""
    try:
        connection.do_handshake()
        connection.recv(1)
    except SSL.WantReadError:
        return None
    except SSL.Error as error:
        return error
    return None


def _carry(source: SSL.Connection, target: SSL.Connection) -> None:
    while True:
        try:
            target.bio_write(source.bio_read(65536))
        except SSL.WantReadError:
            return
