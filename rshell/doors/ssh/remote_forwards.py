"""Global requests, of which ``ssh -R`` is made (RFC 4254 section 7.1, OpenSSH's PROTOCOL 2.4).

The device listens: one stream of its handler ``forward`` holds each place, as with ``rshell
forward -R``, so roles (``--forward-back``) and the device's policy decide where.  Each connection
that comes there is taken over by a stream of its own, once the client has opened its channel::

    client -- tcpip-forward --> RemoteForwards -- listen --> device
    client <-- forwarded-tcpip -- ForwardedChannel <-- "connection" -- device
    client -- confirmation --> ForwardedChannel -- accept --> device

Answers to global requests come in the order of the requests, so one waits for the other.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.doors.local import DoorSession
from rshell.doors.ssh.channel import DoorChannel
from rshell.doors.ssh.connection import MAX_FORWARDS, Connection
from rshell.doors.ssh.visit import NoDestination, Visit
from rshell.doors.ssh.wire import BadPacket, Fields
from rshell.handlers import Outcome
from rshell.handlers.forward import CONNECTION, LISTENING, PendingConnection
from rshell.link.core.errors import ErrorCode

__all__ = ["RemoteForwards"]

#: Of one connection; a device has 32 for all.
MAX_LISTENERS = 16
#: Requests that wait for the answer to another one, of a client that sends all it has.
MAX_WAITING = 64
#: Connections that wait at the device until a channel is free, as many as it keeps.
MAX_PENDING = 256

_LISTEN = {
    b"tcpip-forward": False,
    b"streamlocal-forward@openssh.com": True,
}
_CANCEL = {
    b"cancel-tcpip-forward": False,
    b"cancel-streamlocal-forward@openssh.com": True,
}


@attrs.frozen
class _Place:
    """Where a client wants the device to listen: ``host`` as it was written, or a path."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def read(cls, fields: Fields, *, socket: bool) -> _Place:
        if socket:
            return cls("", 0, fields.text(255))
        return cls(fields.text(280), fields.number())

    @property
    def request(self) -> dict[str, Any]:
        if self.path:
            return {"path": self.path}
        # RFC 4254 section 7.1: an empty one stands for all addresses.
        return {"host": self.host or "*", "port": self.port}

    def __str__(self) -> str:
        return printable(self.path or f"{self.host or '*'}:{self.port}", 120)


@attrs.frozen
class _Asked:
    """A global request that waits for its turn."""

    kind: bytes
    wants_reply: bool
    place: _Place | None


class RemoteForwards:
    """The global requests of one connection, and where its device listens.

    Args:
        connection: Carries it.
        visit: To which device, within which limits.
    """

    def __init__(self, connection: Connection, visit: Visit) -> None:
        self._connection = connection
        self.visit = visit
        self._waiting: deque[_Asked] = deque()
        self._answering: _Asked | None = None
        self._listeners: list[_Listener] = []
        self._pending: deque[tuple[_Listener, PendingConnection]] = deque()
        self._channels: set[ForwardedChannel] = set()
        self._stopped = False

    def asked(self, kind: bytes, wants_reply: bool, fields: Fields) -> None:
        """Answer a request, now or in its turn.

        Raises:
            BadPacket: It is malformed, or too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise BadPacket("too many requests at once")
        place = None
        if kind in _LISTEN or kind in _CANCEL:
            place = _Place.read(fields, socket=bool(_LISTEN.get(kind) or _CANCEL.get(kind)))
        self._waiting.append(_Asked(kind, wants_reply, place))
        self._next()

    def stop(self) -> None:
        """The connection is gone: listen no more."""
        self._stopped = True
        self._waiting.clear()
        self._pending.clear()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.stop()

    # -- one after the other ---------------------------------------------------------------------

    def _next(self) -> None:
        while self._waiting and self._answering is None and not self._stopped:
            self._answering = asked = self._waiting.popleft()
            if asked.place is None:
                self._answer(None)  # a keep-alive wants any answer
            elif asked.kind in _LISTEN:
                self._listen(asked.place)
            else:
                self._cancel(asked.place)

    def _answer(self, data: bytes | None) -> None:
        """Answer what is being answered: with data if it was done, None if not."""
        asked, self._answering = self._answering, None
        if asked is not None and asked.wants_reply and not self._stopped:
            self._connection.send_answer(data)

    def _refuse(self, place: _Place, why: str) -> None:
        self._connection.notice(f"-R {place} is refused: {why}")
        self._answer(None)

    def _listen(self, place: _Place) -> None:
        if place.port > 65535:
            self._refuse(place, "there is no such port")
        elif not self.visit.limits.forwarding:
            self._refuse(place, "your certificate does not permit port forwarding")
        elif len(self._listeners) >= MAX_LISTENERS:
            self._refuse(place, f"{MAX_LISTENERS} places at most for one connection")
        else:
            listener = _Listener(self, place)
            self._listeners.append(listener)
            try:
                listener.start()
            except NoDestination as error:
                self._listeners.remove(listener)
                self._refuse(place, str(error))

    def _cancel(self, place: _Place) -> None:
        found = next((one for one in self._listeners if one.is_at(place)), None)
        if found is not None:
            # What it brought goes on, as with sshd.
            self._listeners.remove(found)
            found.stop()
            self._pending = deque(one for one in self._pending if one[0] is not found)
        self._answer(None if found is None else b"")

    # -- from listeners --------------------------------------------------------------------------

    def listening(self, listener: _Listener, port: int) -> None:
        """The device listens."""
        asked_for_any = not listener.place.path and listener.place.port == 0
        self._answer(struct.pack(">L", port) if asked_for_any else b"")
        self._next()

    def said(self, listener: _Listener, message: str) -> None:
        """The gateway says something about one, such as that its time is nearly up."""
        self._connection.notice(f"-R {listener.place}: {message}")

    def over(self, listener: _Listener, outcome: Outcome) -> None:
        """The device does not listen, or not any more."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        why = printable(outcome.message or outcome.code or outcome.status, 300)
        if listener.told:
            # A client without a session would wait for ever, and has no other way to hear of it.
            self._connection.notice(
                f"{printable(self.visit.device)} listens no more at {listener.place}: {why}",
                or_end=True,
            )
        elif outcome.code == ErrorCode.OFFLINE:
            self._away(why)
        else:
            self._refuse(listener.place, why)
            self._next()

    def _away(self, why: str) -> None:
        """The device is away: a client that wants nothing but ``-R`` is told so by the end."""
        self._connection.notice(f"-R is refused: {why}", or_end=True)
        self._answer(None)
        self._next()

    def arrived(self, listener: _Listener, pending: PendingConnection) -> None:
        """Somebody connected at the device."""
        if len(self._pending) < MAX_PENDING:
            self._pending.append((listener, pending))
            self._open_more()
        else:
            self._drop(pending)

    def _open_more(self) -> None:
        while self._pending and len(self._channels) < MAX_FORWARDS and not self._stopped:
            listener, pending = self._pending.popleft()
            channel = ForwardedChannel(self._connection, self, pending)
            self._channels.add(channel)
            kind, data = listener.announcement(pending)
            self._connection.open_channel(channel, kind, data)

    def channel_over(self, channel: ForwardedChannel, *, taken: bool) -> None:
        """A channel is closed, or the client wanted none."""
        if channel in self._channels:
            self._channels.remove(channel)
            if not taken:
                self._drop(channel.pending)
            self._open_more()

    def _drop(self, pending: PendingConnection) -> None:
        """Have the device end a connection; it does by itself, half a minute later."""
        if self._stopped:
            return  # it ends with its listener
        try:
            request = {"accept": pending.id, "drop": True}
            self.visit.open("forward", request, _Nobody()).start()
        except NoDestination:
            pass


