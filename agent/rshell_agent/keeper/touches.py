"""What workers tell of the files they touched, until the gateway has written it down (K54, K55).

A worker writes lines to a pipe; here they become batches, which wait for the agent to fetch them
and to say that they are noted. They are no part of the session's stream: its operator neither gets
nor acknowledges them, and they outlast it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import loop as loops
from rshell_agent.keeper import wire
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.loop import Loop, Timer
from rshell_agent.keeper.wire import Map, WireError

__all__ = ["Teller", "TouchBook"]

_READ = 16 * 1024
_OTHER = "other"  # where there are more kinds of operations than workers have


class TouchBook:
    """All batches of this keeper, oldest first.

    Attributes:
        ready: Called when there is a batch to fetch.
    """

    def __init__(self, loop: Loop, times: Times) -> None:
        self.loop, self.times = loop, times
        self.ready: Callable[[], None] = lambda: None
        self._batches: dict[tuple[str, int], tuple[Map, int, float]] = {}  # batch, bytes, since
        self._bytes = 0
        self._of_session: dict[str, int] = {}  # bytes
        self._stalled: dict[Teller, None] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def full(self, session: str) -> bool:
        """Whether a session has to wait until something is noted."""
        own = self._of_session.get(session, 0)
        return own >= c.TOUCHED_SESSION or self._bytes >= c.TOUCHED_TOTAL

    def add(self, session: str, number: int, batch: Map, size: int) -> None:
        """Take a batch; whoever adds has asked whether it is `full`."""
        self._batches[session, number] = (batch, size, self.loop.now())
        self._count(session, size)
        self.ready()

    def _count(self, session: str, size: int) -> None:
        self._bytes += size
        own = self._of_session.get(session, 0) + size
        if own:
            self._of_session[session] = own
        else:
            self._of_session.pop(session, None)

    def stall(self, teller: Teller) -> None:
        """Wake a teller when there may be room."""
        self._stalled[teller] = None

    def unnoted(self) -> list[object]:
        """Return the oldest batches, as the call `touched` tells them."""
        return [batch for batch, _, _ in list(self._batches.values())[: c.TOUCHED_BATCHES]]

    def noted(self, call: Map) -> list[object]:
        """Drop what the gateway has; return what there was of it."""
        found: list[object] = []
        for pair in wire.array(call, "batches"):
            if not isinstance(pair, list) or len(pair) != 2:
                raise WireError("batches: not a pair")
            if self._drop((str(pair[0]), pair[1] if type(pair[1]) is int else 0)):
                found.append(pair)
        self._wake()
        return found

    def _drop(self, key: tuple[str, int]) -> bool:
        entry = self._batches.pop(key, None)
        if entry is not None:
            self._count(key[0], -entry[1])
        return entry is not None

    def _wake(self) -> None:
        stalled, self._stalled = self._stalled, {}
        for teller in stalled:
            teller.go_on()

    def expire(self) -> None:
        """Give up what nobody fetched for a day: the gateway is told by the missing number."""
        before = self.loop.now() - self.times.touched
        for key in [key for key, (_, _, since) in self._batches.items() if since <= before]:
            self._drop(key)
        self._wake()


class Teller:
    """The reading end of one worker's pipe, which it owns."""

    def __init__(self, book: TouchBook, session: bytes, fd: int) -> None:
        self._book, self._session, self._fd = book, wire.base64(session), fd
        self._rest = b""
        self._files: list[object] = []
        self._size = 0
        self._left: dict[str, int] = {}  # operations that are only counted
        self._number = self._named = 0
        self._timers: dict[str, Timer] = {}
        self._counting = False  # it is full for too long: the worker must go on
        self._watch()

    def _watch(self) -> None:
        self._book.loop.watch(self._fd, self._ready, loops.READ)

    def go_on(self) -> None:
        """There may be room."""
        if self._fd < 0:
            return
        if self._book.full(self._session):
            self._book.stall(self)
            return
        self._cancel("stall")
        self._counting = False
        self._watch()

    def _ready(self) -> None:
        for _ in range(c.READS_PER_TURN):
            if not self._read():
                break
        if self._fd >= 0 and not self._counting and self._book.full(self._session):
            self._book.loop.unwatch(self._fd)
            self._book.stall(self)
            self._after("stall", self._book.times.stall, self._count_on)

    def _count_on(self) -> None:
        self._counting = True
        self._watch()

    def _read(self) -> bool:
        """Take what is there; False if there is nothing now, or no more."""
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return False
        if not data:
            self._book.loop.unwatch(self._fd)
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > c.TOUCHED_LINE:  # no worker of ours writes it
            self._rest = b""
        for line in lines:
            self._line(line)
        return True

    def _line(self, line: bytes) -> None:
        try:
            entry = wire.parse_map(line)
            op = wire.text(entry, "op", 32)
        except WireError:
            return  # torn by the worker's end
        room = not (self._counting and self._book.full(self._session))
        if not room or self._named >= c.TOUCHED_NAMES or len(line) > c.TOUCHED_LINE:
            op = op if op in self._left or len(self._left) < c.TOUCHED_OPS else _OTHER
            self._left[op] = self._left.get(op, 0) + 1
            return
        if self._size + len(line) > c.TOUCHED_LINE or len(self._files) >= c.TOUCHED_FILES:
            self._flush()
        self._named += 1
        self._files.append(entry)
        self._size += len(line)
        if "flush" not in self._timers:
            self._after("flush", self._book.times.tell, self._flush)

    def _flush(self) -> None:
        self._cancel("flush")
        if not self._files and not self._left:
            return
        self._number += 1
        batch: Map = {"session": self._session, "n": self._number, "files": self._files}
        if self._left:
            batch["left_out"], self._left = self._left, {}
        size, self._files, self._size = self._size + c.TOUCHED_SPARE, [], 0
        self._book.add(self._session, self._number, batch, size)

    def close(self) -> None:
        """The worker has ended: take the rest, which a pipe holds at most."""
        if self._fd < 0:
            return
        self._counting = False
        for _ in range(c.PIPE_MAX // _READ):
            if not self._read():
                break
        self._book.loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._flush()
        for name in tuple(self._timers):
            self._cancel(name)

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._book.loop.after(seconds, call)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
