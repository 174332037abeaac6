"""``ssh-connection`` (RFC 4254), as a server: channels, their windows, and what is refused.

conch's own gives credit before anybody has taken the bytes, buffers output without a limit, and
shows a traceback for what a peer mistypes; it is replaced, not patched.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.conch.ssh.service import SSHService

from rshell.doors.ssh.channel import DoorChannel
from rshell.doors.ssh.transport import QuietLogger, SshTransport
from rshell.doors.ssh.wire import BadPacket, Fields
from rshell.gateway.callers import Caller
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway

__all__ = ["ChannelRefused", "Connection", "MakeChannel"]

#: Of one connection, as OpenSSH's MaxSessions; ``ssh -M`` and Ansible share one.
MAX_CHANNELS = 10
#: Forwarded connections are many and short: a browser opens dozens.
MAX_FORWARDS = 256
#: Smaller packets than any client asks for would make us send one byte at a time.
MIN_PACKET = 256
_MAX_WINDOW = 2**32 - 1
#: What is to be told once somebody has a standard error; more than this nobody reads.
MAX_NOTICES = 8

_USERAUTH_LAST = 79
_DEBUG = 4
_GLOBAL_REQUEST, _REQUEST_SUCCESS, _REQUEST_FAILURE = 80, 81, 82
_OPEN, _CONFIRMATION, _OPEN_FAILURE = 90, 91, 92
_ADJUST, _DATA, _EXTENDED_DATA, _EOF, _CLOSE, _REQUEST = 93, 94, 95, 96, 97, 98
_SUCCESS, _FAILURE = 99, 100

PROHIBITED, CONNECT_FAILED, UNKNOWN_TYPE, SHORTAGE = 1, 2, 3, 4


class ChannelRefused(Exception):
    """A channel cannot be opened.

    Attributes:
        reason: RFC 4254 section 5.1.
        message: For people.
    """

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


#: (connection, type, its own fields) -> a channel that was not opened yet; may raise
#: `ChannelRefused` or `BadPacket`.
MakeChannel = Callable[["Connection", bytes, Fields], DoorChannel]


class GlobalRequests(Protocol):
    """Answers what is asked of a connection as such."""

    def asked(self, kind: bytes, wants_reply: bool, fields: Fields) -> None:
        """Answer by `Connection.send_answer`, in the order of the requests."""

    def stop(self) -> None:
        """The connection is gone."""


class Connection(SSHService):
    """The channels of one operator's SSH connection.

    Args:
        caller: Who came in.
        make: Makes a channel of a type.

    Attributes:
        caller: Likewise.
        transport: What carries it.
        requests: Answers global requests; without it all are refused.
        opened: Called with the kind of each channel that is opened; "" if it is refused.
    """

    name = b"ssh-connection"
    _log: Any = QuietLogger()
    transport: SshTransport

    def __init__(self, caller: Caller, make: MakeChannel, ended: Callable[[], None]) -> None:
        self.caller = caller
        self.requests: GlobalRequests | None = None
        self.opened: Callable[[str], None] = lambda _: None
        self._notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._make = make
        self._ended = ended
        self._channels: dict[int, DoorChannel] = {}
        self._next_id = 0
        self._ends_all = False
        self._handlers: dict[int, Callable[[DoorChannel, Fields], None]] = {
            _ADJUST: self._adjusted,
            _DATA: self._data,
            _EXTENDED_DATA: self._extended_data,
            _EOF: lambda channel, _: channel.eof_received(),
            _CLOSE: self._closed,
            _REQUEST: self._requested,
        }

    # -- SSHService ------------------------------------------------------------------------------

    def serviceStarted(self) -> None:
        self.transport.unblocked = self._unblocked

    def serviceStopped(self) -> None:
        """The connection is gone: on purpose its sessions end, else they are left to go on."""
        channels, self._channels = list(self._channels.values()), {}
        if self.requests is not None:
            self.requests.stop()
        for channel in channels:
            channel.connection_lost(on_purpose=self._ends_all or self.transport.said_goodbye)
        self._ended()

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        fields = Fields(packet)
        handler = self._handlers.get(messageNum)
        if handler is not None:
            channel = self._channels.get(fields.number())
            if channel is None or not channel.confirmed:
                raise BadPacket(f"message {messageNum} for a channel that is not open")
            handler(channel, fields)
        elif messageNum == _OPEN:
            self._open(fields)
        elif messageNum in (_CONFIRMATION, _OPEN_FAILURE):
            self._answered(fields, accepted=messageNum == _CONFIRMATION)
        elif messageNum == _GLOBAL_REQUEST:
            self._asked(fields)
        elif messageNum > _USERAUTH_LAST:  # logins that come late are ignored (RFC 4252, 5.1)
            raise BadPacket(f"message {messageNum} is not expected here")

    # -- opening ---------------------------------------------------------------------------------

    def _open(self, fields: Fields) -> None:
        kind, number = fields.string(64), fields.number()
        window, packet_size = fields.number(), fields.number()
        try:
            self._check_room(kind, packet_size)
            channel = self._make(self, kind, fields)
        except ChannelRefused as error:
            self.opened("")
            self._send_failure(number, error)
            return
        self.opened(channel.kind)
        channel.id, channel.remote_id = self._next_id, number
        self._next_id += 1
        channel.use(window, packet_size)
        self._channels[channel.id] = channel
        channel.open()

    def _check_room(self, kind: bytes, packet_size: int) -> None:
        if packet_size < MIN_PACKET:
            raise ChannelRefused(SHORTAGE, f"packets of at least {MIN_PACKET} bytes, please")
        session = kind == b"session"
        same = sum((one.kind == "session") == session for one in self._channels.values())
        if same >= (MAX_CHANNELS if session else MAX_FORWARDS):
            raise ChannelRefused(SHORTAGE, "too many channels: open another connection")

    def open_channel(self, channel: DoorChannel, kind: bytes, data: bytes) -> None:
        """Ask the peer for a channel; `DoorChannel.open` or `refused` follows."""
        channel.id = self._next_id
        self._next_id += 1
        self._channels[channel.id] = channel
        self.opened(channel.kind)
        head = struct.pack(">L", len(kind)) + kind
        numbers = struct.pack(">3L", channel.id, channel.window, channel.max_packet)
        self.transport.sendPacket(_OPEN, head + numbers + data)

    def _answered(self, fields: Fields, *, accepted: bool) -> None:
        """The peer has, or has not, opened a channel that we asked for."""
        channel = self._channels.get(fields.number())
        if channel is None or channel.confirmed or not channel.opened_here:
            raise BadPacket("an answer for a channel that nobody asked for")
        if not accepted:
            channel.refused()
            self.forget(channel)
            return
        channel.remote_id = fields.number()
        window, packet_size = fields.number(), fields.number()
        if packet_size < MIN_PACKET:
            raise BadPacket(f"packets of at least {MIN_PACKET} bytes, please")
        channel.use(window, packet_size)
        channel.open()

    def confirm(self, channel: DoorChannel) -> None:
        """Tell the peer that its channel is open."""
        self._send(_CONFIRMATION, channel, channel.id, channel.window, channel.max_packet)

    def refuse(self, channel: DoorChannel, error: ChannelRefused) -> None:
        """Tell the peer that its channel will not be."""
        if self._channels.pop(channel.id, None) is not None:
            self._send_failure(channel.remote_id, error)

    def _send_failure(self, number: int, error: ChannelRefused) -> None:
        text = error.message.encode("utf-8")
        self.transport.sendPacket(
            _OPEN_FAILURE,
            struct.pack(">3L", number, error.reason, len(text)) + text + struct.pack(">L", 0),
        )

    # -- what arrives ----------------------------------------------------------------------------

    def _adjusted(self, channel: DoorChannel, fields: Fields) -> None:
        size = fields.number()
        if channel.remote_window + size > _MAX_WINDOW:
            raise BadPacket("a window beyond what a window can be")
        channel.window_added(size)

    def _data(self, channel: DoorChannel, fields: Fields) -> None:
        data = fields.string()
        self._check_window(channel, len(data))
        channel.data_received(data)

    def _extended_data(self, channel: DoorChannel, fields: Fields) -> None:
        fields.number()
        size = len(fields.string())
        self._check_window(channel, size)
        channel.dropped(size)  # RFC 4254 knows none towards a server

    @staticmethod
    def _check_window(channel: DoorChannel, size: int) -> None:
        if size > channel.local_window or size > channel.max_packet:
            raise BadPacket("more data than the window has room for")

    def _closed(self, channel: DoorChannel, fields: Fields) -> None:
        if channel.close_received():
            self.forget(channel)

    def forget(self, channel: DoorChannel) -> None:
        """A channel is closed on both sides."""
        if self._channels.pop(channel.id, None) is not None:
            channel.gone()
            self.transport.channel_over()

    def _requested(self, channel: DoorChannel, fields: Fields) -> None:
        kind, wants_reply = fields.string(64), fields.flag()
        accepted = channel.request_received(kind, fields)
        if wants_reply and not channel.closed:
            self._send(_SUCCESS if accepted else _FAILURE, channel)

    def _asked(self, fields: Fields) -> None:
        """Answer a global request, in its turn."""
        kind, wants_reply = fields.string(256), fields.flag()
        if self.requests is not None:
            self.requests.asked(kind, wants_reply, fields)
        elif wants_reply:
            self.send_answer(None)

    def send_answer(self, data: bytes | None) -> None:
        """Answer the oldest global request: with data if it was done, None if not."""
        if data is None:
            self.transport.sendPacket(_REQUEST_FAILURE, b"")
        else:
            self.transport.sendPacket(_REQUEST_SUCCESS, data)

    def notice(self, text: str, *, or_end: bool = False) -> None:
        """Tell the person something that belongs to no channel.

        SSH has no way for that which clients show, so it goes to the standard error of a session,
        of the first that begins if there is none, and to the client's log.

        Args:
            text: One line, safe to show.
            or_end: Whether the connection ends with these words if it has no session.
        """
        told = text.encode("utf-8")
        packed = struct.pack(">L", len(told)) + told + struct.pack(">L", 0)
        self.transport.sendPacket(_DEBUG, b"\1" + packed)
        sessions = [one for one in self._channels.values() if one.kind == "session"]
        for channel in sessions:
            if channel.tell(text):
                return
        if or_end and not sessions:
            self.transport.disconnect(text)
        else:
            self._notices.append(text)

    def take_notices(self) -> list[str]:
        """Return what waits to be told, for a session that begins."""
        notices = list(self._notices)
        self._notices.clear()
        return notices

    def kinds(self) -> list[str]:
        """Return the kinds of the channels that are open."""
        return [channel.kind for channel in self._channels.values()]

    # -- what channels send ----------------------------------------------------------------------

    def _send(
        self, kind: int, channel: DoorChannel, *numbers: int, data: bytes | memoryview = b""
    ) -> None:
        head = struct.pack(f">{1 + len(numbers)}L", channel.remote_id, *numbers)
        self.transport.sendPacket(kind, b"".join((head, data)))

    def send_data(self, channel: DoorChannel, data: bytes | memoryview, *, stderr: bool) -> None:
        """Send bytes for which there is room."""
        if stderr:
            self._send(_EXTENDED_DATA, channel, 1, len(data), data=data)
        else:
            self._send(_DATA, channel, len(data), data=data)

    def send_credit(self, channel: DoorChannel, size: int) -> None:
        """Let the peer send more."""
        self._send(_ADJUST, channel, size)

    def send_request(self, channel: DoorChannel, kind: bytes, data: bytes) -> None:
        """Send a request that wants no answer."""
        head = struct.pack(">L", len(kind)) + kind + b"\0"
        self._send(_REQUEST, channel, data=head + data)

    def send_end(self, channel: DoorChannel) -> None:
        """Say that no byte follows."""
        self._send(_EOF, channel)

    def send_close(self, channel: DoorChannel) -> None:
        """Close this side."""
        self._send(_CLOSE, channel)

    def _unblocked(self) -> None:
        """Let every channel send; who was first is last the next time."""
        for channel in list(self._channels.values()):
            if self.transport.blocked:
                break
            channel.flush()
            if channel.waiting and channel.id in self._channels:
                self._channels[channel.id] = self._channels.pop(channel.id)

    # -- OperatorConnection ------------------------------------------------------------------------

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Tell the operator why, and end the connection.

        What runs on devices runs on, for ``rshell attach``; for those whose right was taken away
        it ends.
        """
        if goaway.code == ErrorCode.REVOKED:
            self._ends_all = True
        for channel in list(self._channels.values()):
            channel.tell(goaway.message or goaway.code)
        self.transport.disconnect(goaway.message or goaway.code)
