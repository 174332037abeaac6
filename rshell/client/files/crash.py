"""Crash points of what lands here, as the device's worker has them (docs/files.md FT36).

For tests only: harmless unless whoever starts the program asks for it.  It stands here again
because a device's worker imports nothing of ours, and we nothing of the device's.
"""

from __future__ import annotations

import os
import signal

__all__ = ["crash_point"]


def crash_point(name: str) -> None:
    """Die by SIGKILL if ``RSHELL_CRASH_AT`` is this name.

    Args:
        name: The point's, such as ``land.renamed``.
    """
    if os.environ.get("RSHELL_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
