"""The operator's end of a stream, in a test: what the device said, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from rshell.link.channel import StreamChannel
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol


class Talk:
    """One stream to the device."""

    def __init__(self, link: LinkProtocol, request: Open, window: int = 256 * 1024) -> None:
        self.opened: Deferred[Opened] = Deferred()
        self.ended: Deferred[tuple[str, str]] = Deferred()
        self.output = b""
        self.errors = b""
        self.outcome: dict[str, Any] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.request = request
        self._watchers: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self.channel = StreamChannel(link, self, window)
        self.channel.request(request)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fire when ``condition`` holds; looked at whenever something arrives."""
        waiter: Deferred[None] = Deferred()
        self._watchers.append((condition, waiter))
        self._look()
        return waiter

    def _look(self) -> None:
        for entry in list(self._watchers):
            if entry[0]():
                self._watchers.remove(entry)
                entry[1].callback(None)

    def channel_opened(self, opened: Opened) -> None:
        self.opened.callback(opened)

    def data_received(self, data: bytes, stderr: bool) -> None:
        if stderr:
            self.errors += data
        else:
            self.output += data
        self._look()

    def input_ended(self) -> None: ...

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome":
            self.outcome = body
        else:
            self.events.append((kind, body))
        self._look()

    def channel_closed(self, code: str, message: str) -> None:
        self.ended.callback((code, message))
