"""Forwarding ports: connections that come to one end of a device's link and go on at the other.

`Forward` listens here, and the device connects; `BackForward` lets the device listen, and connects
here.  Each connection is a session of its own (forward_connection.py), so a slow one stalls nobody
else, and each is in the audit log.  Who may forward what, gateway and device decide.

::

    async with await connect(reactor, find_profile(None, os.environ)) as client:
        forward = Forward(client, reactor, "pump-1", parse_place("localhost:80"))
        await forward.check()
        port = await forward.listen(TCP4ServerEndpoint(reactor, 8080, interface="127.0.0.1"))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from rshell.access.printable import printable
from rshell.client.client import Client
from rshell.client.errors import RshellError
from rshell.client.forward_base import ForwardBase, refusal_of
from rshell.client.forward_connection import ForwardConnection
from rshell.client.forward_specs import Place
from rshell.client.outcomes import Outcome
from rshell.client.session import Session
from rshell.handlers.forward import CONNECTION, LISTENING, ForwardCode, PendingConnection

__all__ = ["BackForward", "Forward"]

#: More than a device lets wait; it drops by itself what is not asked for.
MAX_WAITING = 512


class Forward(ForwardBase):
    """Listens here; the device connects to ``target``.

    Args:
        client, reactor, device, watcher, max_connections: As of both kinds of forward: who is
            connected, for retries, name or id, hears of connections, how many at once.
        target: Where the device connects to.
    """

    def __init__(
        self, client: Client, reactor: Any, device: str, target: Place, **options: Any
    ) -> None:
        super().__init__(client, reactor, device, **options)
        self.target = target
        self._port: Any = None

    async def check(self) -> None:
        """Ask the device whether it would connect there, without connecting.

        Raises:
            RshellError: It would not, or cannot be asked; the code says why.
        """
        await self._must({**self.target.request, "check": True})

    async def listen(self, endpoint: IStreamServerEndpoint) -> Place:
        """Listen, until `close`.

        Args:
            endpoint: Of TCP or a unix socket.

        Returns:
            Where: the port that was chosen, if it was 0.

        Raises:
            RshellError: Code ``in-use`` or ``cannot-listen``.
        """
        try:
            port: IListeningPort = await endpoint.listen(_Connections(self._build))
        except Exception as error:  # what an endpoint raises depends on its kind
            raise _cannot_listen(error) from None
        self._port = port
        return _place_of(port.getHost())

    def _build(self, address: IAddress | None) -> ForwardConnection:
        return ForwardConnection(self, next(self._numbers), _peer(address))

    def _full(self, full: bool) -> None:
        if self._port is not None and not self._closed:
            (self._port.stopReading if full else self._port.startReading)()

    def arrived(self, connection: ForwardConnection) -> None:
        """A connection has come (`ForwardOwner`)."""
        self._slots.add(connection, self._begin)

    def open_session(self, connection: ForwardConnection) -> Session:
        """Open its session (`ForwardOwner`)."""
        return self._open(self.target.request, connection)

    async def close(self) -> None:
        """Listen no more, and break all connections."""
        self._abort_all()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)


class BackForward(ForwardBase):
    """Lets the device listen at ``place``; its connections go on to ``endpoint``, here.

    Args:
        client, reactor, device, watcher, max_connections: As of `Forward`.
        place: Where the device listens.
        endpoint: Makes the connection here.

    Attributes:
        failed: Called with the number, peer and outcome of a connection that could not go on here.
    """

    def __init__(
        self,
        client: Client,
        reactor: Any,
        device: str,
        place: Place,
        endpoint: IStreamClientEndpoint,
        **options: Any,
    ) -> None:
        super().__init__(client, reactor, device, **options)
        self.place = place
        self.failed: Callable[[int, str, Outcome], None] = lambda _number, _peer, _outcome: None
        self._endpoint = endpoint
        self._session: Session | None = None
        self._listening: Deferred[Place] = Deferred()
        self._pending: deque[PendingConnection] = deque(maxlen=MAX_WAITING)
        self._ids: dict[ForwardConnection, str] = {}
        #: Connections that are being made here.
        self._dialling: dict[Deferred[Any], None] = {}

    async def listen(self) -> Place:
        """Have the device listen, until `close`.

        Returns:
            Where: the port that the device chose, if it was 0.

        Raises:
            RshellError: The device's policy denies it, the place is taken, and so on.
        """
        request = {**self.place.request}
        if not request.get("path"):
            request["host"] = self.place.host or "localhost"
        self._session = self._open({"listen": request}, self)
        self._session.outcome.addCallback(self._control_over)
        return await self._listening

    @property
    def ended(self) -> Deferred[Outcome]:
        """A Deferred that fires when the device listens no more, and why."""
        assert self._session is not None  # after listen()
        return self._session.outcome

    def _control_over(self, outcome: Outcome) -> Outcome:
        if not self._listening.called:
            self._listening.errback(Failure(refusal_of(self.device, outcome)))
        return outcome

    # -- SessionReceiver: the session that holds the listener -------------------------------------

    def session_opened(self) -> None:
        """It listens once it says so."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """It sends none."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """The device listens, or has a connection that waits."""
        if kind == LISTENING and not self._listening.called:
            self._listening.callback(_told_place(body))
        elif kind == CONNECTION and not self._closed:
            pending = PendingConnection.read(body)
            if pending is not None:
                self._pending.append(pending)
                self._dial_more()

    # -- connections -----------------------------------------------------------------------------

    def _dial_more(self) -> None:
        while self._pending and len(self._slots.active) + len(self._dialling) < self._most:
            pending = self._pending.popleft()
            peer = printable(f"{pending.host}:{pending.port}" if pending.port else pending.host)
            connection = ForwardConnection(self, next(self._numbers), peer)
            self._ids[connection] = pending.id
            dialling = self._endpoint.connect(_Connections(partial(_same, connection)))
            self._dialling[dialling] = None
            dialling.addBoth(self._dialled, dialling, connection)

    def _dialled(self, result: Any, dialling: Deferred[Any], connection: ForwardConnection) -> None:
        self._dialling.pop(dialling, None)
        if isinstance(result, Failure):
            id = self._ids.pop(connection)
            if not self._closed:
                message = printable(result.getErrorMessage(), 200)
                code = ForwardCode.UNREACHABLE.value
                outcome = Outcome(status="error", code=code, message=message)
                self.failed(connection.number, connection.peer, outcome)
                Deferred.fromCoroutine(self._drop(id))
                self._dial_more()

    async def _drop(self, id: str) -> None:
        try:
            await self._ask({"accept": id, "drop": True})
        except RshellError:
            pass  # the device drops it by itself, later

    def arrived(self, connection: ForwardConnection) -> None:
        """A connection was made here (`ForwardOwner`)."""
        self._slots.add(connection, self._begin)

    def open_session(self, connection: ForwardConnection) -> Session:
        """Take its other end over from the device (`ForwardOwner`)."""
        return self._open({"accept": self._ids[connection]}, connection)

    def over(self, connection: ForwardConnection) -> None:
        """A connection is gone (`ForwardOwner`)."""
        self._ids.pop(connection, None)
        super().over(connection)
        self._dial_more()

    async def close(self) -> None:
        """Have the device listen no more, and break all connections."""
        self._abort_all()
        for dialling in list(self._dialling):
            dialling.cancel()
        if self._session is not None:
            self._session.abort()


class _Connections(Factory):
    """Makes the connections of a forward."""

    noisy = False

    def __init__(self, build: Callable[[IAddress | None], ForwardConnection]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> ForwardConnection:
        return self._build(addr)


def _same(connection: ForwardConnection, _address: object) -> ForwardConnection:
    return connection


def _cannot_listen(error: Exception) -> RshellError:
    cause = getattr(error, "socketError", error)
    why = getattr(cause, "strerror", None) or str(cause)
    where = getattr(error, "port", "")
    if isinstance(where, bytes):
        where = where.decode(errors="replace")
    code = "in-use" if "in use" in why else "cannot-listen"
    hint = "choose another port, or 0 for any" if code == "in-use" else ""
    return RshellError(code, f"cannot listen at {where}: {why}", hint)


def _peer(address: Any) -> str:
    if isinstance(address, IPv4Address | IPv6Address):
        return str(Place(address.host, address.port))
    return ""


def _place_of(address: Any) -> Place:
    if isinstance(address, IPv4Address | IPv6Address):
        return Place(address.host, address.port)
    name = getattr(address, "name", b"") or b""
    return Place(path=name.decode(errors="surrogateescape") if isinstance(name, bytes) else name)


def _told_place(body: dict[str, Any]) -> Place:
    """Return the place that a device says it listens at."""
    host, port, path = body.get("host"), body.get("port"), body.get("path")
    if isinstance(path, str) and path:
        return Place(path=printable(path, 200))
    return Place(
        printable(host, 64) if isinstance(host, str) else "",
        port if type(port) is int and 0 <= port <= 65535 else 0,
    )
