"""TLS and nothing else: what a live connection costs before anybody knows whose it is.

Servers that ask for a client's certificate and then keep the connection: one in Twisted, with the
class that a user of it would take, nginx, and stunnel, which has a thread and a second, plain
connection for each.  As a program this is the first of them:
``python -m benchmarks.contestants.bare_tls PORT DIR``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.protocol import Factory, Protocol

from benchmarks.contestants import nginx, stunnel
from benchmarks.contestants.openssh import free_port
from benchmarks.machine import ROOT
from benchmarks.proc import listening
from tests.functional.processes import die_with_us, end, environment, until

__all__ = ["NGINX", "STUNNEL", "TWISTED", "BareTls", "missing"]

TWISTED, NGINX = "limit: TLS alone, Twisted", "limit: TLS alone, nginx"
STUNNEL = "limit: TLS alone, stunnel"
#: Connections that the kernel keeps for whoever is behind stunnel and never takes one.
_BACKLOG = 4_096


class BareTls:
    """A server and the idle connections to it.

    Args:
        base: gets a directory of its own.
        who: `TWISTED`, `NGINX` or `STUNNEL`.
    """

    def __init__(self, base: Path, who: str) -> None:
        self.base = base / f"tls-{who.rpartition(' ')[2].lower()}"
        self.base.mkdir(mode=0o755)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=peer", "-keyout", str(self.base / "key"),
             "-out", str(self.base / "cert")],
            check=True, capture_output=True,
        )  # fmt: skip
        self._port = free_port()
        self._behind: socket.socket | None = None
        words = {NGINX: self._nginx, STUNNEL: self._stunnel, TWISTED: self._twisted}[who]()
        environ = environment(self.base)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT)
        with (self.base / "log").open("ab") as log:
            self.server = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
            )
        self._connections: list[tuple[SSL.Connection, socket.socket]] = []
        until(lambda: listening(self._port), self._told, 30)

    def _told(self) -> str:
        return (self.base / "log").read_text(errors="replace")[-1000:]

    def _twisted(self) -> list[str]:
        return [sys.executable, "-P", "-m", __name__, str(self._port), str(self.base)]

    def _nginx(self) -> list[str]:
        user = "user root;" if os.geteuid() == 0 else ""
        (self.base / "conf").write_text(f"""
{user} worker_rlimit_nofile 20000;
daemon off; master_process off; pid {self.base}/pid; error_log stderr;
events {{ worker_connections 10000; }}
http {{
  access_log off; client_header_timeout 1h;
  server {{
    listen 127.0.0.1:{self._port} ssl;
    ssl_certificate {self.base}/cert; ssl_certificate_key {self.base}/key;
    ssl_protocols TLSv1.3; ssl_session_tickets off;
    ssl_verify_client on; ssl_client_certificate {self.base}/cert;
  }}
}}
""")
        return [nginx.program(), "-p", str(self.base), "-c", str(self.base / "conf")]

    def _stunnel(self) -> list[str]:
        self._behind = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        config = self.base / "conf"
        config.write_text(f"""{stunnel.HEAD}
[links]
accept = 127.0.0.1:{self._port}
connect = 127.0.0.1:{self._behind.getsockname()[1]}
cert = {self.base}/cert
key = {self.base}/key
CAfile = {self.base}/cert
verifyChain = yes
""")
        return [stunnel.program(), str(config)]

    def connect(self, count: int) -> None:
        """Open so many connections, one after the other, each with a full handshake."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.use_certificate_file(str(self.base / "cert"))
        context.use_privatekey_file(str(self.base / "key"))
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", self._port))
            connection = SSL.Connection(context, sock)
            connection.set_connect_state()
            connection.do_handshake()
            self._connections.append((connection, sock))

    def pids(self) -> list[int]:
        """Return the server."""
        return [self.server.pid]

    def close(self) -> None:
        """End all."""
        for _, sock in self._connections:
            sock.close()
        self._connections.clear()
        end(self.server, 5)
        if self._behind is not None:
            self._behind.close()

    def remove(self) -> None:
        """End all, and remove its directory: another one may be made in its place."""
        self.close()
        shutil.rmtree(self.base, ignore_errors=True)


def missing(who: str) -> str:
    """Return why one of them cannot take part, or an empty string."""
    return {NGINX: nginx.missing, STUNNEL: stunnel.missing}.get(who, str)()


def main(arguments: list[str]) -> None:
    """Be the server in Twisted."""
    from twisted.internet import reactor

    port, base = int(arguments[0]), Path(arguments[1])
    pem = (base / "cert").read_bytes()
    key = ssl.KeyPair.load((base / "key").read_bytes(), crypto.FILETYPE_PEM)
    certificate = ssl.PrivateCertificate.fromCertificateAndKeyPair(
        ssl.Certificate.loadPEM(pem), key
    )
    factory = Factory.forProtocol(Protocol)
    options = certificate.options(ssl.Certificate.loadPEM(pem))
    loop: Any = reactor
    loop.listenSSL(port, factory, options, backlog=1000, interface="127.0.0.1")
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])
