"""Answers a device that asks whether a change may stand.

The device asks by the event ``guard``, each time that somebody is attached.  Only over a link that
it dialled after the command's end does an answer count, so nothing is said before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rshell.client.session import Session, SessionReceiver
from rshell.handlers.confirm import CONFIRM, GUARD, ROLLBACK, GuardEvent

__all__ = ["AFTER_SECONDS", "Confirmer", "GuardEvent", "Hearing"]

#: After the time to confirm: the rollback runs, and the device has to be reachable again.
AFTER_SECONDS = 300.0


class Hearing:
    """A session's receiver that lets somebody else hear its events, too.

    Args:
        inner: Gets everything.
        heard: Called with the session, an event's kind and its body.

    Attributes:
        session: To be set as soon as it is there.
    """

    def __init__(
        self, inner: SessionReceiver, heard: Callable[[Session, str, dict[str, Any]], None]
    ) -> None:
        self.session: Session | None = None
        self._inner = inner
        self._heard = heard

    def session_opened(self) -> None:
        """The device accepted."""
        self._inner.session_opened()

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Output goes on."""
        self._inner.output_received(data, stderr)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """An event goes to both."""
        self._inner.event_received(kind, body)
        if self.session is not None:
            self._heard(self.session, kind, body)


class Confirmer:
    """Confirms what went well, or asks somebody.

    Args:
        keep_failed: Confirm however the command ended, as far as that is asked.
        ask: Asks a person: called with the event and what takes the answer; None asks nobody.
        told: Called with (device, word, event): ``waiting`` once, ``confirming``, ``undoing``.
    """

    def __init__(
        self,
        *,
        keep_failed: bool = False,
        ask: Callable[[GuardEvent, Callable[[bool], None]], None] | None = None,
        told: Callable[[str, str, GuardEvent], None] = lambda device, word, event: None,
    ) -> None:
        self._keep_failed = keep_failed
        self._ask = ask
        self._told = told
        self._waiting: set[bytes] = set()
        self._asked: set[bytes] = set()

    def heard(self, session: Session, kind: str, body: dict[str, Any]) -> None:
        """Take in an event of a session."""
        if kind != GUARD:
            return
        event = GuardEvent.read(body)
        if not event.fresh:
            if session.session_id not in self._waiting:
                self._waiting.add(session.session_id)
                self._told(session.device or "", "waiting", event)
        elif not (event.succeeded or self._keep_failed):
            self._told(session.device or "", "unclear", event)
        elif self._ask is None:
            self._answer(session, event, True)
        elif session.session_id not in self._asked:
            self._asked.add(session.session_id)
            self._ask(event, lambda good: self._answer(session, event, good))

    def _answer(self, session: Session, event: GuardEvent, good: bool) -> None:
        self._told(session.device or "", "confirming" if good else "undoing", event)
        session.send_event(CONFIRM if good else ROLLBACK)
