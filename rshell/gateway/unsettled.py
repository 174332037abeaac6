"""UnsettledSessions (S3): sessions whose operator left and whose device does not have them either.

An attempt that ended as ``detached`` leaves its session to the device, which reports how it ends.
But the OPEN may have been lost on the way, or the keeper with all it held.  Such a session would
stay open in the audit for ever.  Once the grace is over, and the device that is live by now has
listed what it has, without this one, the audit is told that nobody knows what became of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.gateway.parking import GRACE_SECONDS
from rshell.gateway.session_audit import SessionAudit
from rshell.link.clock import WheelTimer
from rshell.link.core.messages import Outcome

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["UnsettledSessions"]

#: Each end counts the grace from when it noticed: a device may be told of an attempt that late.
SETTLE_SECONDS = GRACE_SECONDS + 30.0
LOOK_SECONDS = 30.0
#: About 300 bytes each.  The oldest is dropped first; the next start finds it again.
MAX_UNSETTLED = 10_000
#: At one look: each asks the store once.
MAX_AT_ONCE = 200
_UNKNOWN = Outcome(
    status="lost",
    code="unknown",
    message="the device does not have this session: how it ended, or whether it ran, is unknown",
)

_Key = tuple[str, bytes]  # device id, session


class UnsettledSessions:
    """Remembers them, and writes their end."""

    _log = Logger()

    def __init__(self, gateway: Gateway, audit: SessionAudit) -> None:
        self._gateway = gateway
        self._audit = audit
        #: Since when nobody drives it, clock seconds; the oldest first.
        self._since: OrderedDict[_Key, float] = OrderedDict()
        self._timer: WheelTimer | None = None

    def __len__(self) -> int:
        return len(self._since)

    async def start(self) -> None:
        """Take up what an earlier run left, and begin to look."""
        for device_id, session in await self._gateway.store.unsettled_sessions(MAX_UNSETTLED):
            self.add(device_id, bytes.fromhex(session))
        self._later()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, device_id: str, session: bytes) -> None:
        """An attempt has ended, and its session goes on for all we know."""
        key = device_id, session
        self._since.pop(key, None)
        self._since[key] = self._gateway.wheel.seconds()
        if len(self._since) > MAX_UNSETTLED:
            self._since.popitem(last=False)

    def _later(self) -> None:
        self._timer = self._gateway.wheel.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        done = Deferred.fromCoroutine(self._settle_due())
        done.addErrback(
            lambda failure: self._log.error(
                "ends of sessions could not be looked for: {why}", why=failure.getErrorMessage()
            )
        )
        done.addCallback(lambda _: None if self._gateway.stopping else self._later())

    async def _settle_due(self) -> None:
        due = self._gateway.wheel.seconds() - SETTLE_SECONDS
        over = [key for key, since in self._since.items() if since <= due and self._is_gone(*key)]
        for key in over[:MAX_AT_ONCE]:
            since = self._since.get(key)
            story = await self._gateway.store.session_story(key[1].hex())
            if self._since.get(key) != since or not self._is_gone(*key):
                continue  # somebody came back while we asked
            await self._audit.settle(story, _UNKNOWN)
            if self._since.get(key) == since:
                del self._since[key]

    def _is_gone(self, device_id: str, session: bytes) -> bool:
        """Whether neither an operator nor the device, which is live, has the session."""
        gateway = self._gateway
        entry = gateway.presence.find(device_id)
        return (
            entry is not None
            and gateway.sessions.listed(device_id, entry.epoch)
            and gateway.sessions.owner(device_id, session) is None
            and not gateway.switchboard.has_attempt(device_id, session)
        )
