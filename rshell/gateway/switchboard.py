"""The one gate: whatever door an operator uses, a device is reached through `Switchboard.open`.

::

    policy  ->  audit row, committed  ->  route (or parked)  ->  stream  ...  outcome  ->  audit row

A door brings a `Petition`; it holds no second way in.  What the gate asks, waits for, writes and
remembers has rooms of its own: `session_rights`, `parking`, `session_audit`, `session_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec import structs

from rshell.access.grants import FORWARD
from rshell.access.roles import Decision
from rshell.gateway.absences import Absences, offline_text
from rshell.gateway.callers import Caller, OpenRefused, Petition, StreamEnder
from rshell.gateway.live_sessions import LiveSession, SessionKey
from rshell.gateway.parking import GRACE_SECONDS, Parking
from rshell.gateway.presence import LiveDevice
from rshell.gateway.recordings import Recordings
from rshell.gateway.rights import no_such_device
from rshell.gateway.session_audit import SessionAudit
from rshell.gateway.session_limits import SessionLimits
from rshell.gateway.session_rights import Earlier, SessionRights
from rshell.gateway.session_use import SessionUse
from rshell.gateway.session_witness import SessionWitness
from rshell.gateway.unsettled import UnsettledSessions
from rshell.gateway.watching import Watching
from rshell.handlers import PRIORITIES
from rshell.link.core.constants import MAX_OFFSET, WEIGHT_NORMAL
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Sessions
from rshell.store.records import Device

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Caller", "LiveSession", "OpenRefused", "StreamEnder", "Switchboard"]

#: Somebody is supposed to type at it, with a terminal or without.
SHELL = "shell"
_CODES = frozenset(code.value for code in ErrorCode)


class Switchboard:
    """Opens streams to devices, and knows those that are open or wait for their device."""

    def __init__(self, gateway: Gateway, *, tell_watched: bool = True) -> None:
        self._gateway = gateway
        self._audit = SessionAudit(gateway)
        self._absences = Absences(gateway)
        self._rights = SessionRights(gateway, self._audit)
        self.unsettled = UnsettledSessions(gateway, self._audit)
        self._sessions: dict[LiveSession, None] = {}
        self._by_device: dict[str, dict[LiveSession, None]] = {}
        #: The attempt of each session that its operator's bytes come from.
        self._drivers: dict[SessionKey, LiveSession] = {}
        self.parking = Parking(gateway.wheel)
        self.limits = SessionLimits(gateway, self._audit)
        self.watching = Watching(gateway, told=tell_watched)

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> Iterable[LiveSession]:
        """Return the attempts that are open or parked now."""
        return list(self._sessions)

    def of_device(self, device_id: str) -> Iterable[LiveSession]:
        """Return those on one device."""
        return list(self._by_device.get(device_id, ()))

    # -- opening -------------------------------------------------------------------------------

    async def open(self, caller: Caller, request: Open, petition: Petition) -> LiveSession:
        """Open a stream to a device.

        Args:
            caller: Who, through which door.
            request: As the operator sent it; ``device`` names the device.
            petition: Joins the stream to the operator.

        Raises:
            OpenRefused: Policy, no such device, offline, too many streams; audited.
        """
        received = self._gateway.wheel.seconds()
        judged = self._gateway.rights.version
        found, device, decision, earlier = await self._granted(caller, request)
        if earlier is not None and earlier.rule is not None:
            # Of another's session nothing is asked but to join it.
            handler = earlier.handler or request.handler
            request = structs.replace(request, handler=handler, login=earlier.login, request={})
        session = self._live_session(caller, device, request, earlier, received, judged)
        session.row = await self._audit.opening(
            caller, device, request, decision.rule, session.owner.name
        )
        try:
            petition.watch(session.end)
            await self._join(session, request, petition, was_live=found is not None)
        except OpenRefused as error:
            self.forget(session)
            self._gateway.recordings.refused(session, gone=False)
            self.count_refused(error.code)
            self._audit.ended(session, error.code, error.message)
            if error.code == ErrorCode.OFFLINE:
                text = await self._absences.explain(caller.operator, device, error.message)
                raise OpenRefused(error.code, text) from None
            raise
        return session

    def _live_session(
        self,
        caller: Caller,
        device: Device,
        request: Open,
        earlier: Earlier | None,
        received: float,
        judged: int,
    ) -> LiveSession:
        """Return an attempt that was granted, with what is known of its session."""
        asked = Earlier.new(caller.operator, request) if earlier is None else earlier
        resume = request.resume
        anew = resume is None or resume.consumed == 0
        entry = self._gateway.sessions.find(device.id, request.session)
        if entry is not None and entry.operator != asked.owner.name:
            entry = None  # the device will say whose it is
        first = request.attempt == 1 or (resume is not None and anew)
        use = SessionUse(
            began=received - request.age_ms / 1000 if entry is None else entry.began,
            used=received if first or entry is None or entry.used is None else entry.used,
            typed=asked.terminal,
        )
        return LiveSession(
            session=request.session,
            attempt=request.attempt,
            age_ms=request.age_ms,
            view=request.view,
            caller=caller,
            device=device,
            handler=asked.handler,
            login=asked.login,
            received=received,
            owner=asked.owner,
            use=use,
            seat=asked.terminal or asked.handler == SHELL,
            asked=asked.request if asked.handler == FORWARD else None,
            judged=judged,
            anew=anew,
        )

    async def _granted(
        self, caller: Caller, request: Open
    ) -> tuple[LiveDevice | None, Device, Decision, Earlier | None]:
        """Find the device and ask whether the operator may, now, and whose session it is.

        Raises:
            OpenRefused: There is no such device, or not for them (in the same words); forbidden.
        """
        name = request.device or ""
        live = self._gateway.presence.find(name)
        device = live.device if live else await self._gateway.store.device(name)
        try:
            if device is None or not device.active:
                device = None
                raise no_such_device(name)
            decision = self._gateway.rights.decide(
                caller.operator, device, request.handler, request.login, request.request
            )
            earlier = None
            if request.attempt > 1 or request.resume is not None or request.view:
                earlier = await self._rights.check_again(caller, device, request, decision)
                if earlier is not None and earlier.rule is not None:
                    decision = Decision(True, f"role {earlier.rule}", earlier.rule)
            if not decision:
                raise OpenRefused(ErrorCode.POLICY, decision.reason)
        except OpenRefused as error:
            self.count_refused(error.code)
            await self._audit.refusal(caller, device, request, error)
            if device is None or (not decision and not decision.seen):
                # The audit knows why; who asked learns nothing of a device that is not theirs.
                raise no_such_device(name) from None
            raise
        return live, device, decision, earlier

    async def _join(
        self, session: LiveSession, request: Open, petition: Petition, *, was_live: bool
    ) -> None:
        self._claim(session)
        self._sessions[session] = None
        self._by_device.setdefault(session.device.id, {})[session] = None
        parks = request.attempt > 1 or request.resume is not None
        await self._gateway.recordings.begin(session, request)
        live = await self._route(session, parks=parks, was_live=was_live)
        _check_features(live, request)
        witness = SessionWitness(self._gateway, self._audit, session)
        opening = self._device_open(session, request)
        if not session.view:
            self._gateway.sessions.asked(session, live.epoch)
        if session.recording is not None:
            # Whatever the door does: the next stream on this link is the one that it opens.
            live.link.tap = Recordings.tap(session.recording)
        try:
            session.stream = petition.join(
                live.link, opening, witness, self._weight(live, request.handler)
            )
        except (LocalProtocolError, OpenRefused) as error:
            witness.not_asked()
            if isinstance(error, OpenRefused):
                raise
            raise OpenRefused(ErrorCode.STREAMS, f"{session.device.name}: {error}") from None
        finally:
            live.link.tap = None
        session.device_link = live.link
        metrics = self._gateway.metrics
        (metrics.streams_resumed if parks else metrics.streams_opened).inc()

    def _claim(self, session: LiveSession) -> None:
        """Take a session over from a lower attempt, before anything of the new one is sent.

        Raises:
            OpenRefused: There is a higher attempt, or this very one.
        """
        if session.view:
            return
        other = self._drivers.get(session.key)
        if other is not None:
            if other.attempt >= session.attempt:
                raise OpenRefused(
                    ErrorCode.DUPLICATE, f"attempt {other.attempt} of this session is newer"
                )
            other.displace(f"taken over by {session.who}")
        self._drivers[session.key] = session

    async def _route(self, session: LiveSession, *, parks: bool, was_live: bool) -> LiveDevice:
        """Return the device's current link, waiting for one if this is no first attempt (R10)."""
        device = session.device
        until = session.received + GRACE_SECONDS
        parked = False
        while True:
            self._check_still_wanted(session)
            # The device may have come, gone or been displaced while something was awaited.
            live = self._gateway.presence.find(device.id)
            if live is not None and not live.link.closed:
                return live
            if not parks or self._gateway.wheel.seconds() >= until:
                text = offline_text(device, was_live=was_live, parked=parked)
                raise OpenRefused(ErrorCode.OFFLINE, text)
            if not parked:
                self._gateway.metrics.streams_parked.inc()
            parked = True
            await self._parking_over(session, until)

    async def _parking_over(self, session: LiveSession, until: float) -> None:
        await self.parking.wait(session, until)
        if session.refused is None:
            await self._rights.check_now(session)

    def _check_still_wanted(self, session: LiveSession) -> None:
        if session.refused is not None:
            raise session.refused
        rights, revocation = self._gateway.rights, self._gateway.revocation
        if session.judged != rights.version:
            session.device = self._newest(session.device)
            refused = rights.refusal(session)
            if refused is not None:
                raise refused
        if revocation.is_revoked("operator", session.caller.operator.name):
            raise OpenRefused(ErrorCode.REVOKED, "this operator is revoked")
        if revocation.is_revoked("device", session.device.id):
            raise OpenRefused(ErrorCode.REVOKED, f"device {session.device.name} is revoked")

    def _newest(self, device: Device) -> Device:
        live = self._gateway.presence.find(device.id)
        return device if live is None else live.device

    def _device_open(self, session: LiveSession, request: Open) -> Open:
        """Write the device's OPEN field by field: nothing of the operator's is forwarded.

        What the attempt waited here has made its session older: the device decides by the age
        whether a session it does not know can have run before (rule R3).
        """
        waited = self._gateway.wheel.seconds() - session.received
        return Open(
            handler=request.handler,
            session=request.session,
            attempt=request.attempt,
            age_ms=min(request.age_ms + math.ceil(waited * 1000), MAX_OFFSET),
            login=request.login,
            # Whose it is: to the device, whoever watches or took it over acts for them.
            operator=session.owner.name,
            request=request.request,
            view=request.view,
            timeout_ms=request.timeout_ms,
        )

    def _weight(self, live: LiveDevice, handler: str) -> int:
        for entry in self._gateway.catalogues.get(live.hello.catalogue) or ():
            if entry.name == handler:
                return PRIORITIES.get(entry.priority, WEIGHT_NORMAL)
        return WEIGHT_NORMAL

    # -- what is open --------------------------------------------------------------------------

    def forget(self, session: LiveSession) -> None:
        """An attempt is over."""
        self._sessions.pop(session, None)
        same = self._by_device.get(session.device.id, {})
        same.pop(session, None)
        if not same:
            self._by_device.pop(session.device.id, None)
        if self._drivers.get(session.key) is session:
            del self._drivers[session.key]

    def count_refused(self, code: str) -> None:
        """Count a refusal; a device's own words make no labels."""
        known = code in _CODES
        self._gateway.metrics.streams_refused.labels(code if known else "other").inc()

    def device_came(self, entry: LiveDevice) -> None:
        """A device's new link was welcomed: what hangs on an older one is over, who waits goes on.

        The older link is closing, but a peer that is gone without a word lets it linger.
        """
        for session in list(self._by_device.get(entry.device.id, ())):
            if session.device_link not in (None, entry.link):
                session.end(ErrorCode.LINK_LOST.value, "the device's link was replaced")
        self.parking.device_came(entry.device.id)

    def driven(self, device_id: str, session: bytes, operator: str) -> LiveSession | None:
        """Return the attempt that drives a session through this gateway, parked or joined."""
        return self._drivers.get((device_id, session, operator))

    def has_attempt(self, device_id: str, session: bytes) -> bool:
        """Whether somebody drives or watches a session through this gateway, parked or joined."""
        same = self._by_device.get(device_id, ())
        return any(live.session == session for live in same)

    def has_driver(self, device_id: str, session: bytes) -> bool:
        """Whether somebody drives a session through this gateway, parked or joined."""
        same = self._by_device.get(device_id, ())
        return any(live.session == session and not live.view for live in same)

    def viewers(self, device_id: str, session: bytes) -> list[LiveSession]:
        """Return those who watch a session through this gateway."""
        same = self._by_device.get(device_id, ())
        return [live for live in same if live.view and live.session == session]

    def end_where(
        self, matches: Callable[[LiveSession], bool], code: ErrorCode, message: str
    ) -> int:
        """End the attempts that match, parked ones too; return how many."""
        ending = [session for session in self.sessions() if matches(session)]
        for session in ending:
            session.end(code.value, message)
        return len(ending)

    # -- what a device reports, and starting ---------------------------------------------------

    async def judge_sessions(self, entry: LiveDevice, report: Sessions) -> None:
        """Say which of a device's sessions may live, and complete the audit (section 9)."""
        await self._rights.judge(entry, report)

    async def start(self) -> None:
        """Mark what an earlier run of this gateway left open as interrupted; look for its end."""
        await self._audit.complete_interrupted()
        await self.unsettled.start()
        self.limits.start()

    def stop(self) -> None:
        """Look for no more ends of sessions."""
        self.limits.stop()
        self.unsettled.stop()


def _check_features(live: LiveDevice, request: Open) -> None:
    """Refuse what the device's agent is too old for (rule W7).

    Raises:
        OpenRefused: It does not know time limits.
    """
    if request.timeout_ms is not None and "deadline" not in live.hello.features:
        raise OpenRefused(
            ErrorCode.VERSION,
            f"the agent of {live.device.name} is too old to keep a time limit: "
            "leave --timeout out, or upgrade it",
        )
