"""``direct-tcpip`` and ``direct-streamlocal`` channels: ``ssh -L``, ``-W``, ``-D`` and ``-J``.

Each is one stream of the device's handler ``forward``; the device's own policy says where to.
"""

from __future__ import annotations

from typing import Any

from rshell.access.printable import printable
from rshell.doors.ssh.channel import DoorChannel
from rshell.doors.ssh.connection import CONNECT_FAILED, ChannelRefused, Connection
from rshell.doors.ssh.visit import NoDestination, Visit
from rshell.doors.ssh.wire import Fields
from rshell.handlers import Outcome

__all__ = ["ForwardChannel", "read_target"]

#: The event by which the device tells that it is connected.
CONNECTED = "connected"


def read_target(kind: bytes, fields: Fields) -> dict[str, Any] | None:
    """Return the request for a channel's target; None if the channel is no forward.

    Raises:
        BadPacket: Its fields are malformed.
    """
    if kind == b"direct-tcpip":
        return {"host": fields.text(280), "port": fields.number()}
    if kind == b"direct-streamlocal@openssh.com":
        return {"path": fields.text(255)}
    return None


class ForwardChannel(DoorChannel):
    """One connection that the device makes.

    Args:
        connection: Carries it.
        visit: To which device.
        request: Where the device shall connect to.
    """

    def __init__(self, connection: Connection, visit: Visit, request: dict[str, Any]) -> None:
        super().__init__(connection)
        self._visit = visit
        self._request = request

    def open(self) -> None:
        try:
            session = self._visit.open("forward", self._request, self)
        except NoDestination as error:
            self._refuse(str(error))
        else:
            self._join(session)

    def _refuse(self, text: str) -> None:
        self._connection.refuse(self, ChannelRefused(CONNECT_FAILED, text))

    # -- EndReceiver -----------------------------------------------------------------------------

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        if kind == CONNECTED and not self.confirmed:
            self._confirm()

    def output_ended(self) -> None:
        if self.confirmed:
            self._end_output()

    def session_ended(self, outcome: Outcome) -> None:
        self._session = None
        if self.confirmed:
            self.finish()
            return
        self._refuse(printable(outcome.message or outcome.code or outcome.status, 300))
