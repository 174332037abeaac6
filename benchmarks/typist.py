"""The operator of the benchmark: types into a terminal while a bulk transfer shares the link.

A program of its own, because it runs in a namespace:
``python -m benchmarks.typist HOME DEVICE KEYS`` prints one JSON object: for each phase the round
trips of keystrokes through ``cat`` on a pseudo-terminal of the device, in milliseconds, and the
bulk transfer's bytes a second.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred

from rshell.client import Client, Outcome, Session, connect, find_profile
from rshell.handlers import ExecRequest, TerminalSize
from rshell.link.clock import use_monotonic_clock

__all__ = ["main"]

#: A person types about 10 a second; faster gives more samples and is still sparse.
KEY_SECONDS = 0.05
#: Long enough for a sender to find the rate of the link and for queues to fill.
WARM_UP_SECONDS = 1.5
CHUNK = bytes(32 * 1024)


class Echo:
    """Keys on their way through the terminal and back."""

    def __init__(self, reactor: Any) -> None:
        self.ready: Deferred[None] = Deferred()
        self.round_trips_ms: list[float] = []
        self._reactor = reactor
        self._sent: dict[bytes, float] = {}
        self._buffer = b""
        self._count = 0

    def type(self, session: Session) -> None:
        """Send one key."""
        self._count += 1
        key = b"k%07d" % self._count
        self._sent[key] = self._reactor.seconds()
        session.write(key)

    def session_opened(self) -> None:
        """The command says itself when it is ready."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        now = self._reactor.seconds()
        self._buffer += data
        if not self.ready.called:
            if b"ready." in self._buffer:
                self._buffer = b""
                self.ready.callback(None)
            return
        while len(self._buffer) >= 8:
            key, self._buffer = self._buffer[:8], self._buffer[8:]
            self.round_trips_ms.append((now - self._sent.pop(key)) * 1000)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Nothing of interest."""

    @property
    def missing(self) -> int:
        """Keys that did not come back yet."""
        return len(self._sent)

    def take(self) -> list[float]:
        """Return the round trips since the last call."""
        taken, self.round_trips_ms = self.round_trips_ms, []
        return taken


class Bulk:
    """A transfer's receiver: counts bytes.  As a pull producer: sends zeros without end."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.session: Session | None = None

    def session_opened(self) -> None:
        """It sends by itself."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        self.received += len(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Nothing of interest."""

    def resumeProducing(self) -> None:
        """Send one more chunk (`IPullProducer`)."""
        if self.session is not None:
            self.session.write(CHUNK)
            self.sent += len(CHUNK)

    def stopProducing(self) -> None:
        """The session is over (`IPullProducer`)."""
        self.session = None


class Typist:
    """Runs the phases."""

    def __init__(self, reactor: Any, client: Client, device: str, keys: int) -> None:
        self._reactor = reactor
        self._client = client
        self._device = device
        self._keys = keys
        self._echo = Echo(reactor)
        self.phases: dict[str, Any] = {}

    def _pause(self, seconds: float) -> Deferred[None]:
        return task.deferLater(self._reactor, seconds, lambda: None)

    async def run(self) -> None:
        """Type on an idle link, beside a download, and beside an upload."""
        request = ExecRequest(
            line=b"stty raw -echo; printf ready.; exec cat", terminal=TerminalSize()
        )
        terminal = self._client.open(
            self._device, "exec", request, self._echo, priority="interactive"
        )
        await self._echo.ready
        await self._phase("idle", terminal, None)
        await self._phase("download", terminal, b"exec cat /dev/zero")
        await self._phase("upload", terminal, b"exec cat > /dev/null")
        terminal.abort()

    async def _phase(self, name: str, terminal: Session, line: bytes | None) -> None:
        bulk = Bulk()
        transfer = None
        if line is not None:
            transfer = self._client.open(
                self._device, "exec", ExecRequest(line=line), bulk, priority="normal"
            )
            if name == "upload":
                bulk.session = transfer
                transfer.registerProducer(bulk, False)
            # Keys during the warm-up, too: nobody types for the first time just then.
            await self._type(terminal, int(WARM_UP_SECONDS / KEY_SECONDS))
        began, moved = self._reactor.seconds(), bulk.received + bulk.sent
        round_trips = await self._type(terminal, self._keys)
        seconds = self._reactor.seconds() - began
        moved = bulk.received + bulk.sent - moved
        self.phases[name] = {"ms": round_trips, "bytes_per_second": moved / seconds}
        if transfer is not None:
            ended: Deferred[Outcome] = transfer.outcome
            transfer.abort()
            await ended
            await self._pause(0.5)

    async def _type(self, terminal: Session, keys: int) -> list[float]:
        for _ in range(keys):
            self._echo.type(terminal)
            await self._pause(KEY_SECONDS)
        for _ in range(100):
            if not self._echo.missing:
                break
            await self._pause(0.1)
        if self._echo.missing:
            raise RuntimeError(f"{self._echo.missing} keys never came back")
        return self._echo.take()


async def _main(reactor: Any, home: str, device: str, keys: str) -> None:
    use_monotonic_clock(reactor)
    client = await connect(reactor, find_profile(home, {}), renew=False)
    try:
        typist = Typist(reactor, client, device, int(keys))
        await typist.run()
    finally:
        await client.close()
    json.dump(typist.phases, sys.stdout)


def main(arguments: list[str]) -> None:
    """Run the program: HOME DEVICE KEYS."""
    task.react(lambda reactor, *words: ensureDeferred(_main(reactor, *words)), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
