"""Sessions on one device or on many, shown as they go.

One sink each for stdout and stderr is shared by all sessions.  While one of them is full every
session is paused, so memory stays flat however slow the reader of our output is; a reader that
went away (``| head``), or a disk that is full, cancels what runs.
"""

from __future__ import annotations

import errno
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.away import notice_for
from rshell.cli.pipes import ByteSink, ByteSource, CannotWrite
from rshell.cli.presenting import Presenter
from rshell.cli.running import Surroundings
from rshell.client import Away, Outcome, RshellError, SessionReceiver

__all__ = ["Fanout", "Outputs", "Running", "Target"]

#: After a cancel the device has this long to end what runs (it is told TERM, then KILL).
CANCEL_SECONDS = 5.0


class Outputs:
    """Our stdout and stderr.

    Attributes:
        changed: Called when `full` or `failed` may have changed.
    """

    def __init__(self, reactor: Any) -> None:
        self.changed: Callable[[], None] = _nothing
        self._stdout = ByteSink(reactor, 1, self._tell)
        self._stderr = ByteSink(reactor, 2, self._tell)

    def _tell(self) -> None:
        self.changed()

    def write(self, data: bytes, stderr: bool) -> None:
        """Write to one of them."""
        (self._stderr if stderr else self._stdout).write(data)

    @property
    def full(self) -> bool:
        """Whether either takes no more now."""
        return self._stdout.full or self._stderr.full

    @property
    def failed(self) -> bool:
        """Whether what runs is in vain, since its output is lost.

        Not when only stderr's reader left: stdout is what a command is run for, as with ssh.
        """
        return self._stdout.broken or self._stderr.error not in (None, errno.EPIPE)

    @property
    def hung_up(self) -> bool:
        """Whether the terminal that either of them is has gone."""
        return errno.EIO in (self._stdout.error, self._stderr.error)

    def status(self, own: int) -> int:
        """Return the exit status: ``own``, or that of a reader of stdout who left.

        Raises:
            CannotWrite: Output was lost for another reason.
        """
        for error, stderr in ((self._stdout.error, False), (self._stderr.error, True)):
            if error is not None and error != errno.EPIPE:
                raise CannotWrite(error, stderr)
        return statuses.PIPE_BROKEN if self._stdout.broken else own

    def stdout_drained(self) -> Deferred[None]:
        """Return a Deferred that fires when all of stdout was written, or is lost."""
        return self._stdout.drained()

    async def drained(self) -> None:
        """Wait until all was written."""
        await self._stdout.drained()
        await self._stderr.drained()


def _nothing() -> None:
    """Stand in until somebody listens."""


@attrs.frozen
class Target:
    """A device, and why it cannot be reached if that is known already."""

    device: str
    absent: Outcome | None = None


class Running(Protocol):
    """What runs on one device: a `rshell.client.Session`, or what behaves as one."""

    link_changed: Callable[[Away | None], None] | None

    @property
    def away(self) -> Away | None: ...

    @property
    def outcome(self) -> Deferred[Outcome]: ...

    def write(self, data: bytes) -> None: ...

    def write_eof(self) -> None: ...

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...


