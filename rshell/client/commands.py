"""Commands run to their end with their output in memory, on one device or on many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from rshell.client.errors import RshellError
from rshell.client.outcomes import Outcome
from rshell.client.session import Session
from rshell.handlers import Confirm, ExecRequest

__all__ = ["MAX_OUTPUT_BYTES", "Collected", "CompletedCommand", "RunMany", "exec_request"]

#: What `Collected` keeps of each of stdout and stderr: a runaway command must not eat the memory.
MAX_OUTPUT_BYTES = 16 * 1024 * 1024


class CompletedCommand(Struct, frozen=True):
    """What a command did.

    Attributes:
        device: As it was asked for.
        stdout: Its output; only the first `MAX_OUTPUT_BYTES` unless told otherwise.
        stderr: Likewise.
        outcome: How it ended; ``outcome.status == "ok"`` is success.
        truncated: Whether output beyond the limit was dropped.
    """

    device: str
    stdout: bytes
    stderr: bytes
    outcome: Outcome
    truncated: bool = False


class Collected:
    """A session's receiver that keeps the output, up to a limit for each channel.

    Args:
        max_bytes: What to keep of each; the rest is counted as consumed and dropped.
    """

    def __init__(self, max_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self.truncated = False
        self._max = max_bytes
        self._parts: tuple[list[bytes], list[bytes]] = ([], [])
        self._sizes = [0, 0]

    def session_opened(self) -> None:
        """Input was written ahead."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        room = self._max - self._sizes[stderr]
        if len(data) > room:
            self.truncated = True
            data = data[: max(0, room)]
        if data:
            self._sizes[stderr] += len(data)
            self._parts[stderr].append(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Events do not belong to the output."""

    @property
    def stdout(self) -> bytes:
        """What arrived on the first channel."""
        return b"".join(self._parts[0])

    @property
    def stderr(self) -> bytes:
        """What arrived on the second."""
        return b"".join(self._parts[1])

    def completed(self, device: str, outcome: Outcome) -> CompletedCommand:
        """Return the record of the command."""
        return CompletedCommand(device, self.stdout, self.stderr, outcome, self.truncated)


def exec_request(
    argv: Sequence[str | bytes] | None = None,
    line: str | bytes | None = None,
    timeout_seconds: float | None = None,
    confirm: Confirm | None = None,
) -> ExecRequest:
    """Return the request for one command.

    Args:
        argv: Program and arguments, run as they are, without any shell.
        line: Instead: a line for the login's shell.
        timeout_seconds: The device ends the command after that long.
        confirm: How it is undone, unless that is confirmed.

    Raises:
        RshellError: Code ``bad-request``: not exactly one of argv and line, or a bad timeout.
    """
    if timeout_seconds is not None and not 0.001 <= timeout_seconds <= 2**40 / 1000:
        raise RshellError("bad-request", "a timeout is a positive number of seconds", "")
    if argv is not None and not argv:
        raise RshellError("bad-request", "a command has at least one word", "")
    milliseconds = None if timeout_seconds is None else round(timeout_seconds * 1000)
    try:
        return ExecRequest(
            argv=None if argv is None else [_bytes(word) for word in argv],
            line=None if line is None else _bytes(line),
            timeout_ms=milliseconds,
            confirm=confirm,
        )
    except ValueError as error:
        raise RshellError("bad-request", str(error), "") from None


def _bytes(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")


class RunMany:
    """Runs a command on many devices, some at a time; iterate with ``async for``.

    Items come in the order in which the commands end.  Leaving the loop early starts no more;
    `cancel` ends those that run.

    Args:
        devices: Names or ids.
        start: Starts the command on one device, and returns the session and its receiver.
        concurrency: How many run at once.
    """

    def __init__(
        self,
        devices: Iterable[str],
        start: Callable[[str], tuple[Session, Collected]],
        concurrency: int,
    ) -> None:
        if concurrency < 1:
            raise RshellError("bad-request", "a concurrency of at least 1", "")
        self._waiting = deque(devices)
        self._start = start
        self._concurrency = concurrency
        self._running: dict[int, Session] = {}
        self._done: deque[CompletedCommand] = deque()
        self._wanted: Deferred[None] | None = None
        self._filling = False

    def __aiter__(self) -> RunMany:
        return self

    async def __anext__(self) -> CompletedCommand:
        self._fill()
        while not self._done:
            if not self._running:
                raise StopAsyncIteration
            self._wanted = Deferred()
            await self._wanted
        return self._done.popleft()

    def cancel(self) -> None:
        """Start no more, and ask those that run to end; their outcomes still come."""
        self._waiting.clear()
        for session in list(self._running.values()):
            session.cancel()

    def _fill(self) -> None:
        if self._filling:
            return
        self._filling = True
        while self._waiting and len(self._running) < self._concurrency:
            device = self._waiting.popleft()
            try:
                session, collected = self._start(device)
            except RshellError as error:
                outcome = Outcome(status="refused", code=error.code, message=error.message)
                self._done.append(CompletedCommand(device, b"", b"", outcome))
                continue
            self._running[id(session)] = session
            session.outcome.addCallback(self._ended, device, session, collected)
        self._filling = False

    def _ended(self, outcome: Outcome, device: str, session: Session, collected: Collected) -> None:
        del self._running[id(session)]
        self._done.append(collected.completed(device, outcome))
        self._fill()
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)
