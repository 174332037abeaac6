"""Crowds at the SSH door: many operators, guessers, and how long an echo takes."""

from __future__ import annotations

import json
from typing import Any

from tests.functional.interop.libraries import Asyncssh
from tests.functional.processes import Program

__all__ = ["Crowd"]


class Crowd(Asyncssh):
    """asyncssh again, many times in one process."""

    program = "asyncssh_crowd.py"

    def echoing(
        self, users: list[str], sessions: int, rounds: int, *, size: int = 64, pause: float = 0.0
    ) -> Program:
        """Let sessions in, each on a connection of its own, and send ``rounds`` echoes in each."""
        told = {"users": users, "sessions": sessions, "rounds": rounds, "bytes": size}
        return self.fleet.start(self._command("crowd", "", pause=pause, **told))

    def guessing(self, source: str, attempts: int, keys: int) -> Program:
        """Guess keys, and a password with each connection, from an address."""
        told = {"source": source, "attempts": attempts, "keys": keys}
        return self.fleet.start(self._command("guess", "", **told))

    @staticmethod
    def result(program: Program, seconds: float = 120) -> dict[str, Any]:
        """Wait for what it found."""
        done = program.finish(None, seconds)
        assert done.status == 0, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def echo_ms(self, user: str, rounds: int, times: int = 1) -> dict[str, float]:
        """Return the median and p95 of one session's echoes, in milliseconds.

        The best of several times: what else the machine does comes and goes, what is looked for
        would stay.
        """
        found = [self.result(self.echoing([user], 1, rounds, pause=0.005)) for _ in range(times)]
        return {name: min(one[name] for one in found) * 1000 for name in ("p50", "p95")}
