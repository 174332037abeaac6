"""DuplicateLink: a second connection of an agent that has one already (rule H2)."""

from __future__ import annotations

from typing import Any

from rshell.link.clock import TimerWheel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.limits import AT_AGENT
from rshell.link.core.messages import GoAway, Hello, Open, Sessions, Welcome
from rshell.link.protocol import LinkProtocol
from rshell.testing.clocks import ProcessClock

__all__ = ["DuplicateLink"]


class DuplicateLink:
    """Says a HELLO, and notes what becomes of it.

    Attributes:
        link: The link.
        welcome: What the gateway said; None before, or if it refused.
        goaway: Likewise.
        lost: Why it is gone; None while it lives.
    """

    def __init__(self, process: ProcessClock, hello: Hello) -> None:
        self.link = LinkProtocol(self, TimerWheel(process), dialler=True, limits=AT_AGENT)
        self.welcome: Welcome | None = None
        self.goaway: GoAway | None = None
        self.lost: str | None = None
        self._hello = hello

    def link_handshaken(self, link: LinkProtocol) -> None:
        link.hello(self._hello)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        """Not for a dialler."""

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.welcome = welcome

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """It reported none."""

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.goaway = goaway

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        link.refuse(number, ErrorCode.INTERNAL, "only a duplicate")

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.lost = reason

    def __repr__(self) -> str:
        told: Any = self.goaway.code if self.goaway else None
        return f"<DuplicateLink welcome={self.welcome is not None} told={told} lost={self.lost}>"
