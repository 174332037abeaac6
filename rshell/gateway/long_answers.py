"""Answers of any length: rows are made a few a turn, and sent as the operator takes them.

::

    verb  --rows-->  LongAnswer  --text-->  AnswerPour  --StreamChannel-->  operator
                        ^ a turn's share       ^ waits while 64 KiB are unsent

A listing of 100,000 rows takes seconds of the processor.  In one go nobody's key would echo
meanwhile; so no turn of the reactor makes more than `ROWS_A_TURN` rows, of all answers together.
What waits to be sent of an answer is bounded by the stream's buffer, and who leaves ends the work.

What it is not: how rows are read.  Whoever lists asks the store for a page at a time
(`rshell.store.listing`), and what a row tells is as of its page.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rshell.gateway.callers import OpenRefused
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode

__all__ = ["ROWS_A_TURN", "AnswerPour", "LongAnswer", "Slices", "in_slices"]

#: A row of a device is made and encoded in 10 µs: a millisecond in which nobody else is served.
ROWS_A_TURN = 100
#: Answers of several pages that are under way.  Each keeps the ids of what is left, 37 bytes a
#: device, for as long as its operator likes to take: with 100,000 devices 4 MB.
MAX_ANSWERS = 64
#: The same of one operator, who may never take them: the others' must be answered.  As many
#: programs may use one operator's name at the same minute.
MAX_OF_ONE = 16
#: Short texts are joined, so that an answer of a few rows is one write; the size of a frame.
PIECE_BYTES = 16 * 1024

T = TypeVar("T")


class Turning(Protocol):
    """Knows when a turn of the reactor is over: `rshell.link.clock.TimerWheel`."""

    def call_next_turn(self, call: Callable[[], None]) -> None:
        """Call ``call`` when the reactor has looked after everyone else."""


class Slices:
    """Shares the reactor's turns among all long answers of a gateway.

    Args:
        turning: Of the reactor.

    Attributes:
        long: How many answers are under way that need more than one page.
    """

    def __init__(self, turning: Turning) -> None:
        self.long = 0
        self._whose: Counter[str] = Counter()
        self._turning = turning
        self._left = ROWS_A_TURN
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()

    @contextmanager
    def lasting(self, operator: str) -> Iterator[None]:
        """Count an answer that needs another page, for as long as it is under way.

        Args:
            operator: Who asked.

        Raises:
            OpenRefused: Too many do, of this operator or of all.
        """
        whose = None
        if self._whose[operator] >= MAX_OF_ONE:
            whose = f"{MAX_OF_ONE} of your long listings"
        elif self.long >= MAX_ANSWERS:
            whose = f"{MAX_ANSWERS} long listings"
        if whose is not None:
            raise OpenRefused(
                ErrorCode.OVERLOAD,
                f"{whose} are under way: try again, or use a narrower selector",
            )
        self.long += 1
        self._whose[operator] += 1
        try:
            yield
        finally:
            self.long -= 1
            self._whose[operator] -= 1
            self._whose += Counter()  # nothing is kept of who has none

    async def turn(self, rows: int) -> None:
        """Wait until this turn has room for so many rows; what is too much for one gets one."""
        if not self._waiting and self._fits(rows):
            self._charge(rows)
            return
        turn: Deferred[None] = Deferred()
        self._waiting.append((rows, turn))
        await turn

    def _fits(self, rows: int) -> bool:
        return rows <= self._left or self._left == ROWS_A_TURN

    def _charge(self, rows: int) -> None:
        if rows and self._left == ROWS_A_TURN:
            self._turning.call_next_turn(self._next)
        self._left -= rows

    def _next(self) -> None:
        self._left = ROWS_A_TURN
        while self._waiting and self._fits(self._waiting[0][0]):
            rows, turn = self._waiting.popleft()
            self._charge(rows)
            turn.callback(None)


async def in_slices(
    slices: Slices, found: Iterable[T], told: Callable[[T], Any]
) -> AsyncGenerator[list[Any], None]:
    """Yield what is told of each that was found already, a slice at a time.

    Args:
        slices: Of the gateway.
        found: May find the next one only when it is asked for.
        told: What to tell of one.
    """
    left = iter(found)
    while some := list(islice(left, ROWS_A_TURN)):
        await slices.turn(len(some))
        yield [told(one) for one in some]


@attrs.frozen
class LongAnswer:
    """A JSON document that is made as it is sent.

    Attributes:
        rows: Slices of the rows of an array, each at most a turn's share; before the first one it
            may raise what any verb may.
        head: What comes before the first row.
        tail: Tells what comes after the last row.
    """

    rows: AsyncGenerator[Sequence[Any], None]
    head: bytes = b"["
    tail: Callable[[], bytes] = lambda: b"]"

    async def pieces(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """Yield the text, and with each piece whether it is the last.

        A piece may be empty: it says that the work goes on.
        """
        text, begun, slices = self.head, False, 0
        async for rows in self.rows:
            if rows:
                encoded = msgspec.json.encode(rows)[1:-1]
                text += b"," + encoded if begun else encoded
                begun = True
            slices += 1
            if len(text) >= PIECE_BYTES:
                yield text, False
                text = b""
            elif slices > 1:
                yield b"", False
        yield text + self.tail(), True


@implementer(IPushProducer)
class AnswerPour:
    """Writes an answer to a stream as fast as it is taken.

    Args:
        channel: Accepted; nobody else produces for it.

    Attributes:
        gone: Nobody wants the answer any more.
    """

    def __init__(self, channel: StreamChannel) -> None:
        self.gone = False
        self._channel = channel
        self._room: Deferred[None] | None = None
        self._paused = False
        channel.registerProducer(self, True)

    async def write(self, data: bytes) -> None:
        """Write some, and wait until there is room for more, or nobody wants it."""
        if data and not self.gone:
            self._channel.write(data)
        if self._paused and not self.gone:
            self._room = Deferred()
            await self._room

    def close(self) -> None:
        """No more is written this way."""
        self._channel.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        self.gone = True
        self._go_on()

    def _go_on(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)
