"""What the audit log says of one session."""

from __future__ import annotations

from typing import Any

import attrs

from rshell.store.records import AuditEnd
from tests.store.fixture import StoreTestCase
from tests.store.test_audit import OPENING

SESSION = "ab" * 16


class StoryTests(StoreTestCase):
    def write(self, **changes: Any) -> int:
        return self.got(self.store.append_audit(attrs.evolve(OPENING, **changes)))

    def told(self) -> bool:
        return self.got(self.store.session_story(SESSION)).told

    def test_unknown(self) -> None:
        """Of a session without rows there is no first one."""
        story = self.got(self.store.session_story("cd" * 16))
        self.assertEqual((story.first, story.told), (None, False))

    def test_first(self) -> None:
        """The first opening row says whose it is, whatever was refused before or claimed since."""
        self.write(operator="eve", opens=False, status="refused")
        self.write(kind="gateway.end-session", operator="eve")
        first = self.write()
        self.write(operator="bob")
        story = self.got(self.store.session_story(SESSION))
        assert story.first is not None
        self.assertEqual((story.first.seq, story.first.record.operator), (first, "ann"))

    def test_ends_of_attempts(self) -> None:
        """Ends of attempts do not tell of the session; an outcome does."""
        for status in ("detached", "interrupted", "refused", "offline", "viewed"):
            end = AuditEnd(refers=self.write(), status=status)
            self.got(self.store.finish_audit(end))
            self.assertFalse(self.told(), status)
        self.got(self.store.finish_audit(AuditEnd(refers=self.write(attempt=2), status="exit")))
        self.assertTrue(self.told())

    def unsettled(self, limit: int = 10) -> list[str]:
        """Return the sessions that nobody told the outcome of."""
        return [session for _, session in self.got(self.store.unsettled_sessions(limit))]

    def test_unsettled(self) -> None:
        """What operators left without an outcome is unsettled, the newest of it, oldest first."""
        sessions = [f"{number:032x}" for number in range(5)]
        for session, status in zip(sessions, ("detached", "interrupted") * 3, strict=False):
            row = self.write(session=session)
            self.assertNotIn(session, self.unsettled())  # under way
            self.got(self.store.finish_audit(AuditEnd(refers=row, status=status)))
        self.assertEqual(self.unsettled(), sessions)
        self.assertEqual(self.unsettled(2), sessions[3:])
        again = self.write(session=sessions[0], attempt=2)
        self.got(self.store.finish_audit(AuditEnd(refers=again, status="exit", exit_code=3)))
        self.write(session=sessions[1], kind="session.outcome", opens=False, status="own word")
        for status in ("refused", "viewed", "offline"):
            row = self.write(session=status[0].encode().hex() * 16)
            self.got(self.store.finish_audit(AuditEnd(refers=row, status=status)))
        self.assertEqual(self.unsettled(), sessions[2:])

    def test_reported(self) -> None:
        """A device's report counts, whatever word it chose; another device's does not."""
        self.write()
        self.write(kind="session.outcome", opens=False, device="id-2", status="ok")
        self.assertFalse(self.told())
        self.write(kind="session.outcome", opens=False, status="a word of its own")
        self.assertTrue(self.told())