class _Nobody:
    """Wants nothing of what a session tells."""

    def session_opened(self) -> None:
        """Nothing."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Nothing."""

    def output_ended(self) -> None:
        """Nothing."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Nothing."""

    def link_changed(self, away: str | None) -> None:
        """Nothing."""

    def notice_received(self, message: str) -> None:
        """Nothing."""

    def session_ended(self, outcome: Outcome) -> None:
        """Nothing."""


class _Listener(_Nobody):
    """One place where the device listens for this connection.

    Attributes:
        told: Whether the client was told that it does.
    """

    def __init__(self, owner: RemoteForwards, place: _Place) -> None:
        self.place = place
        self.told = False
        self._owner = owner
        self._port = place.port
        self._session: DoorSession | None = None

    def start(self) -> None:
        """Ask the device.

        Raises:
            NoDestination: There is none.
        """
        request = {"listen": self.place.request}
        self._session = self._owner.visit.open("forward", request, self)
        self._session.start()

    def stop(self) -> None:
        """Have the device listen no more."""
        session, self._session = self._session, None
        if session is not None:
            session.abort("the operator cancelled it")

    def is_at(self, place: _Place) -> bool:
        """Whether a client means this one: by what it asked for, or the port that it was told."""
        mine = self.place
        same = (mine.host, mine.path) == (place.host, place.path)
        return same and place.port in (mine.port, self._port)

    def announcement(self, pending: PendingConnection) -> tuple[bytes, bytes]:
        """Return the type of a connection's channel, and its fields."""
        if self.place.path:
            return b"forwarded-streamlocal@openssh.com", _string(self.place.path) + _string("")
        # The client knows it by what it asked for, not by the address that was connected to.
        fields = _string(self.place.host) + struct.pack(">L", self._port)
        peer = _string(printable(pending.host, 64)) + struct.pack(">L", pending.port)
        return b"forwarded-tcpip", fields + peer

    # -- EndReceiver -----------------------------------------------------------------------------

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        if kind == LISTENING and not self.told:
            self.told = True
            port = body.get("port")
            if type(port) is int and 0 < port <= 65535:
                self._port = port
            self._owner.listening(self, self._port)
        elif kind == CONNECTION and self.told:
            pending = PendingConnection.read(body)
            if pending is not None:
                self._owner.arrived(self, pending)

    def notice_received(self, message: str) -> None:
        self._owner.said(self, message)

    def session_ended(self, outcome: Outcome) -> None:
        self._session = None
        self._owner.over(self, outcome)


class ForwardedChannel(DoorChannel):
    """One connection that came at the device, on its way to the client.

    Args:
        connection: Carries it.
        owner: Is told its end.
        pending: By what the device knows it.
    """

    kind = "forwarded"
    opened_here = True

    def __init__(
        self, connection: Connection, owner: RemoteForwards, pending: PendingConnection
    ) -> None:
        super().__init__(connection)
        self.pending = pending
        self._owner = owner
        self._taken = False

    def open(self) -> None:
        """The client has its end: take the device's over."""
        self.confirmed = self._taken = True
        try:
            session = self._owner.visit.open("forward", {"accept": self.pending.id}, self)
        except NoDestination:
            self.finish()
        else:
            self._join(session)

    def refused(self) -> None:
        """The client wants none."""
        self.closed = True

    def gone(self) -> None:
        self._owner.channel_over(self, taken=self._taken)

    # -- EndReceiver -----------------------------------------------------------------------------

    def output_ended(self) -> None:
        self._end_output()

    def session_ended(self, outcome: Outcome) -> None:
        self._session = None
        self.finish()


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack(">L", len(data)) + data
