"""``twistd rshell-agent``: options to service; the one place where the global reactor is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.python import usage

from rshell.identity.files import UnsafeDirectory
from rshell.lazy import give_back_memory
from rshell.link.clock import use_monotonic_clock
from rshell.link.polling import poll_lightly
from rshell_agent.home import HomeInUse, default_home
from rshell_agent.service import AgentService, NotJoined
from rshell_agent.watchdog import Watchdog

__all__ = ["Options", "makeService", "run"]


class Options(usage.Options):
    """Options of ``twistd rshell-agent``."""

    optParameters = [
        ["home", None, None, "the agent's home (default: $RSHELL_AGENT_HOME, or as its help says)"]
    ]


def _new(home: Path) -> Service:
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    poll_lightly(reactor)
    try:
        clock: Any = reactor
        watchdog = Watchdog.from_environment(clock, os.environ)

        def agent() -> AgentService:
            return AgentService.new(reactor, home, watchdog)

        if (home / "join").exists():
            # Late: what joins is done once, and the memory of a small device is kept for good.
            from rshell_agent.joining_service import JoiningAgent, wish_of_home

            wish = wish_of_home(home)
            if wish is not None:
                return JoiningAgent(reactor, home, wish, agent, watchdog)
        return agent()
    except (HomeInUse, NotJoined, UnsafeDirectory, OSError) as error:
        raise SystemExit(f"rshell-agent: {error}") from None


def makeService(options: Options) -> IService:
    """Make the service tree; wrong circumstances end the process with one line and status 1."""
    home = options["home"]
    return IService(_new(Path(home) if home else default_home(os.environ, os.geteuid())))


def run(home: Path, *, debug: bool = False) -> int:
    """Be the agent, in the foreground, as ``twistd -n rshell-agent --home HOME`` would.

    It does what twistd does for us without importing twistd's machinery, which costs 4 MB.

    Returns:
        The exit status.
    """
    from twisted.internet import reactor

    from rshell_agent.log import begin_logging

    service = _new(home)
    begin_logging(sys.stderr, debug=debug)
    loop: Any = reactor
    loop.callWhenRunning(service.startService)
    loop.addSystemEventTrigger("before", "shutdown", service.stopService)
    give_back_memory()
    loop.run()
    return 0
