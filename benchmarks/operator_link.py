"""An operator with an open link: ``python -m benchmarks.operator_link HOME``.

It reads one JSON object a line from its standard input and answers with one: what was measured
in this process, on the monotonic clock, in milliseconds.  It is built on `rshell.client` as any
program of a user would be.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver

from rshell.client import Client, Session, connect, find_profile
from rshell.client.commands import Collected
from rshell.handlers import ExecRequest, TerminalSize
from rshell.link.clock import use_monotonic_clock
from rshell.link.polling import poll_lightly

__all__ = ["main"]

#: A command on 5,000 devices is one line of this program's input.
MAX_LINE = 1024 * 1024
CHUNK = bytes(64 * 1024)


class _Echo:
    """Receives the echo of one key at a time."""

    def __init__(self) -> None:
        self.waiting: Deferred[None] | None = None
        self._seen = b""
        self._wanted = b""

    def expect(self, text: bytes) -> Deferred[None]:
        """Return what fires when ``text`` has come."""
        self._wanted, self._seen = text, b""
        self.waiting = Deferred()
        return self.waiting

    def session_opened(self) -> None:
        """The command says itself when it is ready."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        self._seen += data
        waiting = self.waiting
        if waiting is not None and self._wanted in self._seen:
            self.waiting = None
            waiting.callback(None)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Nothing of interest."""


class _Bulk:
    """Moves zeros without end, one way; a pull producer for the way up."""

    def __init__(self) -> None:
        self.moved = 0
        self.session: Session | None = None

    def session_opened(self) -> None:
        """It moves by itself."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        self.moved += len(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Nothing of interest."""

    def resumeProducing(self) -> None:
        if self.session is not None:
            self.session.write(CHUNK)
            self.moved += len(CHUNK)

    def stopProducing(self) -> None:
        self.session = None


class _Operator:
    """Does what it is told, one thing at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._echo = _Echo()
        self._terminal: Session | None = None
        self._bulk = _Bulk()
        self._transfer: Session | None = None

    async def hello(self) -> dict[str, Any]:
        """Say that there is a link."""
        return {"name": (await self._client.whoami()).name}

    async def run(self, device: str, count: int) -> dict[str, Any]:
        """Run ``true`` so often, one after the other."""
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            done = await self._client.run(device, argv=["true"])
            taken.append((time.perf_counter() - began) * 1000)
            _expect_ok(done.outcome.status)
        return {"ms": taken}

    async def call(self, device: str, handler: str, count: int) -> dict[str, Any]:
        """Call a handler without parameters so often, one after the other."""
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            done = await self._client.call(device, handler, {})
            taken.append((time.perf_counter() - began) * 1000)
            _expect_ok(done.outcome.status)
        return {"ms": taken}

    async def many(self, prefix: str, count: int, at_once: int) -> dict[str, Any]:
        """Call ``noop`` once on each of ``count`` devices, ``at_once`` of them at a time."""
        names = iter([f"{prefix}{number}" for number in range(count)])
        statuses: dict[str, int] = {}

        async def worker() -> None:
            for name in names:
                session = self._client.open(name, "noop", {}, Collected())
                session.write_eof()
                outcome = await session.outcome
                statuses[outcome.status] = statuses.get(outcome.status, 0) + 1

        began = time.perf_counter()
        workers = [ensureDeferred(worker()) for _ in range(min(at_once, count))]
        for one in workers:
            await one
        return {"seconds": time.perf_counter() - began, "statuses": statuses}

    async def devices(self, selector: str, count: int) -> dict[str, Any]:
        """List devices so often."""
        taken, found = [], 0
        for _ in range(count):
            began = time.perf_counter()
            found = len(await self._client.devices(selector))
            taken.append((time.perf_counter() - began) * 1000)
        return {"ms": taken, "found": found}

    async def terminal(self, device: str) -> dict[str, Any]:
        """Open a terminal that echoes."""
        line = b"stty raw -echo; printf ready.; exec cat"
        request = ExecRequest(line=line, terminal=TerminalSize())
        ready = self._echo.expect(b"ready.")
        self._terminal = self._client.open(
            device, "exec", request, self._echo, priority="interactive"
        )
        await ready
        return {}

    async def type(self, keys: int, pause: float) -> dict[str, Any]:
        """Type keys, each after the echo of the one before and a pause in seconds."""
        assert self._terminal is not None
        taken = []
        for number in range(keys):
            key = b"%c" % (97 + number % 26)
            back = self._echo.expect(key)
            began = time.perf_counter()
            self._terminal.write(key)
            await back
            taken.append((time.perf_counter() - began) * 1000)
            if pause:
                await self._pause(pause)
        return {"ms": taken}

    def _pause(self, seconds: float) -> Deferred[None]:
        over: Deferred[None] = Deferred()
        self._client.reactor.callLater(seconds, over.callback, None)
        return over

    async def bulk(self, device: str, direction: str) -> dict[str, Any]:
        """Begin a transfer without end."""
        self._bulk = _Bulk()
        line = b"exec cat /dev/zero" if direction == "down" else b"exec cat > /dev/null"
        self._transfer = self._client.open(device, "exec", ExecRequest(line=line), self._bulk)
        if direction == "up":
            self._bulk.session = self._transfer
            self._transfer.registerProducer(self._bulk, False)
        return {}

    async def moved(self) -> dict[str, Any]:
        """Tell the bytes that the transfer has moved."""
        return {"bytes": self._bulk.moved}

    async def end_bulk(self) -> dict[str, Any]:
        """End the transfer."""
        assert self._transfer is not None
        ended = self._transfer.outcome
        self._transfer.abort()
        await ended
        return {}


def _expect_ok(status: str) -> None:
    if status != "ok":
        raise RuntimeError(f"the outcome is {status}")


class _Commands(LineReceiver):
    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, operator: _Operator, reactor: Any) -> None:
        self._operator = operator
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        ensureDeferred(self._answer(json.loads(line)))

    async def _answer(self, asked: dict[str, Any]) -> None:
        try:
            answer = await getattr(self._operator, asked.pop("do"))(**asked)
        except Exception as error:  # whoever measures hears what it was
            answer = {"failed": f"{type(error).__name__}: {error}"}
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]  # Twisted's

    def connectionLost(self, reason: object = None) -> None:
        self._reactor.callLater(0, os._exit, 0)


async def _main(reactor: Any, home: str) -> None:
    use_monotonic_clock(reactor)
    poll_lightly(reactor)  # as the `rshell` program does
    client = await connect(reactor, find_profile(home, {}), renew=False)
    StandardIO(_Commands(_Operator(client), reactor))


def main(arguments: list[str]) -> None:
    """Run the program: HOME."""
    from twisted.internet import reactor

    loop: Any = reactor

    def failed(failure: Any) -> None:
        sys.stderr.write(f"{failure.getErrorMessage()}\n")
        loop.callLater(0, os._exit, 1)

    ensureDeferred(_main(reactor, arguments[0])).addErrback(failed)
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])
