"""AuditShipper: every row of the audit log also goes to a syslog, by datagrams.

There is no queue to overflow: rows are read from the log by number, and the number of the last one
that was sent is kept in ``HOME/audit.shipped``.  A syslog that is away for a week gets the week.
What it never does is wait: a datagram that is not taken at once is tried again a second later.

A unix socket says at once that nobody takes a datagram.  Over UDP the host there says so (ICMP port
unreachable) by the time that the next one is sent, so the last that was sent goes out once more;
of a host or a network that says nothing, nothing can be known.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.syslog import syslog_line
from rshell.identity.files import write_atomic
from rshell.link.clock import WheelTimer
from rshell.store.errors import StoreError
from rshell.store.records import AuditFilter

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["AuditShipper", "parse_target"]

#: Rows in one turn of the reactor: some 3 ms.
BATCH = 200
RETRY_SECONDS = 1.0
#: How often the place is noted at most; after a crash so much is sent twice.
NOTE_SECONDS = 5.0

Target = tuple[int, str | tuple[str, int]]


def parse_target(text: str) -> Target:
    """Return address family and address of ``unix:PATH`` or ``udp:ADDRESS:PORT``.

    Raises:
        ValueError: It is neither; the text is for whoever wrote it.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return socket.AF_UNIX, rest
    if kind == "udp":
        host, _, port = rest.rpartition(":")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise ValueError(f"{host!r} is no address: names are not looked up here") from None
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(f"{port!r} is no port")
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return family, (str(address), int(port))
    raise ValueError(f"{text!r} is neither unix:/PATH nor udp:ADDRESS:PORT")


class AuditShipper:
    """Sends rows.

    Args:
        gateway: Whose.
        target: See `parse_target`.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway, target: str) -> None:
        self._gateway = gateway
        self._family, self._address = parse_target(target)
        self._target = target
        self._note: Path = gateway.home.path / "audit.shipped"
        self._socket: socket.socket | None = None
        #: Datagrams that the socket took, and whether it says of one only later that it is lost.
        self._taken = 0
        self._late = self._family != socket.AF_UNIX
        self._sent = 0
        #: Where we were before the last datagram, which the network may yet give back.
        self._before = 0
        self._noted = 0
        self._next_note = 0.0
        self._busy = False
        self._again: WheelTimer | None = None
        self._complained = False
        self._stopped = False

    async def start(self) -> None:
        """Go on behind the last row that was sent; the first time, behind the newest."""
        try:
            self._sent = int(self._note.read_text())
        except (OSError, ValueError):
            self._sent, _ = await self._gateway.store.audit_head()
        self._noted = self._before = self._sent
        self._gateway.audit_feed.followers.append(lambda _newest: self._go())
        self._go()

    async def stop(self) -> None:
        """Send what is left, if it is taken at once, and note the place."""
        if self._again is not None:
            self._again.cancel()
        if not self._busy:
            try:
                await self._ship()
            except (StoreError, OSError):
                pass  # the next start goes on where this one was
        self._stopped = True
        self._write_note()
        if self._socket is not None:
            self._socket.close()

    def _go(self) -> None:
        if self._busy or self._stopped or self._again is not None:
            return
        self._busy = True
        Deferred.fromCoroutine(self._ship()).addBoth(self._shipped)

    async def _ship(self) -> None:
        """Send rows until there are none.

        Raises:
            OSError: The syslog takes none now.
            StoreError: The log cannot be read.
        """
        from rshell.gateway.audit_services import row_fields

        while not self._stopped:
            rows, through = await self._gateway.store.audit_following(
                AuditFilter(), after=self._sent, limit=BATCH
            )
            for row in rows:
                fields = {**row_fields(row), "hash": row.hash.hex()}
                line = syslog_line(fields, self._gateway.name, os.getpid())
                self._send(line.encode())
                self._before, self._sent = self._sent, row.seq
            self._sent = max(self._sent, through)
            if len(rows) < BATCH:
                return

    def _send(self, line: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._taken = 0
        try:
            if self._taken == 0:  # else the kernel keeps it to itself that nobody is there
                self._socket.connect(self._address)
            self._socket.send(line)
        except OSError as error:
            self._socket.close()
            self._socket = None
            if self._late and isinstance(error, ConnectionRefusedError):
                self._sent = self._before  # it is the datagram before this one that was refused
            raise
        self._taken += 1

    def _shipped(self, result: object) -> None:
        self._busy = False
        if isinstance(result, Failure):
            if not result.check(OSError, StoreError):
                self._log.failure("rows cannot be sent to the syslog", result)
            elif not self._complained:
                self._log.warn(
                    "{target} takes no audit rows: {why}; they are sent when it does",
                    target=self._target,
                    why=result.getErrorMessage(),
                )
            self._complained = True
            if not self._stopped:
                self._again = self._gateway.wheel.call_later(RETRY_SECONDS, self._retry)
            return
        # The first over a new UDP socket proves nothing.
        self._complained = self._complained and self._late and self._taken < 2
        if self._gateway.wheel.seconds() >= self._next_note:
            self._next_note = self._gateway.wheel.seconds() + NOTE_SECONDS
            self._write_note()

    def _retry(self) -> None:
        self._again = None
        self._go()

    def _write_note(self) -> None:
        if self._noted == self._sent:
            return
        try:
            write_atomic(self._note, f"{self._sent}\n".encode())
        except OSError as error:
            self._log.warn("{path}: {why}", path=str(self._note), why=str(error))
        else:
            self._noted = self._sent
