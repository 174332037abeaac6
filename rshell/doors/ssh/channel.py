"""One channel of an SSH connection, joined to one session on a device.

Both directions are bounded::

    client -- window --> write -- credit returns when the device's link took it
    client <-- window -- queue <-- delivery is paused while anything waits in the queue
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rshell.doors.local import DoorSession
from rshell.doors.ssh.wire import Fields
from rshell.handlers import Outcome

if TYPE_CHECKING:
    from rshell.doors.ssh.connection import Connection

__all__ = ["DoorChannel"]

#: What a client may be ahead of the device: 100 Mbit/s at 80 ms.
LOCAL_WINDOW = 1024 * 1024
#: OpenSSH's own.
MAX_PACKET = 32 * 1024
#: Credit is told in steps: each costs a packet.  An eighth of the window keeps a client going.
CREDIT_STEP = 128 * 1024


@implementer(IPushProducer)
class DoorChannel:
    """What all kinds of channels share; each overrides what its session tells it.

    Args:
        connection: Carries it.

    Attributes:
        id, remote_id: Our number and the peer's.
        window, max_packet: What the peer was offered.
        local_window: What the peer may still send.
        remote_window: What we may still send.
        confirmed: Whether the peer was told that it is open.
        closed: Whether this side was closed.
        kind: ``session``, ``forward`` (to the device) or ``forwarded`` (from it).
        opened_here: Whether we asked the peer for it.
    """

    kind = "forward"
    opened_here = False

    def __init__(self, connection: Connection) -> None:
        self.id = self.remote_id = 0
        self.window = self.local_window = LOCAL_WINDOW
        self.max_packet = MAX_PACKET
        self.remote_window = 0
        self.confirmed = False
        self.closed = False
        self._connection = connection
        self._packet = MAX_PACKET
        self._session: DoorSession | None = None
        self._queue: deque[tuple[bytes, bool]] = deque()
        #: Bytes of the queue's first that were sent.
        self._sent = 0
        self._held = False
        self._output_ends = self._output_ended = False
        #: Whether the client's CLOSE waits for ours.
        self._peer_closed = False
        #: What follows the last byte: requests, then the end of this side.
        self._last: list[tuple[bytes, bytes]] | None = None
        self._uncredited = 0
        self._device_ready = False
        self._input_paused = False
        self._input_ended = False

    def use(self, window: int, max_packet: int) -> None:
        """Note what the peer offered."""
        self.remote_window = window
        self._packet = min(max_packet, MAX_PACKET)

    @abstractmethod
    def open(self) -> None:
        """The peer asked for it: confirm, now or later; or it has confirmed ours."""

    def refused(self) -> None:
        """The peer does not open what we asked for."""

    def _confirm(self) -> None:
        self.confirmed = True
        self._connection.confirm(self)

    def _join(self, session: DoorSession) -> None:
        """Use a session of a device."""
        self._session = session
        session.start()
        session.registerProducer(self, True)

    # -- towards the device ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the client, within the window."""
        self.local_window -= len(data)
        self._uncredited += len(data)
        if self._session is not None and not (self._input_ended or self.closed):
            self._session.write(data)
        self._credit()

    def dropped(self, size: int) -> None:
        """Bytes from the client that mean nothing."""
        self.local_window -= size
        self._uncredited += size
        self._credit()

    def _credit(self) -> None:
        waits = self._session is not None and (self._input_paused or not self._device_ready)
        if not waits and self._uncredited >= CREDIT_STEP and not self.closed:
            size, self._uncredited = self._uncredited, 0
            self.local_window += size
            self._connection.send_credit(self, size)

    def pauseProducing(self) -> None:
        self._input_paused = True

    def resumeProducing(self) -> None:
        self._input_paused = False
        self._credit()

    def stopProducing(self) -> None:
        """The session is over; what the client still sends is dropped."""
        self._input_ended = True
        self._input_paused = False
        self._credit()

    def eof_received(self) -> None:
        """The client sends no more."""
        if not self._input_ended and self._session is not None:
            self._session.unregisterProducer()
            self._session.write_eof()
        self._input_ended = True

    # -- towards the client ----------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether output waits for room."""
        return bool(self._queue)

    def send(self, data: bytes, *, stderr: bool = False) -> None:
        """Send bytes as soon as there is room; meanwhile the device's delivery is paused."""
        if self.closed or not data:
            return
        self._queue.append((data, stderr))
        self.flush()
        if self._queue and not self._held and self._session is not None:
            self._held = True
            self._session.pause()

    def window_added(self, size: int) -> None:
        """The client has room for more."""
        self.remote_window += size
        self.flush()

    def flush(self) -> None:
        """Send what may be sent now."""
        transport = self._connection.transport
        while self._queue and self.remote_window > 0 and not transport.blocked:
            data, stderr = self._queue[0]
            begin = self._sent
            size = min(len(data) - begin, self.remote_window, self._packet)
            if begin + size < len(data):
                self._sent = begin + size
            else:
                self._sent = 0
                self._queue.popleft()
            self.remote_window -= size
            part = memoryview(data)[begin : begin + size]
            self._connection.send_data(self, part, stderr=stderr)
        if self._queue or self.closed:
            return
        if self._output_ends and not self._output_ended:
            self._output_ended = True
            self._connection.send_end(self)
        if self._last is not None:
            self._finish_now(self._last)
        elif self._held and self._session is not None:
            self._held = False
            self._session.resume()

    def finish(self, *requests: tuple[bytes, bytes]) -> None:
        """Once all was sent, send these requests and close."""
        if self._last is None and not self.closed:
            self._last = list(requests)
            self.flush()

    def _finish_now(self, requests: list[tuple[bytes, bytes]]) -> None:
        self.closed = True
        for kind, data in requests:
            self._connection.send_request(self, kind, data)
        if not self._output_ended:
            self._connection.send_end(self)
        self._connection.send_close(self)
        if self._peer_closed:
            self._connection.forget(self)

    def _end_output(self) -> None:
        """Say that no byte follows, once all was sent; the other direction goes on."""
        self._output_ends = True
        self.flush()

    def tell(self, text: str) -> bool:
        """Tell the person at the client something of ours; return whether they can be told."""
        return False

    # -- requests and the end --------------------------------------------------------------------

    def request_received(self, kind: bytes, fields: Fields) -> bool:
        """Do what the client asks of this channel; return whether it was done."""
        return False

    def close_received(self) -> bool:
        """The client closed it; return whether its number is free.

        A forwarded connection of which both directions have ended is closed when the device has
        taken all of it, and not before: our CLOSE says that nothing is left to do.
        """
        session = self._session
        ended = self._input_ended and self._output_ended
        if session is not None and ended and not self.closed and self.kind != "session":
            self._peer_closed = True
            return False
        self._session = None
        self._queue.clear()
        self._sent = 0
        if not self.closed:
            self.closed = True
            self._connection.send_close(self)
        if session is not None:
            session.abort("the operator closed the channel")
        return True

    def gone(self) -> None:
        """Its number is free: nothing follows."""

    def connection_lost(self, *, on_purpose: bool) -> None:
        """The connection is gone."""
        session, self._session = self._session, None
        self.closed = True
        self._queue.clear()
        self._sent = 0
        if session is None:
            return
        if on_purpose or not self.survives:
            session.abort("the operator left")
        else:
            session.detach()

    @property
    def survives(self) -> bool:
        """Whether what runs on the device goes on when the connection breaks."""
        return False

    # -- EndReceiver -----------------------------------------------------------------------------

    def session_opened(self) -> None:
        self._device_ready = True
        self._credit()

    def output_received(self, data: bytes, stderr: bool) -> None:
        self.send(data, stderr=stderr)

    def output_ended(self) -> None:
        """Each kind has its own."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Likewise."""

    def link_changed(self, away: str | None) -> None:
        """Likewise."""

    def notice_received(self, message: str) -> None:
        self.tell(message)

    @abstractmethod
    def session_ended(self, outcome: Outcome) -> None:
        """Likewise."""
