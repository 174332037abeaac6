"""Reboots and undone changes in the flight recorder: ``rshell why`` shows them beside the link.

The keeper's journal knows them.  A note is written before the keeper hears that it was: an agent
that dies in between notes it twice, never not at all.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from rshell_agent.journal import Journal
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable

__all__ = ["JobNotes"]


class JobNotes:
    """Carries outcomes of jobs from the keeper to the journal.

    Args:
        keeper: Asked; an older one has no jobs.
        journal: The flight recorder.
    """

    _log = Logger()

    def __init__(self, keeper: KeeperClient, journal: Journal) -> None:
        self._keeper = keeper
        self._journal = journal

    async def carry(self) -> None:
        """Note what there is; without a keeper there is nothing."""
        try:
            reply = await self._keeper.call("jobs")
            jobs = [job for job in reply.get("jobs") or () if isinstance(job, dict)]
            for job in jobs:
                self._note(job)
            if jobs:
                await self._keeper.call("noted", jobs=[job.get("job") for job in jobs])
        except KeeperUnavailable as error:
            self._log.debug("no jobs to note: {reason}", reason=str(error))

    def _note(self, job: dict[str, Any]) -> None:
        kind, seconds = str(job.get("kind")), job.get("seconds")
        words = [str(job.get("state")), f"asked for by {job.get('operator')}"]
        words += [str(job[key]) for key in ("reason", "message") if job.get(key)]
        text = "; ".join(words)
        known = kind in ("reboot", "poweroff", "restart-agent", "change")
        self._journal.note(
            kind if known else "job",
            text,
            seconds=float(seconds) if isinstance(seconds, int | float) else None,
            job=str(job.get("job"))[:32],
        )
