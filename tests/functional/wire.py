"""A client of the links port written from docs/protocol.md alone: TLS, frames, and bad manners."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

__all__ = ["ALPN", "Wire", "context"]

ALPN = "rshell/1"
HEADER = struct.Struct(">BBHI")
TYPES = {"HELLO": 1, "WELCOME": 2, "GOAWAY": 5, "OPEN": 16, "REFUSED": 18, "JOIN": 32}


def context(
    identity: Path | None = None, alpn: str | None = ALPN, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Return a client context that believes any gateway.

    Args:
        identity: A folder with chain.pem and key.pem; None presents no certificate.
        alpn: The protocol to ask for; None asks for none.
        version: The newest TLS version to offer.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if version is not None:
        made.maximum_version = version
    if alpn is not None:
        made.set_alpn_protocols([alpn])
    if identity is not None:
        made.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    return made


class Wire:
    """One connection; `peer` is how the gateway's log names it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket: socket.socket = socket.create_connection(address, 10)
        self.peer = "{}:{}".format(*self.socket.getsockname())
        self._received = b""

    def secure(self, made: ssl.SSLContext) -> Wire:
        """Shake hands; TLS 1.3 tells of a refusal at the first read only."""
        self.socket = made.wrap_socket(self.socket)
        return self

    def send(self, data: bytes) -> Wire:
        """Send as much as the gateway takes."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # it hung up meanwhile
        return self

    def frame(self, name: str, body: Any, stream: int = 0) -> Wire:
        """Send a frame with a JSON payload."""
        payload = json.dumps(body).encode()
        return self.send(HEADER.pack(TYPES[name], 0, len(payload), stream) + payload)

    def hello(self, **changes: Any) -> Wire:
        """Send a HELLO as a device does."""
        body = {
            "protocol": {"min": 1, "max": 1},
            "software": "test/1",
            "instance": b64encode(os.urandom(16)).decode(),
            "dial": 1,
            "features": [],
            "max_streams": 64,
            "window": 65536,
            "boot_id": "b",
            "link_generation": 0,
            "catalogue": "0" * 64,
            "policy": {"digest": "d", "error": None},
            "facts": {},
        }
        return self.frame("HELLO", {**body, **changes})

    def open(self, handler: str, stream: int = 1, **fields: Any) -> Wire:
        """Ask for a stream."""
        body = {
            "handler": handler,
            "session": b64encode(os.urandom(16)).decode(),
            "attempt": 1,
            "age_ms": 0,
            "request": {},
            "limit": 65536,
        }
        return self.frame("OPEN", {**body, **fields}, stream)

    def read_frame(self) -> tuple[int, Any]:
        """Return (type, decoded payload) of the next frame.

        Raises:
            EOFError: The gateway hung up instead.
        """
        kind, _, length, _ = HEADER.unpack(self._exactly(HEADER.size))
        payload = self._exactly(length)
        return kind, json.loads(payload) if payload[:1] == b"{" else payload

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            try:
                data = self.socket.recv(65536)
            except (ConnectionError, ssl.SSLError) as error:
                raise EOFError(str(error)) from None
            if not data:
                raise EOFError
            self._received += data
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def until_closed(self, seconds: float = 15) -> bytes:
        """Read until the gateway hangs up; return what it sent.

        Raises:
            TimeoutError: It did not hang up.
        """
        self.socket.settimeout(seconds)
        try:
            while data := self.socket.recv(65536):
                self._received += data
        except TimeoutError:
            raise
        except OSError:
            pass  # reset, or an alert
        self.socket.close()
        return self._received
