"""Pending: what was asked for and is not answered yet, and the wait until that is less."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.client.files.state import CopyState

__all__ = ["ANSWER_BYTES", "Pending"]

#: What was asked for and is not here yet: enough for any round trip, and no more than the
#: device may have to keep for us.
MAX_EXPECTED_BYTES = 8 * 1024 * 1024
MAX_ASKED = 500
#: Each answer costs something, however empty the file.
ANSWER_BYTES = 256


class Pending:
    """Counts one transfer's files under way; one may wait for it to become less at a time.

    Args:
        state: Of the copy.

    Attributes:
        count: Files whose end has not come.
        expected: Bytes that were asked for.
    """

    def __init__(self, state: CopyState) -> None:
        self.count = 0
        self.expected = 0
        self._state = state
        self._fewer: Deferred[None] | None = None
        self._fatal: Failure | None = None

    @property
    def failed(self) -> bool:
        """Whether something ended the whole transfer."""
        return self._fatal is not None

    def check(self) -> None:
        """End here if it cannot go on.

        Raises:
            RshellError: The copy was stopped, or a session is over.
        """
        self._state.check()
        if self._fatal is not None:
            self._fatal.raiseException()

    async def at_most(self, count: int) -> None:
        """Wait until so few are under way; see `check`."""
        while self.count > count:
            self.check()
            self._fewer = Deferred()
            await self._fewer
        self.check()

    async def room(self, size: int) -> None:
        """Wait until a file of so many bytes may be asked for; see `check`."""
        while self.count and (self.count >= MAX_ASKED or self.expected + size > MAX_EXPECTED_BYTES):
            await self.at_most(self.count - 1)
        self.check()

    def one_less(self) -> None:
        """A file's end has come."""
        self.count -= 1
        self.wake()

    def fail(self, failure: Failure) -> None:
        """Nothing more can be done; the first reason is told to whoever waits."""
        self._fatal = self._fatal or failure
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look again."""
        fewer, self._fewer = self._fewer, None
        if fewer is not None:
            fewer.callback(None)
