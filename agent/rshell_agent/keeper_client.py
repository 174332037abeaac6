"""The agent's side of the keeper's socket: start a keeper if none runs, call it, open streams.

One control connection carries calls (docs/keeper.md K33); each spliced stream has a connection of
its own (courier.py).  A keeper that dies is replaced; what it held is lost, and the log says so.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as TookTooLong  # not the built-in one
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.link.unix_sockets import connect_at_once
from rshell_agent import __version__
from rshell_agent.keeper import wire
from rshell_agent.keeper.command import spawn_keeper_command
from rshell_agent.workers.crash import CRASH_VARIABLE

__all__ = ["KeeperClient", "KeeperUnavailable", "frame_of", "hello_frame"]

#: A slow device takes seconds to start a Python; after this long something is wrong.
START_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_RESPAWN_SECONDS = 0.5
#: A call is answered from memory; silence this long is a hang.
CALL_SECONDS = 10.0
_RETRY_SECONDS = (1.0, 30.0)
#: A keeper of another version that holds sessions is asked again this often to make room.
RETIRE_SECONDS = 60.0


class KeeperUnavailable(Exception):
    """There is no keeper to talk to; the message says why."""


def hello_frame(purpose: str) -> bytes:
    """Return the frame that opens a connection for ``control`` or ``stream``."""
    body: wire.Map = {"proto": {"min": 1, "max": 1}, "purpose": purpose, wire.LARGE: True}
    return wire.encode_map(wire.HELLO, body)


class _Control(Protocol):
    """The control connection: calls out, replies in."""

    def __init__(self, lost: Callable[[_Control, str], None], touched: Callable[[], None]) -> None:
        self._touched = touched
        self.ready: Deferred[dict[str, Any]] = Deferred(lambda _: self.abort())
        self._lost = lost
        self._decoder = wire.Decoder()
        self._calls: dict[int, tuple[Deferred[dict[str, Any]], dict[str, Any]]] = {}
        self._count = 0
        self._reason = "the keeper closed the connection"

    def connectionMade(self) -> None:
        self._send(hello_frame("control"))

    def call(self, name: str, fields: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """Send a call; the Deferred has the REPLY, lists of several REPLYs joined."""
        self._count += 1
        number = self._count
        frame = wire.encode_map(wire.CALL, {"id": number, "call": name, **fields})

        def give_up(_: object) -> None:
            self._calls.pop(number, None)

        answer: Deferred[dict[str, Any]] = Deferred(give_up)
        self._calls[number] = (answer, {})
        self._send(frame)
        return answer

    def dataReceived(self, data: bytes) -> None:
        try:
            for kind, _flags, payload in self._decoder.feed(data):
                self._received(kind, wire.parse_map(payload))
        except wire.WireError as error:
            self._reason = f"the keeper broke the protocol: {error}"
            self.abort()

    def _received(self, kind: int, body: dict[str, Any]) -> None:
        if kind == wire.WELCOME and not self.ready.called:
            self.ready.callback(body)
        elif kind == wire.REPLY:
            self._reply(body)
        elif kind == wire.TOUCHED:
            self._touched()
        elif kind in (wire.REFUSED, wire.RESET):
            self._reason = f"the keeper said {body.get('code')}: {body.get('message')}"

    def _reply(self, body: dict[str, Any]) -> None:
        number, more = body.pop("id", None), body.pop("more", False)
        found = self._calls.get(number) if isinstance(number, int) else None
        if found is None or not isinstance(number, int):
            return  # given up meanwhile
        answer, parts = found
        for key, value in body.items():
            known = parts.get(key)
            parts[key] = [*known, *value] if isinstance(known, list) else value
        if not more:
            del self._calls[number]
            answer.callback(parts)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        calls, self._calls = self._calls, {}
        self._lost(self, self._reason)  # first: who is told below may call again at once
        if not self.ready.called:
            self.ready.errback(KeeperUnavailable(self._reason))
        for answer, _ in calls.values():
            answer.errback(KeeperUnavailable(self._reason))

    def abort(self) -> None:
        """Close at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _send(self, frame: bytes) -> None:
        transport: Any = self.transport
        transport.write(frame)


class _Spawned(ProcessProtocol):
    """The keeper that we started, as long as it is our child."""

    _log = Logger()

    def __init__(self) -> None:
        self.alive = True

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        # only before it has opened its own log
        self._log.warn("the keeper says: {text}", text=data.decode("utf-8", "replace").strip())

    def processExited(self, reason: Failure) -> None:
        self.alive = False


