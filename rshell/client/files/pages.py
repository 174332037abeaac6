"""Pages of a listing on their way from a `FilesConnection` to whoever iterates over them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.client.files.frames import NOTE, REPLY
from rshell.client.files.records import FilesError

__all__ = ["PageQueue", "Pausable"]


class Pausable(Protocol):
    """What is used of the connection."""

    def pause(self) -> None:
        """Stop delivery."""

    def resume(self) -> None:
        """Deliver again."""


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
        value = msgspec.json.decode(payload, type=dict[str, Any])
        if kind == NOTE:
            if self._note is not None:
                path = value.get("path")
                text = printable(str(value.get("message", "")), 300)
                self._note(text, base64.b64decode(path) if isinstance(path, str) else b"")
        elif kind == REPLY:
            self._pages.append(value)
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
