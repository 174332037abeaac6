"""A verb's coroutine on the reactor: the only place of the command that takes the global one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import attrs
from twisted.python.failure import Failure

from rshell.access.printable import printable
from rshell.client import Client, connect, find_profile
from rshell.link.clock import use_monotonic_clock
from rshell.link.polling import poll_lightly

__all__ = ["Interrupts", "Surroundings", "run_on_reactor", "run_with_client"]


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP, told in the reactor's thread.

    Attributes:
        received: The first of them, 0 while none came.
        act: Called with the number of signals so far; without it the first one ends the verb.
    """

    def __init__(self, reactor: Any, leave: Callable[[int], None]) -> None:
        self.received = 0
        self.act: Callable[[int], None] | None = None
        self._reactor = reactor
        self._leave = leave
        self._count = 0

    @property
    def status(self) -> int:
        """The exit status that stands for the first signal."""
        return 128 + self.received

    def install(self) -> None:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that our parent ignores (nohup) stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._arrived)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._tell, number)

    def _tell(self, number: int) -> None:
        self._count += 1
        self.received = self.received or number
        if self.act is None:
            self._leave(self.status)
        else:
            self.act(self._count)


@attrs.frozen
class Surroundings:
    """What a verb's coroutine is given.

    Attributes:
        reactor: Twisted's.
        interrupts: The signals.
        leave: Ends the verb at once with an exit status or a failure, whatever still waits.
    """

    reactor: Any
    interrupts: Interrupts
    leave: Callable[[int | Failure], None]


def run_on_reactor(verb: Callable[[Surroundings], Coroutine[Any, Any, int]]) -> int:
    """Run a verb to its end and return its exit status.

    Raises:
        Exception: Whatever the verb raised.
    """
    from twisted.internet import reactor as global_reactor
    from twisted.internet.defer import Deferred

    reactor: Any = global_reactor
    use_monotonic_clock(reactor)
    poll_lightly(reactor)
    _begin_logging()
    results: list[Any] = []

    def leave(result: Any) -> None:
        if not results:
            results.append(result)
            reactor.callWhenRunning(reactor.stop)

    interrupts = Interrupts(reactor, leave)

    def start() -> None:
        interrupts.install()
        Deferred.fromCoroutine(verb(Surroundings(reactor, interrupts, leave))).addBoth(leave)

    reactor.callWhenRunning(start)
    # Ours are installed instead: Twisted's stop the reactor, ours can cancel what runs first.
    reactor.run(installSignalHandlers=False)
    result = results[0] if results else 0
    if isinstance(result, Failure):
        result.raiseException()
    return int(result or 0)


def run_with_client(
    home: str | None, verb: Callable[[Surroundings, Client], Coroutine[Any, Any, int]]
) -> int:
    """Connect as the operator of ``--home`` (or the usual places) and run a verb.

    Raises:
        RshellError: No profile, no link, or what the verb raised.
    """
    profile = find_profile(home, os.environ)

    async def main(surroundings: Surroundings) -> int:
        client = await connect(surroundings.reactor, profile)
        client.on_notice(_tell_notice)
        try:
            return await verb(surroundings, client)
        finally:
            await client.close()

    return run_on_reactor(main)


def _tell_notice(device: str, _code: str, message: str) -> None:
    """Show what the gateway says of a session, for verbs that do not show it themselves."""
    try:
        sys.stderr.write(f"rshell: {printable(device, 64)}: {message}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads it


def _begin_logging() -> None:
    """Send Twisted's log nowhere: our errors are one line, and its are tracebacks."""
    from twisted.logger import ILogObserver, globalLogBeginner, textFileLogObserver

    observers: list[ILogObserver] = []
    if os.environ.get("RSHELL_DEBUG"):
        observers.append(textFileLogObserver(sys.stderr))
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
