"""Notices: what the gateway tells of sessions, beside what their devices send (rule S4).

A session is about to end, somebody watches it, what is typed is recorded.  The words are the
gateway's, so they come another way than a device's events, which could say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rshell.access.printable import printable
from rshell.link.core.messages import Notice

__all__ = ["NoticeListener", "Notices"]

#: Told anew at each attempt that may have another end, and worth one line.
_ONCE = frozenset({"input-recorded"})


class NoticeListener(Protocol):
    """A session that is told of."""

    session_id: bytes
    device: str | None
    noticed: Callable[[str, str], None] | None


class Notices:
    """Hands each notice to its session, or to who hears all the others.

    Attributes:
        unheard: Called with a device, a code and a line for people, for each session that hears
            none itself.
    """

    def __init__(self) -> None:
        self.unheard: Callable[[str, str, str], None] = lambda device, code, message: None
        self._listening: dict[bytes, tuple[NoticeListener, set[str]]] = {}

    def listen(self, session: NoticeListener) -> None:
        """Tell a session from now on."""
        self._listening[session.session_id] = (session, set())

    def leave(self, session: NoticeListener) -> None:
        """Tell it no more."""
        if self._listening.get(session.session_id, (None,))[0] is session:
            del self._listening[session.session_id]

    def arrived(self, notice: Notice) -> None:
        """Take in a notice; one of a session that is over is dropped."""
        session, told = self._listening.get(notice.session, (None, set[str]()))
        if session is None or (notice.code in _ONCE and notice.code in told):
            return
        code, message = printable(notice.code, 64), printable(notice.message, 256)
        if notice.code in _ONCE:
            told.add(notice.code)
        if session.noticed is not None:
            session.noticed(code, message)
        else:
            self.unheard(session.device or "", code, message)
