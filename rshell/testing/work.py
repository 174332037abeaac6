"""What operators do while things go wrong, and what has to come of it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import Any

from rshell.client.commands import exec_request
from rshell.client.outcomes import Outcome
from rshell.handlers import ShellRequest
from rshell.testing.agents import SimulatedDevice
from rshell.testing.operators import Recorder, SimulatedOperator
from rshell.testing.programs import exchange_report, pattern

__all__ = ["ShellWork", "TransferWork", "Work"]


class Work(ABC):
    """One session that knows what it must receive.

    Args:
        operator: Whose client is used.
        device: Where.
        number: Unique; it makes the bytes and the command line unique too.
        rng: Decides sizes and pauses.

    Attributes:
        outcome: How it ended; None before.
    """

    def __init__(
        self, operator: SimulatedOperator, device: SimulatedDevice, number: int, rng: random.Random
    ) -> None:
        self.outcome: Outcome | None = None
        self.device = device
        self.number = number
        self.recorder = Recorder()
        self._rng = rng
        self._clock = operator.clock
        self._began = self._clock.seconds()
        self._keepers = device.keepers_ever
        self.session: Any = self._open(operator)
        self.session.outcome.addCallback(self._ended)

    @abstractmethod
    def _open(self, operator: SimulatedOperator) -> Any:
        """Open the session."""

    def _ended(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @abstractmethod
    def step(self) -> None:
        """Do what is due."""

    @property
    def session_id(self) -> str:
        """The session's id, hexadecimal."""
        return str(self.session.session_id.hex())

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.outcome is not None

    @property
    def told(self) -> str:
        """How it ended, in a word or two."""
        if self.outcome is None:
            return "unfinished"
        return " ".join(filter(None, (self.outcome.status, self.outcome.code)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__} {self.number} on {self.device.name} since {self._began:.1f} s"
            f" ({self.outcome})"
        )

    def problem(self, *, given_up: bool) -> str | None:
        """Return what is wrong with what has come so far, or with how it ended; None if nothing."""
        wrong = self._wrong_bytes()
        if wrong is not None or given_up or self.outcome is None:
            return wrong
        status, code = self.outcome.status, self.outcome.code
        if status in ("ok", "exit"):
            return self._incomplete()
        away = status == "lost" and code == "link-lost"
        gone = status == "lost" and self.device.keepers_ever > self._keepers
        late = code == "timeout" and not self.recorder.opened  # the client gave up asking
        if away or gone or late or status == "offline":
            return None
        return "an outcome that nothing explains"

    @abstractmethod
    def _wrong_bytes(self) -> str | None:
        """Say how what came differs from the beginning of what must come."""

    @abstractmethod
    def _incomplete(self) -> str | None:
        """Say what is missing at a proper end."""


class TransferWork(Work):
    """Sends and receives at once, on one command."""

    def _open(self, operator: SimulatedOperator) -> Any:
        self._expected = pattern(int(2 ** self._rng.uniform(3, 19)), self.number)
        self._sent = pattern(int(2 ** self._rng.uniform(3, 18)), -self.number)
        self._left: bytes | None = self._sent
        argv = [b"exchange", b"%d" % len(self._expected), b"%d" % self.number]
        request = exec_request(argv, None, None)
        return operator.client.open(self.device.name, "exec", request, self.recorder)

    def step(self) -> None:
        if self._left is not None and not self.over:
            size = int(2 ** self._rng.uniform(0, 17))
            self.session.write(self._left[:size])
            self._left = self._left[size:]
            if not self._left:
                self.session.write_eof()
                self._left = None

    def _wrong_bytes(self) -> str | None:
        if not self._expected.startswith(bytes(self.recorder.stdout)):
            return f"of {len(self.recorder.stdout)} bytes some are wrong"
        return None

    def _incomplete(self) -> str | None:
        if len(self.recorder.stdout) != len(self._expected):
            return f"{len(self.recorder.stdout)} bytes came, not {len(self._expected)}"
        if bytes(self.recorder.stderr) != exchange_report(self._sent):
            return f"the program has read something else: {bytes(self.recorder.stderr)!r}"
        return None


class ShellWork(Work):
    """Types a line now and then, and ends with ``exit``."""

    def _open(self, operator: SimulatedOperator) -> Any:
        self._typed = 0
        self._lines = self._rng.randint(1, 8)
        self._expected = b"$ "
        self._next = self._clock.seconds()
        return operator.client.open(self.device.name, "shell", ShellRequest(), self.recorder)

    def step(self) -> None:
        if self._clock.seconds() < self._next or self.over or self._typed > self._lines:
            return
        self._next = self._clock.seconds() + self._rng.uniform(1, 90)
        self._typed += 1
        if self._typed > self._lines:
            self.session.write(b"exit 7\n")
            return
        line = b"%d %d" % (self.number, self._typed)
        self._expected += b"said: " + line + b"\n$ "
        self.session.write(line + b"\n")

    def _wrong_bytes(self) -> str | None:
        if not self._expected.startswith(bytes(self.recorder.stdout)):
            return f"{bytes(self.recorder.stdout)[-200:]!r} came"
        return None

    def _incomplete(self) -> str | None:
        if bytes(self.recorder.stdout) != self._expected:
            return f"{bytes(self.recorder.stdout)[-200:]!r} is not all"
        return None