class _Shown:
    """A session's receiver that shows what it gets."""

    def __init__(
        self,
        presenter: Presenter,
        opened: Callable[[], None],
        events: Callable[[str, dict[str, Any]], None] | None,
    ) -> None:
        self._presenter = presenter
        self._opened = opened
        self._events = events

    def session_opened(self) -> None:
        self._opened()

    def output_received(self, data: bytes, stderr: bool) -> None:
        self._presenter.output(data, stderr)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Show what is missing; the rest is for who asked for events."""
        count = body.get("bytes")
        if kind == "gap" and isinstance(count, int):
            self._presenter.gap(count)
        elif self._events is not None:
            self._events(kind, body)


class Fanout:
    """Runs the same on all targets.

    Args:
        surroundings: Reactor and signals.
        open_session: (device, receiver) -> what runs; its `RshellError` is the device's outcome.
        present: (device) -> Presenter.
        outputs: Where the presenters write.
        concurrency: How many sessions run at once.
        stdin: Whether our standard input goes to the (then only) device.
        events: Takes (device, kind, body) of each event, if somebody wants them.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        open_session: Callable[[str, SessionReceiver], Running],
        present: Callable[[str], Presenter],
        outputs: Outputs,
        *,
        concurrency: int = 50,
        stdin: bool = False,
        events: Callable[[str, str, dict[str, Any]], None] | None = None,
    ) -> None:
        self._surroundings = surroundings
        self._open_session = open_session
        self._present = present
        self._outputs = outputs
        self._concurrency = concurrency
        self._stdin = stdin
        self._events = events
        self._waiting: deque[Target] = deque()
        self._running: dict[int, tuple[str, Running]] = {}
        self._outcomes: list[Outcome] = []
        self._done: Deferred[None] = Deferred()
        self._cancelled = False
        self._paused = False
        self._source: ByteSource | None = None
        self._notice = notice_for(surroundings.reactor, partial(outputs.write, stderr=True))
        outputs.changed = self._outputs_changed
        surroundings.interrupts.act = self._interrupted

    async def run(self, targets: Iterable[Target]) -> list[Outcome]:
        """Run on all targets and return their outcomes, in the order of their ends."""
        self._waiting.extend(targets)
        self._fill()
        await self._done
        self._notice.stop()
        await self._outputs.drained()
        return self._outcomes

    def status(self, own: int) -> int:
        """Return the exit status: ``own``, or that of a signal or of a closed stdout.

        Raises:
            CannotWrite: Output was lost.
        """
        if self._surroundings.interrupts.received:
            return self._surroundings.interrupts.status
        return self._outputs.status(own)

    # -- starting and ending -------------------------------------------------------------------

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._concurrency and not self._paused:
            self._start(self._waiting.popleft())
        if not self._waiting and not self._running and not self._done.called:
            self._done.callback(None)

    def _start(self, target: Target) -> None:
        presenter = self._present(target.device)
        if target.absent is not None:
            self._finish(presenter, target.absent)
            return
        events = None if self._events is None else partial(self._events, target.device)
        receiver = _Shown(presenter, self._opened, events)
        try:
            session = self._open_session(target.device, receiver)
        except RshellError as error:
            outcome = Outcome(status="refused", code=error.code, message=error.message)
            self._finish(presenter, outcome)
            return
        self._running[id(session)] = (target.device, session)
        session.link_changed = partial(self._notice.changed, target.device)
        self._notice.changed(target.device, session.away)
        if self._stdin:
            self._source = ByteSource(self._surroundings.reactor, 0, self._input)
        else:
            session.write_eof()
        session.outcome.addCallback(self._ended, id(session), presenter)

    def _ended(self, outcome: Outcome, number: int, presenter: Presenter) -> None:
        device, _ = self._running.pop(number)
        self._notice.changed(device, None)
        self._finish(presenter, outcome)
        self._fill()

    def _finish(self, presenter: Presenter, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if not self._outputs.failed:
            # Else the one thing to say is that our output is lost, and that is said elsewhere.
            presenter.end(outcome)

    # -- our input -----------------------------------------------------------------------------

    def _opened(self) -> None:
        """The device accepted: only now may our standard input be read."""
        source = self._source
        for _, session in self._running.values():
            if source is not None:
                session.registerProducer(source, True)
                source.start()

    def _input(self, data: bytes) -> None:
        for _, session in self._running.values():
            if data:
                session.write(data)
            else:
                session.unregisterProducer()
                session.write_eof()

    # -- back-pressure and the end of our readers -------------------------------------------------

    def _outputs_changed(self) -> None:
        if self._outputs.failed:
            self._cancel()
        full = self._outputs.full
        if full == self._paused:
            return
        self._paused = full
        for _, session in list(self._running.values()):
            if full:
                session.pause()
            else:
                session.resume()
            if self._paused != full:
                return  # it filled up again, and that was seen to
        if not full:
            self._fill()

    def _interrupted(self, count: int) -> None:
        if count > 1:
            self._surroundings.leave(self._surroundings.interrupts.status)
        else:
            self._cancel()

    def _cancel(self) -> None:
        """Ask all that runs to end; give up what has not ended in time."""
        if self._cancelled:
            return
        self._cancelled = True
        self._waiting.clear()
        for _, session in list(self._running.values()):
            session.cancel()
        reachable = any(session.away is None for _, session in self._running.values())
        # Those that are away cannot hear of it, so there is nothing to wait for.
        delay = CANCEL_SECONDS if reachable else 0.0
        self._surroundings.reactor.callLater(delay, self._give_up)
        self._fill()

    def _give_up(self) -> None:
        self._notice.stop()
        for device, session in self._running.values():
            if session.away is not None:
                name = printable(device)
                sys.stderr.write(f"rshell: {name}: the link is away; what runs there may go on\n")
        sys.stderr.flush()
        self._leave()

    def _leave(self) -> None:
        try:
            self._surroundings.leave(self.status(statuses.OURS))
        except CannotWrite:
            self._surroundings.leave(Failure())
