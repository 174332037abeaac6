"""The worker of the handler `reboot`: `rshell_agent.jobs.reboot` as a child of the keeper.

Unlike other workers it runs as the keeper's own user, and touches no path that anybody names: the
keeper has made its whole argument, field by field.
"""

from __future__ import annotations

import os

from rshell_agent.jobs.journal import Journal
from rshell_agent.jobs.reboot import run as run_job
from rshell_agent.jobs.settings import RebootSettings
from rshell_agent.jobs.times import Clock
from rshell_agent.workers.confined import Confined

__all__ = ["run"]


def run(argument: dict[str, object], confined: Confined) -> int:
    """Do what the keeper has checked; see `rshell_agent.jobs.reboot.run`."""
    settings = RebootSettings(argument["settings"])
    home = os.open(str(argument["home"]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    journal = Journal(home, Clock(settings.boot_id_file))
    return run_job(argument, settings, journal)
