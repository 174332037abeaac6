"""How the agent starts a keeper and reaches its socket."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["socket_address", "spawn_keeper_command"]

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from rshell_agent.keeper.main import main; sys.exit(main())"
)


def spawn_keeper_command(home: str, policy: str | None = None) -> list[str]:
    """Return the command line of a keeper for `home`.

    The folder of this very package is passed on, so that an installed package and a checkout
    work alike; `-I -S` keeps everything else, environment and site packages, out of the keeper.

    Args:
        home: The agent's home, which must exist.
        policy: A policy file elsewhere than `home/agent.toml`.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    folder = os.path.dirname(os.path.dirname(here))
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, folder, os.path.abspath(home)]
    return command if policy is None else [*command, "--policy", os.path.abspath(policy)]


@contextmanager
def socket_address(home: str) -> Iterator[str]:
    """Give an address of the keeper's socket to connect to, short however long `home` is."""
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/keeper.sock"
    finally:
        os.close(directory)
