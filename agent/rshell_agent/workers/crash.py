"""Crash points: named places at which a test ends this very process, as a power cut would.

For tests only, and harmless without them: the variable cannot be set by an operator, since the
keeper refuses every `RSHELL_` variable (docs/keeper.md K35). It reaches agent, keeper and workers
from the environment of whoever starts the agent.
"""

from __future__ import annotations

import os
import signal

__all__ = ["CRASH_VARIABLE", "crash_point"]

CRASH_VARIABLE = "RSHELL_CRASH_AT"  # "NAME", or "NAME:3" for the third time in this process

_passed: dict[str, int] = {}  # how often each point was passed while the variable named it


def crash_point(name: str) -> None:
    """Die by SIGKILL if the variable names this point and its turn has come; else do nothing.

    Args:
        name: The point's name, such as `files-before-rename`; it holds no colon.
    """
    wanted = os.environ.get(CRASH_VARIABLE)
    if not wanted:
        return
    point, _, turn = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(turn or 1):
        os.kill(os.getpid(), signal.SIGKILL)
