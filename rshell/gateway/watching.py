"""Watching: who looks on at a session, and what the one who is looked at is told.

A viewer's stream is the device's copy (rule R9): it cannot slow the session, nor reach it.  That it
is there should be no secret from whom it shows, so the driver of a session is told of viewers who
are somebody else, as they come and go, unless the configuration says otherwise; listings name them
in any case.  What is recorded of the input is always told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rshell.gateway.callers import INPUT_RECORDED
from rshell.gateway.live_sessions import LiveSession
from rshell.link.core.errors import ErrorCode

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Watching"]


class Watching:
    """Tells drivers of their viewers.

    Args:
        gateway: Whose sessions.
        told: Whether drivers are told at all.
    """

    def __init__(self, gateway: Gateway, *, told: bool) -> None:
        self._gateway = gateway
        self._told = told

    def joined(self, session: LiveSession) -> None:
        """A device accepted an attempt."""
        if session.view:
            self._gateway.metrics.sessions_watched.inc()
            self._tell_driver(session, f"{session.who} watches this session")
            return
        if not session.anew:
            return
        self._tell_recorded(session)
        if self._told and session.stream is not None:
            for viewer in self._gateway.switchboard.viewers(session.device.id, session.session):
                if viewer.caller.operator.name != session.caller.operator.name:
                    session.stream.tell("watched", f"{viewer.who} watches this session")

    def left(self, session: LiveSession) -> None:
        """An attempt that a device had accepted is over."""
        if session.view:
            self._tell_driver(session, f"{session.who} does not watch any more")

    def _tell_driver(self, viewer: LiveSession, text: str) -> None:
        driver = self._gateway.switchboard.driven(*viewer.key)
        if not self._told or driver is None or driver.stream is None:
            return
        if driver.caller.operator.name != viewer.caller.operator.name:
            driver.stream.tell("watched", text)

    def _tell_recorded(self, session: LiveSession) -> None:
        recording, stream = session.recording, session.stream
        if recording is None or not recording.takes_input or stream is None:
            return
        if not stream.tell(INPUT_RECORDED, "what you type here is recorded, passwords too"):
            # Not from within its own turn.
            text = "what you type would be recorded, and your rshell is too old to say so"
            self._gateway.wheel.call_next_turn(
                lambda: session.end(ErrorCode.VERSION.value, f"{text}: upgrade it")
            )
