"""Crash points of a gateway: named places at which a test ends it, as a power cut would.

For tests only: harmless unless whoever starts the gateway asks for it.
"""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["CRASH_POINTS", "crash_point"]

#: Each name says what has just happened, or is about to.
CRASH_POINTS = (
    "store.before-commit",
    "store.committed",
    "recording.appended",
    "recording.compressed",
    "recording.renamed",
    "spool.noted",
    "spool.written",
)
_VARIABLE = "RSHELL_CRASH_AT"  # "NAME", or "NAME:3" for the third time in this process
_passed = 0
_lock = threading.Lock()  # the store's and the recordings' threads both come by


def crash_point(name: str) -> None:
    """Die by SIGKILL if the variable names this point and its turn has come.

    Args:
        name: One of `CRASH_POINTS`.
    """
    wanted = os.environ.get(_VARIABLE)
    if not wanted or wanted.partition(":")[0] != name:
        return
    global _passed  # noqa: PLW0603  # one count a process: the variable names one point
    with _lock:
        _passed += 1
        if _passed == int(wanted.partition(":")[2] or 1):
            os.kill(os.getpid(), signal.SIGKILL)