class KeeperClient:
    """The one keeper of a home.

    Args:
        reactor: IReactorTime, IReactorUNIX and IReactorProcess.
        home: The agent's home; it exists.
        start_keeper: False when something else starts it.
        changed: Called when the control connection is made or lost, with nothing.

    Attributes:
        identity: What the keeper said of itself (``pid``, ``uptime_ms``, ``version``); empty
            while there is no control connection.
        touched: Called when there are touched files to fetch (docs/keeper.md K55).
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        home: Path,
        *,
        start_keeper: bool = True,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity: dict[str, Any] = {}
        self.touched: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._home = home
        self._start_keeper = start_keeper
        self._changed = changed
        self._control: _Control | None = None
        self._child: _Spawned | None = None
        self._spawned_at = 0.0
        self._stopped = False
        self._starting: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self._retry_delay = _RETRY_SECONDS[0]
        self._asking: IDelayedCall | None = None
        # a short way to the socket, however long the home's path is (docs/keeper.md K3)
        self._directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)

    @property
    def connected(self) -> bool:
        """Whether calls can be made now."""
        return self._control is not None

    async def ensure(self) -> None:
        """See to it that a keeper runs and the control connection is up.

        Raises:
            KeeperUnavailable: It did not answer within 10 s.
        """
        if self._control is not None:
            return
        if self._stopped:
            raise KeeperUnavailable("the agent is ending")
        waiter: Deferred[None] = Deferred()
        if self._starting is None:
            self._starting = Deferred.fromCoroutine(self._bring_up())
            self._starting.addBoth(self._brought_up)
        self._starting.addCallbacks(*_pass_to(waiter))
        try:
            await waiter
        except (CancelledError, ConnectingCancelledError):
            raise KeeperUnavailable("the agent is ending") from None

    def _brought_up(self, result: Any) -> Any:
        self._starting = None
        if isinstance(result, Failure) and not self._stopped:
            self._retry_later()
        return result

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """Make a control call and return its answer.

        Raises:
            KeeperUnavailable: There is no keeper, or it did not answer within 10 s.
        """
        await self.ensure()
        if self._control is None:
            raise KeeperUnavailable("the keeper has just ended")
        answer = self._control.call(name, fields)
        answer.addTimeout(CALL_SECONDS, self._reactor)
        try:
            reply = await answer
        except (TookTooLong, CancelledError):
            raise KeeperUnavailable(f"the keeper does not answer the call {name}") from None
        error = reply.get("error")
        if isinstance(error, dict):
            raise KeeperUnavailable(f"the keeper refused the call {name}: {error.get('message')}")
        return reply

    async def connect_stream(self, protocol: Protocol) -> None:
        """Connect ``protocol`` to the keeper's socket; it sends its own HELLO.

        Raises:
            KeeperUnavailable: Nothing answers.
        """
        await self.ensure()
        try:
            try:
                await self._connect(protocol)
            except ConnectError as error:
                if error.osError not in (errno.ENOENT, errno.ECONNREFUSED):
                    raise
                # It has just ended, and the control connection has not told us yet.
                if self._control is not None:
                    control = self._control
                    self._control_lost(control, "nothing listens on its socket any more")
                    control.abort()
                await self.ensure()
                await self._connect(protocol)
        except (ConnectError, CancelledError, ConnectingCancelledError) as error:
            raise KeeperUnavailable(f"the keeper's socket: {error}") from None

    def stop(self) -> None:
        """Let go of the keeper, which lives on as long as it has sessions."""
        if self._stopped:
            return
        self._stopped = True
        for timer in (self._retry, self._asking):
            if timer is not None and timer.active():
                timer.cancel()
        starting, control = self._starting, self._control
        self._control = None
        if starting is not None:
            starting.addErrback(lambda _: None)
            starting.cancel()
        if control is not None:
            control.abort()
        os.close(self._directory)

    # -- bringing it up ------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        deadline = self._reactor.seconds() + START_SECONDS
        reason = "nothing answers"
        while True:
            try:
                if await self._connect_control():
                    return
                reason = "an older keeper is about to end"
            except (ConnectError, KeeperUnavailable) as error:
                reason = str(error)
                self._spawn_if_due()
            if self._reactor.seconds() >= deadline:
                raise KeeperUnavailable(f"no keeper within {START_SECONDS:g} s: {reason}")
            await deferLater(self._reactor, _LOOK_SECONDS)

    async def _connect_control(self) -> bool:
        """Connect; say whether this keeper is the one to use."""
        control = _Control(self._control_lost, lambda: self.touched())  # noqa: PLW0108  # set later
        await self._connect(control)
        control.ready.addTimeout(CALL_SECONDS, self._reactor)
        try:
            identity = await control.ready
        except TookTooLong:
            control.abort()
            raise KeeperUnavailable("the keeper does not say WELCOME") from None
        other = self._start_keeper and identity.get("version") != __version__
        if other and await self._retires(control):
            control.abort()
            return False
        if other:
            self._ask_later()
        self._control, self.identity = control, identity
        self._retry_delay = _RETRY_SECONDS[0]
        self._log.info(
            "keeper {pid} ({version}) at hand",
            pid=identity.get("pid"),
            version=identity.get("version"),
        )
        self._changed()
        return True

    async def _retires(self, control: _Control) -> bool:
        """Ask a keeper of another version to make room, which it does if it has no session."""
        answer = control.call("retire", {})
        answer.addTimeout(CALL_SECONDS, self._reactor)
        try:
            retiring = (await answer).get("retiring") is True
        except TookTooLong:
            retiring = False
        self._log.info(
            "the keeper is of another version and {what}",
            what="makes room" if retiring else "is kept, for it holds sessions",
        )
        return retiring

    def _ask_later(self) -> None:
        def ask() -> None:
            asked = Deferred.fromCoroutine(self._ask_again())
            asked.addErrback(
                lambda failure: self._log.error("{reason}", reason=failure.getErrorMessage())
            )

        self._asking = self._reactor.callLater(RETIRE_SECONDS, ask)

    async def _ask_again(self) -> None:
        """Replace a keeper of another version once its last session has ended."""
        control = self._control
        if control is None:
            return  # a new one is looked for, and is judged then
        retires = await self._retires(control)
        if control is not self._control or self._stopped:
            return
        if not retires:
            self._ask_later()
            return
        self._control, self.identity = None, {}
        control.abort()
        self._changed()
        await self.ensure()

    def _connect(self, protocol: Protocol) -> Deferred[Any]:
        address = f"/proc/self/fd/{self._directory}/keeper.sock"
        if connect_at_once(self._reactor, address, protocol):
            return succeed(protocol)
        endpoint = UNIXClientEndpoint(self._reactor, address, timeout=CALL_SECONDS)
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        connected: Deferred[Any] = endpoint.connect(factory)
        return connected

    def _spawn_if_due(self) -> None:
        now = self._reactor.seconds()
        busy = self._child is not None and self._child.alive
        if not self._start_keeper or busy or now - self._spawned_at < _RESPAWN_SECONDS:
            return
        self._spawned_at = now
        self._child = _Spawned()
        command = spawn_keeper_command(str(self._home))
        passed = ("PATH", "LANG", CRASH_VARIABLE)  # the last is for tests of what workers do
        environment = {key: os.environ[key] for key in passed if key in os.environ}
        self._reactor.spawnProcess(self._child, command[0], command, env=environment)

    def _control_lost(self, control: _Control, reason: str) -> None:
        if control is not self._control or self._stopped:
            return
        self._control, self.identity = None, {}
        if self._asking is not None and self._asking.active():
            self._asking.cancel()
        self._log.error("the keeper is gone ({reason}); its sessions are lost", reason=reason)
        self._changed()
        self._retry_later()

    def _retry_later(self) -> None:
        if self._retry is not None and self._retry.active():
            return
        self._retry = self._reactor.callLater(self._retry_delay, self._try_again)
        self._retry_delay = min(_RETRY_SECONDS[1], self._retry_delay * 2)

    def _try_again(self) -> None:
        again = Deferred.fromCoroutine(self.ensure())
        again.addErrback(
            lambda failure: self._log.error("{reason}", reason=failure.getErrorMessage())
        )


def _pass_to(waiter: Deferred[None]) -> tuple[Callable[[Any], Any], Callable[[Failure], None]]:
    """Return callbacks that let several wait for one result."""

    def succeeded(result: Any) -> Any:
        if not waiter.called:
            waiter.callback(None)
        return result

    def failed(failure: Failure) -> None:
        if not waiter.called:
            waiter.errback(failure.value)

    return succeeded, failed


def frame_of(kind: int, body: dict[str, Any]) -> bytes:
    """Return a JSON frame.

    Raises:
        ValueError: It does not fit.
    """
    payload = json.dumps(body, separators=(",", ":")).encode()
    if len(payload) > wire.MAX_PAYLOAD:
        raise ValueError(f"{len(payload):,} bytes; at most {wire.MAX_PAYLOAD:,} fit")
    return wire.encode(kind, payload)
