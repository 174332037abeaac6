"""The one line that says that the link is away, and takes itself back when it returns.

Where it goes depends on what stderr is: over the top row of a terminal that a shell has in raw
mode, a line of its own on any other terminal, and a plain line or two in a log file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from rshell.access.printable import printable
from rshell.client import Away

__all__ = ["AwayNotice", "Overlay", "PlainLines", "StatusLine", "notice_for"]

#: A break that is over sooner is not worth a word.
QUIET_SECONDS = 2.0
#: In a file nothing can be taken back, so less is said.
QUIET_IN_A_FILE_SECONDS = 5.0


class Place(Protocol):
    """Where the line is shown."""

    quiet_seconds: float

    def show(self, text: str) -> bytes:
        """Return what shows the text, or shows it anew; it is called each second."""

    def clear(self, seconds: float) -> bytes:
        """Return what takes it back.

        Args:
            seconds: How long the link was away.
        """


class Overlay:
    """The top row of a terminal that belongs to a program on the device."""

    quiet_seconds = QUIET_SECONDS

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns

    def show(self, text: str) -> bytes:
        columns = self._columns()
        if columns > 0:
            text = text[:columns]
        return b"\x1b7\x1b[1;1H\x1b[0;7m\x1b[2K" + text.encode() + b"\x1b[0m\x1b8"

    def clear(self, seconds: float) -> bytes:
        return b"\x1b7\x1b[1;1H\x1b[0m\x1b[2K\x1b8"


class StatusLine:
    """A line at the cursor, while nothing else is written."""

    quiet_seconds = QUIET_SECONDS

    def show(self, text: str) -> bytes:
        return b"\r\x1b[K" + text.encode()

    def clear(self, seconds: float) -> bytes:
        return b"\r\x1b[K"


class PlainLines:
    """A file, a pipe, the journal: one line when it breaks, one when that is over.

    It may be over because the link is back or because the session was given up: that is said by
    others, and what is said here is true of both.
    """

    quiet_seconds = QUIET_IN_A_FILE_SECONDS

    def __init__(self) -> None:
        self._said = False

    def show(self, text: str) -> bytes:
        if self._said:
            return b""
        self._said = True
        return f"rshell: {text}\n".encode()

    def clear(self, seconds: float) -> bytes:
        self._said = False
        return f"rshell: the link was away for {seconds:.0f} s\n".encode()


def notice_for(reactor: Any, write: Callable[[bytes], None]) -> AwayNotice:
    """Return the notice of a verb that does not have the terminal to itself."""
    place = StatusLine() if os.isatty(2) else PlainLines()
    return AwayNotice(reactor, place, write, "Ctrl-C quits")


class AwayNotice:
    """Shows which sessions' links are away, for how long, and how to give up.

    Args:
        reactor: The clock.
        place: Where to show it.
        write: Takes bytes for stderr.
        how_to_quit: For example ``~. quits``.

    Attributes:
        back: Called when a line that was shown has been taken back.
    """

    def __init__(
        self,
        reactor: Any,
        place: Place,
        write: Callable[[bytes], None],
        how_to_quit: str,
    ) -> None:
        self.back: Callable[[], None] | None = None
        self._reactor = reactor
        self._place = place
        self._write = write
        self._how_to_quit = how_to_quit
        self._away: dict[str, Away] = {}
        self._since = 0.0
        self._shown = False
        self._timer: Any = None

    def changed(self, device: str, away: Away | None) -> None:
        """Take in that a session's link went away (or why it still is), or is back."""
        if away is not None:
            self._away[device] = away
        else:
            self._away.pop(device, None)
        if self._away:
            self._since = min(one.since_seconds for one in self._away.values())
            if self._timer is None:
                self._tick()
        else:
            self.stop()

    def stop(self) -> None:
        """Take the line back; for good, if no link changes again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._away.clear()
        if self._shown:
            self._shown = False
            self._write(self._place.clear(self._reactor.seconds() - self._since))
            if self.back is not None:
                self.back()

    def _tick(self) -> None:
        elapsed = self._reactor.seconds() - self._since
        if elapsed >= self._place.quiet_seconds:
            self._shown = True
            text = f"link lost {elapsed:.0f} s, retrying, {self._how_to_quit}"
            self._write(self._place.show(f"{self._who()}: {text}"))
            wait = 1.0
        else:
            wait = self._place.quiet_seconds - elapsed
        self._timer = self._reactor.callLater(wait, self._tick)

    def _who(self) -> str:
        if len(self._away) == 1:
            return printable(next(iter(self._away)), 64)
        return f"{len(self._away)} devices"
