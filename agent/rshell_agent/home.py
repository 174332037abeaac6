"""The agent's home directory: where it is, and that one agent at a time uses it.

::

    HOME/agent.toml      configuration, written by people
    HOME/agent.lock      held by the running agent
    HOME/join            the join string of a device that has not been let in yet
    HOME/identity/       key and certificate (rshell.identity.credentials)
    HOME/state/          clock, link.json, link.toml, flight/: what must survive a restart
    HOME/status.json     what `rshell-agent status` shows
    HOME/keeper.*        the keeper's (docs/keeper.md)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from rshell.identity.files import make_private_dir

__all__ = ["HomeInUse", "HomeLock", "default_home", "state_directory"]


class HomeInUse(Exception):
    """Another agent runs on this home."""


def default_home(environment: Mapping[str, str], uid: int) -> Path:
    """Return the home that is used when none is named.

    Args:
        environment: ``RSHELL_AGENT_HOME`` counts, then ``HOME``.
        uid: The user's number; root's home is the machine's.
    """
    named = environment.get("RSHELL_AGENT_HOME")
    if named:
        return Path(named)
    if uid == 0:
        return Path("/var/lib/rshell-agent")
    return Path(environment.get("HOME") or "/") / ".local" / "state" / "rshell-agent"


def state_directory(home: Path) -> Path:
    """Return HOME/state, made if need be.

    Raises:
        UnsafeDirectory: It, or the home, is open to others.
        OSError: It could not be made.
    """
    make_private_dir(home)
    return make_private_dir(home / "state")


class HomeLock:
    """An exclusive lock on a home, held until `release` or the end of the process."""

    def __init__(self, home: Path) -> None:
        """Take the lock.

        Raises:
            HomeInUse: Another process holds it.
            OSError: The lock file could not be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(home / "agent.lock", flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise HomeInUse(
                f"an agent already runs on {home} (process {holder or 'unknown'})"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Let another agent use the home."""
        os.close(self._descriptor)
