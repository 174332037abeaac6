"""A round of an epoll reactor with less beside the work: what is ready is read or written at once.

Twisted's own gives each event a logging context with the name of its protocol, which nothing of
ours reads (nine calls of Python code), and asks the kernel with room for the events of all
sockets, which with thousands is a large block of memory, searched for anew in each round.

It takes the place of one method and uses attributes of the reactor that are not public.  A reactor
that is made otherwise (another platform, another Twisted) keeps its own round, and all works.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import Logger

__all__ = ["FEW", "poll_lightly"]

#: So many events are asked for; mostly there is one.  Room for them (12 bytes each) is found at
#: once by malloc.
FEW: Final = 64
_log = Logger()
_NEEDED: Final = ("_poller", "_selectables", "_doReadOrWrite")


def poll_lightly(reactor: Any) -> bool:
    """Let an epoll reactor do each round so; call it before the reactor runs.

    Returns:
        Whether it does.
    """
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:  # a platform without epoll
        return False
    if type(reactor) is not EPollReactor or not all(hasattr(reactor, name) for name in _NEEDED):
        return False
    made: Any = reactor
    poll, selectables, act = made._poller.poll, made._selectables, made._doReadOrWrite

    def dispatch(ready: list[tuple[int, int]]) -> None:
        for number, event in ready:
            selectable = selectables.get(number)
            if selectable is None:
                continue  # one before it has ended it
            try:
                act(selectable, number, event)  # which logs what a read or write raises
            except Exception:
                _log.failure("a fault while a connection ended")

    def do_iteration(timeout: float | None) -> None:
        # An interrupted wait goes on by itself (PEP 475), after the signal's handler.
        ready = poll(-1 if timeout is None else timeout, FEW)
        dispatch(ready)
        if len(ready) == FEW:
            # There may be more, and everyone is served before anyone is served again (rule Q5).
            dispatch(poll(0, max(FEW, len(selectables))))

    made.doIteration = do_iteration
    return True
