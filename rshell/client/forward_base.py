"""What both directions of forwarding share: connections at once, their sessions, who watches."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rshell.access.printable import printable
from rshell.client.absence import Away
from rshell.client.client import Client
from rshell.client.errors import Refused, RshellError
from rshell.client.forward_connection import ForwardConnection
from rshell.client.outcomes import Outcome
from rshell.client.session import Session, SessionReceiver
from rshell.handlers.forward import ForwardCode
from rshell.link.core.constants import DEFAULT_WINDOW

__all__ = ["MAX_CONNECTIONS", "ForwardBase", "ForwardWatcher", "refusal_of"]

#: Connections at once of one forward.  A device takes 256 streams of all its operators; whoever
#: wants more of them for one forward says so.
MAX_CONNECTIONS = 200
HANDLER = "forward"
#: A device keeps what was not taken here, up to each connection's window: of many connections each
#: has a smaller one, or 200 that nobody reads would cost it 50 MB.
WINDOWS_BYTES = 4 * 1024 * 1024
LEAST_WINDOW = 16 * 1024

Begin = Callable[[ForwardConnection], None]


class ForwardWatcher(Protocol):
    """Hears of a forward's connections."""

    def connection_begun(self, connection: ForwardConnection) -> None:
        """It is let through."""

    def connection_over(self, connection: ForwardConnection) -> None:
        """It is over; its ``outcome`` says how."""

    def link_changed(self, away: Away | None) -> None:
        """The way to the device is gone, or back, for one of the connections."""


class _Quiet:
    """Watches nothing."""

    def connection_begun(self, connection: ForwardConnection) -> None:
        pass

    def connection_over(self, connection: ForwardConnection) -> None:
        pass

    def link_changed(self, away: Away | None) -> None:
        pass


class Slots:
    """The connections of one forward: so many at once, the others wait their turn, unread.

    Attributes:
        full: Called with whether there is no room, when that changes.
    """

    def __init__(self, most: int, full: Callable[[bool], None]) -> None:
        self.active: dict[ForwardConnection, None] = {}
        self.waiting: deque[ForwardConnection] = deque()
        self._most = most
        self._full = full
        self._was_full = False

    def add(
        self, connection: ForwardConnection, begin: Callable[[ForwardConnection], None]
    ) -> None:
        """Let it begin, now or when there is room."""
        if len(self.active) < self._most:
            self.active[connection] = None
            begin(connection)
        else:
            self.waiting.append(connection)
        self._tell()

    def remove(self, connection: ForwardConnection, begin: Begin) -> None:
        """It is over: let the next one begin."""
        self.active.pop(connection, None)
        if connection in self.waiting:
            self.waiting.remove(connection)
        while self.waiting and len(self.active) < self._most:
            following = self.waiting.popleft()
            self.active[following] = None
            begin(following)
        self._tell()

    def _tell(self) -> None:
        full = len(self.active) >= self._most
        if full != self._was_full:
            self._was_full = full
            self._full(full)

    def everything(self) -> list[ForwardConnection]:
        """Return all connections."""
        return [*self.active, *self.waiting]


class ForwardBase:
    """What both directions share.

    Args:
        client: Connected.
        reactor: For retries.
        device: Name or id.
        watcher: Hears of connections.
        max_connections: At once; the kernel holds what comes beyond, nothing is dropped.
        numbers: Of the connections; several forwards may share it.
    """

    def __init__(
        self,
        client: Client,
        reactor: Any,
        device: str,
        *,
        watcher: ForwardWatcher | None = None,
        max_connections: int = MAX_CONNECTIONS,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.reactor = reactor
        self.device = device
        self._client = client
        self._watcher: ForwardWatcher = watcher or _Quiet()
        self._most = max_connections
        self._slots = Slots(max_connections, self._full)
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections there are, waiting ones included."""
        return len(self._slots.everything())

    def _full(self, full: bool) -> None:
        """There is no room for more connections, or there is again."""

    def _begin(self, connection: ForwardConnection) -> None:
        self._watcher.connection_begun(connection)
        connection.start()

    def over(self, connection: ForwardConnection) -> None:
        """A connection is gone (`ForwardOwner`)."""
        self._watcher.connection_over(connection)
        self._slots.remove(connection, self._begin)

    def _open(self, request: dict[str, Any], receiver: SessionReceiver) -> Session:
        share = WINDOWS_BYTES // (len(self._slots.active) + 1)
        window = max(LEAST_WINDOW, min(DEFAULT_WINDOW, share))
        session = self._client.open(self.device, HANDLER, request, receiver, window=window)
        session.link_changed = self._watcher.link_changed
        return session

    async def _ask(self, request: dict[str, Any]) -> Outcome:
        session = self._open(request, _Nobody())
        session.write_eof()
        return await session.outcome

    async def _must(self, request: dict[str, Any]) -> None:
        outcome = await self._ask(request)
        if outcome.status != "ok":
            raise refusal_of(self.device, outcome)

    def _abort_all(self) -> None:
        self._closed = True
        for connection in self._slots.everything():
            connection.abort()


class _Nobody:
    """Takes nothing."""

    def session_opened(self) -> None:
        pass

    def output_received(self, data: bytes, stderr: bool) -> None:
        pass

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        pass


def refusal_of(device: str, outcome: Outcome) -> RshellError:
    """Return a session's failure as what a caller is told."""
    text = outcome.message or outcome.code or outcome.status
    hint = ""
    if outcome.code == ForwardCode.POLICY and "policy" in text:
        hint = "see on the device: rshell-agent policy check"
    return Refused(outcome.code or outcome.status, f"{printable(device, 64)}: {text}", hint)
