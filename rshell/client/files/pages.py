"""Pages of a listing on their way from a `FilesConnection` to whoever iterates over them.

What is in a page is the device's word: it is decoded strictly, and what does not fit ends it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.client.files.frames import NOTE, REPLY
from rshell.client.files.records import FilesError

__all__ = ["PageQueue", "Pausable", "decoded_note", "decoded_paths"]

#: Of what a device says about something that it passed over; more is cut.
MAX_NOTE_CHARACTERS = 300


class Pausable(Protocol):
    """What is used of a `FilesConnection`."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


def decoded_paths(value: Any) -> list[bytes]:
    """Return the paths in a page.

    Raises:
        FilesError: Code ``protocol``: they are not what the protocol has.
    """
    try:
        return [base64.b64decode(path, validate=True) for path in value or ()]
    except (binascii.Error, TypeError, ValueError):
        raise FilesError("protocol", "the device sent paths that cannot be read") from None


def decoded_note(payload: bytes) -> tuple[str, bytes]:
    """Return text, safe to show, and path of a NOTE.

    Raises:
        FilesError: Code ``protocol``: it is none.
        msgspec.DecodeError: Likewise.
    """
    value = msgspec.json.decode(payload, type=dict[str, Any])
    text = printable(str(value.get("message", "")), MAX_NOTE_CHARACTERS)
    path = value.get("path")
    return text, decoded_paths([path])[0] if isinstance(path, str) else b""


class PageQueue:
    """Pages of a listing, on their way to whoever iterates; the device waits for him.

    Args:
        connection: Is paused while pages wait.
        note: Called with message and path of NOTEs.
    """

    def __init__(self, connection: Pausable, note: Callable[[str, bytes], None] | None) -> None:
        self._connection = connection
        self._note = note
        self._pages: list[dict[str, Any]] = []
        self._over = False
        self._failure: FilesError | None = None
        self._wanted: Deferred[None] | None = None

    def received(self, kind: int, payload: bytes) -> None:
        """A page or a note."""
        if kind == NOTE:
            if self._note is not None:
                self._note(*decoded_note(payload))
        elif kind == REPLY:
            self._pages.append(msgspec.json.decode(payload, type=dict[str, Any]))
            self._connection.pause()
            self._tell()

    def ended(self, page: dict[str, Any]) -> None:
        """The last page."""
        self._pages.append(page)
        self._over = True
        self._tell()

    def failed(self, failure: Any) -> None:
        """It will not be complete."""
        self._failure = failure.value
        self._over = True
        self._tell()

    def _tell(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                while not self._pages and not self._over:
                    self._wanted = Deferred()
                    await self._wanted
                if not self._pages:
                    break
                yield self._pages[0]
                self._drop()
        finally:
            while self._pages:
                self._drop()
        if self._failure is not None:
            raise self._failure

    def _drop(self) -> None:
        page = self._pages.pop(0)
        if page.get("more") is True:
            self._connection.resume()
