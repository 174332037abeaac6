"""SessionLimits: ends sessions that are idle, or last, longer than their operators' roles allow.

::

    every 2 s   each attempt: used since?  near a limit: warned; beyond it: ended, here and there
    every 30 s  sessions that nobody is attached to, and are older than any role allows: ended
    a device lists its sessions (rule S1): those that are too old by then do not live on

One look at all of them costs less than a timer for each, and a role that changes holds at the next.

**Idle** is a terminal, or a shell, at which nobody types.  What a program shows is no sign that
anybody is there, so it does not count; a shell without a terminal is fed by a program, so there any
byte counts.  What runs without a terminal (commands, transfers, tails, forwards) is work and not a
seat that somebody left: only the time limit ends it.  A detached session has nobody who could be
idle; whoever attaches begins anew, a client that comes back by itself over another link does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.grants import seconds_words
from rshell.access.terms import SessionTerms
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.session_audit import SessionAudit
from rshell.link.clock import WheelTimer
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Outcome
from rshell.store.audit import SessionStory
from rshell.store.errors import StoreError
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway
    from rshell.gateway.session_table import TableEntry

__all__ = ["SessionLimits"]

#: How late a session may end, and be seen to be used.  10,000 looks take 15 ms at most.
LOOK_SECONDS = 2.0
#: Nobody sits in front of a detached session.
LOOK_ALONE_SECONDS = 30.0
#: Each takes a question to the store; the rest is asked at the next look.
MAX_ALONE = 200


class SessionLimits:
    """Looks at the sessions of one gateway."""

    _log = Logger()

    def __init__(self, gateway: Gateway, audit: SessionAudit) -> None:
        self._gateway = gateway
        self._audit = audit
        self._timer: WheelTimer | None = None
        self._next_alone = 0.0
        self._asking = False

    def start(self) -> None:
        """Begin to look."""
        self._timer = self._gateway.wheel.call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.start()
        now = self._gateway.wheel.seconds()
        for attempt in self._gateway.switchboard.sessions():
            if not attempt.view:
                self._look_at(attempt, now)
        if now >= self._next_alone and not self._asking:
            self._next_alone = now + LOOK_ALONE_SECONDS
            if self._gateway.rights.shortest_time_limit():
                self._asking = True
                asked = Deferred.fromCoroutine(self._look_at_alone(now))
                asked.addErrback(self._failed).addBoth(self._asked)

    # -- those that somebody is attached to, or waits for --------------------------------------

    def _look_at(self, attempt: LiveSession, now: float) -> None:
        use = attempt.use
        if attempt.stream is not None:
            use.look(attempt.stream, now)
        if now - attempt.received < LOOK_SECONDS:
            return  # most commands are over before anybody asks what limits them
        stream = attempt.stream
        limited = use.limited(self._terms(attempt), now, seat=attempt.seat, told=stream is not None)
        if limited is None:
            return
        if limited.over:
            self._gateway.metrics.sessions_limited.labels(limited.code.value).inc()
            self._gateway.rights.end_on_device(attempt.device.id, [attempt.session])
            attempt.end(limited.code.value, limited.text)
        elif stream is not None:
            stream.tell(limited.code.value, limited.text)

    def _terms(self, attempt: LiveSession) -> SessionTerms:
        use, rights = attempt.use, self._gateway.rights
        if use.terms is None or use.judged != rights.version:
            use.judged = rights.version
            use.terms = rights.terms(
                attempt.owner, attempt.device, attempt.handler, attempt.login, attempt.asked
            )
        return use.terms

    # -- those that nobody is attached to ------------------------------------------------------

    async def _look_at_alone(self, now: float) -> None:
        gateway, board = self._gateway, self._gateway.switchboard
        shortest = gateway.rights.shortest_time_limit()
        version = gateway.rights.version
        alone = [
            entry
            for entry in gateway.sessions.entries()
            if now - entry.began >= max(shortest, entry.allowed if entry.judged == version else 0)
            and entry.outcome is None
            and not board.has_driver(entry.device_id, entry.session)
        ][:MAX_ALONE]
        if not alone:
            return
        operators = {one.name: one for one in await gateway.store.operators()}
        for entry in alone:
            await self._judge_alone(entry, operators.get(entry.operator), version)

    async def _judge_alone(
        self, entry: TableEntry, operator: Operator | None, version: int
    ) -> None:
        gateway = self._gateway
        live = gateway.presence.find(entry.device_id)
        if live is None or operator is None:
            return  # judged when the device lists its sessions
        story = await gateway.store.session_story(entry.session.hex())
        limit = self._time_limit(operator, live.device, story)
        age = gateway.wheel.seconds() - entry.began
        # Asked again when the roles change, or it reaches its limit.
        entry.judged, entry.allowed = version, float(limit) if limit else float("inf")
        back = gateway.switchboard.has_driver(entry.device_id, entry.session)
        if not limit or age < limit or back:
            return
        self._log.info("session {id} is older than its role allows", id=entry.session.hex())
        gateway.metrics.sessions_limited.labels(ErrorCode.TIME_LIMIT.value).inc()
        gateway.rights.end_on_device(entry.device_id, [entry.session])
        gateway.sessions.forget(entry.device_id, entry.session)
        await self.settle(story, limit)

    async def settle(self, story: SessionStory, limit: int) -> None:
        """Write that a session that nobody was attached to was ended by its limit, in seconds."""
        text = f"the session has lasted {seconds_words(limit)}, with nobody attached"
        code = ErrorCode.TIME_LIMIT.value
        await self._audit.settle(story, Outcome(status="timeout", code=code, message=text))

    def too_old(self, operator: Operator, device: Device, story: SessionStory, age_ms: int) -> int:
        """Return the limit, in seconds, that a session of a device is beyond; 0 for none.

        Args:
            operator: Whose it is, as the store has them now.
            device: Which listed it.
            story: What the audit log tells of it.
            age_ms: As the device says.
        """
        limit = self._time_limit(operator, device, story)
        return limit if limit and age_ms >= limit * 1000 else 0

    def _time_limit(self, operator: Operator, device: Device, story: SessionStory) -> int:
        if story.first is None:
            return 0
        record = story.first.record
        request = record.details.get("request")
        asked = request if isinstance(request, dict) else None
        terms = self._gateway.rights.terms(
            operator, device, record.handler or "", record.login, asked
        )
        return terms.time_seconds

    def _failed(self, failure: Failure) -> None:
        if failure.check(StoreError):
            self._log.error("the store failed: {why}", why=failure.getErrorMessage())
        else:
            self._log.failure("sessions could not be looked at", failure)

    def _asked(self, _result: object) -> None:
        self._asking = False
