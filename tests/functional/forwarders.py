"""What tests of ``rshell forward`` share: servers to connect to, and the command itself."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import Program, until

__all__ = ["Forwarder", "Server", "connect", "digest", "echo", "receive", "report", "talk"]

#: No test waits longer for one byte.
SECONDS = 60.0


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def receive(connection: socket.socket) -> bytes:
    """Read to the end."""
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
    return bytes(data)


def echo(connection: socket.socket) -> None:
    """Send back what comes, as it comes."""
    while piece := connection.recv(1 << 16):
        connection.sendall(piece)


def report(connection: socket.socket) -> None:
    """Read to the end; only then answer with the digest, and all of it back."""
    data = receive(connection)
    connection.sendall(digest(data) + data)


class Server:
    """Serves each connection in a thread; at a port of loopback, or at a path.

    Attributes:
        accepted: How many came.
        errors: What went wrong in them.
    """

    def __init__(
        self, case: FleetCase, serve: Callable[[socket.socket], None], path: str = ""
    ) -> None:
        self.accepted = 0
        self.errors: list[OSError] = []
        self._serve = serve
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(256)
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = 0 if path else self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        case.addCleanup(self.close)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.accepted += 1
            connection.settimeout(SECONDS)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._serve(connection)
            except OSError as error:
                self.errors.append(error)

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up accept(2)
        except OSError:
            pass
        self._listener.close()


def connect(place: int | str) -> socket.socket:
    """Connect to a port of loopback or to a path."""
    if isinstance(place, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(place)
        return connection
    return socket.create_connection(("127.0.0.1", place), SECONDS)


def talk(place: int | str, data: bytes) -> bytes:
    """Send all of it and its end, then read all of the answer."""
    with connect(place) as connection:
        sender = threading.Thread(target=_send, args=(connection, data), daemon=True)
        sender.start()
        answer = receive(connection)
        sender.join(SECONDS)
        return answer


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


class Forwarder:
    """``rshell forward --json`` as it runs.

    Args:
        case: The test.
        fleet: Where.
        arguments: After ``forward``: options, the device, and so many SPECs.
        cli: Returns the command line of an ``rshell``.
        specs: How many SPECs there are.
    """

    def __init__(
        self,
        case: FleetCase,
        fleet: Fleet,
        *arguments: str,
        cli: Callable[..., list[str | bytes]] | None = None,
        specs: int = 1,
    ) -> None:
        self._out = Path(case.mktemp())
        with self._out.open("wb") as stdout:
            self.program: Program = fleet.start(
                (cli or fleet.cli)("forward", "--json", *arguments), stdout=stdout.fileno()
            )
        case.addCleanup(self.program.kill)
        until(lambda: len(self._listening()) == specs or self._ended(), "it listens", 40)
        self.places = [row["listening"] for row in self._listening()]

    @property
    def port(self) -> int:
        return int(self.places[0]["port"])

    def rows(self) -> list[dict[str, Any]]:
        """Return what it said so far."""
        lines = self._out.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    def _listening(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if "listening" in row]

    def _ended(self) -> bool:
        return self.program.process.poll() is not None

    def ended(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it told the end of so many connections, and return what it said of them."""

        def found() -> list[dict[str, Any]]:
            return [row["ended"] for row in self.rows() if "ended" in row]

        until(lambda: len(found()) >= count, lambda: f"{count} ended: {self.rows()}")
        return found()

    def stop(self, number: int = 2) -> int:
        """Send a signal and return the exit status."""
        self.program.process.send_signal(number)
        return self.program.finish().status
