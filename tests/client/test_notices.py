"""What the gateway tells of sessions, beside what devices send."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rshell.client.notices import Notices
from rshell.link.core.messages import Notice


@attrs.define(eq=False)
class Listener:
    session_id: bytes = b"S" * 16
    device: str | None = "pump-1"
    noticed: Callable[[str, str], None] | None = None


class NoticeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.notices = Notices()
        self.unheard: list[tuple[str, str, str]] = []
        self.notices.unheard = lambda *told: self.unheard.append(told)

    def arrive(self, code: str = "watched", message: str = "bob watches", id: bytes = b"S") -> None:
        self.notices.arrived(Notice(id * 16, code, message))

    def test_heard(self) -> None:
        """A session that listens hears its own; one that does not has it told of by device."""
        heard: list[tuple[str, str]] = []
        session = Listener(noticed=lambda *told: heard.append(told))
        self.notices.listen(session)
        self.arrive()
        self.assertEqual((heard, self.unheard), ([("watched", "bob watches")], []))
        session.noticed = None
        self.arrive()
        self.assertEqual(self.unheard, [("pump-1", "watched", "bob watches")])

    def test_over(self) -> None:
        """Of a session that is over, or was never ours, nothing is told."""
        session = Listener()
        self.notices.listen(session)
        self.notices.leave(session)
        self.notices.leave(session)
        self.arrive()
        self.arrive(id=b"T")
        self.assertEqual(self.unheard, [])

    def test_another_of_that_id(self) -> None:
        """Who leaves takes nobody else along."""
        first, second = Listener(), Listener(device="pump-2")
        self.notices.listen(first)
        self.notices.listen(second)
        self.notices.leave(first)
        self.arrive()
        self.assertEqual(self.unheard, [("pump-2", "watched", "bob watches")])

    def test_once(self) -> None:
        """That input is recorded is said once, however often links break; a warning each time."""
        self.notices.listen(Listener())
        for code in ("input-recorded", "input-recorded", "idle-limit", "idle-limit"):
            self.arrive(code)
        codes = [code for _, code, _ in self.unheard]
        self.assertEqual(codes, ["input-recorded", "idle-limit", "idle-limit"])

    def test_hostile(self) -> None:
        """Nothing that a terminal would act on is passed on."""
        self.notices.listen(Listener())
        self.arrive("w\x1b[2J", "x\x1b]0;y\x07")
        self.assertFalse(any("\x1b" in word or "\x07" in word for word in self.unheard[0]))
