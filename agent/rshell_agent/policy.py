"""The device's policy as the keeper tells it.

The keeper enforces it for whatever it runs, at every OPEN.  The agent asks for it to know which of
its own handlers may run and what to tell the gateway; it never reads the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.link.core.messages import PolicyState
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable

__all__ = ["PolicyReport", "PolicyWatch"]

#: A change of the policy reaches the agent's own handlers within this time.
FRESH_SECONDS = 5.0


@attrs.frozen
class PolicyReport:
    """What is allowed.

    Attributes:
        handlers: Names that may run; nothing while ``error`` is set.
        logins: Accounts that may be asked for; the first is the default.
        digest: Changes with the policy.
        error: Why everything is denied, or None.
        read_roots: Places beneath which workers may read.
        write_roots: Places beneath which workers may write.
        forward: Targets that connections may be forwarded to, such as ``localhost:*``.
        forward_back: Addresses that the device may listen at for an operator.
    """

    handlers: frozenset[str] = frozenset()
    logins: tuple[str, ...] = ()
    digest: str = ""
    error: str | None = None
    read_roots: tuple[str, ...] = ()
    write_roots: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    forward_back: tuple[str, ...] = ()

    @classmethod
    def read(cls, reply: dict[str, Any]) -> PolicyReport:
        """Read the keeper's answer to the call ``policy``."""
        error = reply.get("error")
        return cls(
            frozenset(str(name) for name in reply.get("handlers") or ()),
            tuple(str(name) for name in reply.get("logins") or ()),
            str(reply.get("digest") or "")[:64],
            None if error is None else str(error)[:256],
            *(
                tuple(str(entry) for entry in reply.get(key) or ())
                for key in ("read", "write", "forward", "forward_back")
            ),
        )

    @property
    def state(self) -> PolicyState:
        """What HELLO carries."""
        return PolicyState(self.digest, self.error)


class PolicyWatch:
    """Keeps the newest report.

    Args:
        keeper: Asked.
        clock: Says how old the report is.
        changed: Called when a report differs from the one before, with nothing.
    """

    _log = Logger()

    def __init__(
        self, keeper: KeeperClient, clock: IReactorTime, changed: Callable[[], None]
    ) -> None:
        self.current = PolicyReport(error="the keeper has not answered yet")
        self._keeper = keeper
        self._clock = clock
        self._changed = changed
        self._asked_at: float | None = None
        self._warnings: list[str] = []

    @property
    def fresh(self) -> bool:
        """Whether `current` is young enough to decide by."""
        return self._asked_at is not None and (
            self._clock.seconds() - self._asked_at < FRESH_SECONDS
        )

    async def refresh(self) -> PolicyReport:
        """Ask the keeper; without an answer everything is denied."""
        try:
            reply = await self._keeper.call("policy")
            report = PolicyReport.read(reply)
            self._tell([str(line) for line in reply.get("warnings") or ()])
        except KeeperUnavailable as error:
            report = PolicyReport(error=str(error)[:256])
        self._asked_at = self._clock.seconds()
        if report != self.current:
            self.current = report
            if report.error is not None:
                self._log.error("policy denies everything: {reason}", reason=report.error)
            else:
                self._log.info(
                    "policy allows {handlers} as {logins}",
                    handlers=", ".join(sorted(report.handlers)) or "nothing",
                    logins=", ".join(report.logins),
                )
            self._changed()
        return report

    def _tell(self, warnings: list[str]) -> None:
        if warnings != self._warnings:
            self._warnings = warnings
            for line in warnings:
                self._log.warn("policy: {line}", line=line)
