"""What those who are logged in are told of a reboot."""

from __future__ import annotations

import os
from typing import Any

from rshell_agent.jobs import reboot
from rshell_agent.jobs.settings import RebootSettings
from tests.agent.jobs.test_journal import JournalCase


class AnnouncementTests(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.wall = self.home / "wall"
        path = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", path)
        os.environ["PATH"] = f"{self.home}:/usr/bin:/bin"
        self.said: list[dict[str, Any]] = []
        self.patch(reboot, "_say", lambda step, **fields: self.said.append({step: fields}))

    def has_wall(self, status: int = 0) -> None:
        self.wall.write_text(f'#!/bin/sh\necho "$*" >> {self.home}/told\nexit {status}\n')
        self.wall.chmod(0o755)

    def announce(self, action: str, delay: int = 0, reason: str = "") -> str:
        request: dict[str, object] = {"session": "a1", "action": action, "delay": delay}
        request |= {"operator": "ann", "reason": reason}
        reboot._Reboot(request, RebootSettings(), self.journal)._announce()
        told = self.home / "told"
        return told.read_text() if told.exists() else ""

    def test_words(self) -> None:
        """They read what happens, when, by whom and why."""
        self.has_wall()
        self.assertEqual(
            "rshell: this device reboots in 600 s, asked for by ann: new kernel\n",
            self.announce("reboot", 600, "new kernel"),
        )
        self.assertIn("is switched off now, asked for by ann\n", self.announce("poweroff"))
        self.assertEqual([{"announced": {"by_wall": True}}] * 2, self.said)

    def test_hostile_words(self) -> None:
        """A reason is one line without control sequences, of a terminal's size."""
        self.has_wall()
        told = self.announce("reboot", reason="a\x1b[2J\nb" + "c" * 600)
        self.assertIn(": a?[2J?bccc", told)
        self.assertLessEqual(len(told), 501)

    def test_without(self) -> None:
        """A device without wall, or with one that fails, reboots all the same."""
        os.environ["PATH"] = str(self.home)
        self.announce("reboot")
        self.has_wall(1)
        self.announce("reboot")
        self.assertEqual([{"announced": {"by_wall": False}}] * 2, self.said)

    def test_agent_only(self) -> None:
        """An agent's restart is nobody's concern who is logged in."""
        self.has_wall()
        self.assertEqual("", self.announce("restart-agent"))
