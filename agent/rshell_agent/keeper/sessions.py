"""All sessions: OPEN, joining, the memory of ended ones, and the control calls about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import process as processes
from rshell_agent.keeper import wire
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.loop import Loop
from rshell_agent.keeper.policy import BUILT_IN, PolicyFile
from rshell_agent.keeper.process import Account, Command, Process
from rshell_agent.keeper.session import DRAINING, FINISHED, RUNNING, STARTING, Session
from rshell_agent.keeper.touches import TouchBook
from rshell_agent.keeper.viewer import Viewer
from rshell_agent.keeper.wire import Map, Refused, WireError
from rshell_agent.keeper.worker import WORKERS

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.jobs import Jobs
    from rshell_agent.keeper.server import Connection

__all__ = ["Opening", "Sessions", "Spawn"]

Spawn = Callable[[Command, Account, dict[bytes, bytes]], Process]


class Opening:
    """A checked OPEN (docs/keeper.md K14), but for its `process`."""

    def __init__(self, body: Map) -> None:
        self.id = wire.unbase64(body.get("session"), "session")
        self.attempt = wire.integer(body, "attempt")
        if self.attempt < 1:
            raise WireError("attempt: counts from 1")
        self.age = wire.integer(body, "age_ms") / 1000
        self.operator = wire.text(body, "operator", c.MAX_TEXT)
        self.handler = wire.text(body, "handler", c.MAX_TEXT)
        login = body.get("login")
        self.login = None if login is None else wire.text(body, "login", c.MAX_TEXT)
        detach = body.get("detach", False)
        if not isinstance(detach, bool):
            raise WireError("detach: neither true nor false")
        self.detach = detach
        resume = wire.submap(body, "resume")
        self.resumes = resume is not None
        offsets = body if resume is None else resume
        self.limit = wire.integer(offsets, "limit")
        self.consumed = wire.integer(resume or {}, "consumed", None if self.resumes else 0)
        self.events = wire.integer(resume or {}, "events", None if self.resumes else 0)
        self.process = wire.submap(body, "process")
        view = body.get("view", False)
        if not isinstance(view, bool):
            raise WireError("view: neither true nor false")
        if view and self.resumes:
            raise WireError("view: takes no resume")
        self.view = view
        #: When the link was dialled that brought this; None if the agent does not tell.
        told = "link_dialled_ms" in body
        self.link_dialled = wire.integer(body, "link_dialled_ms") / 1000 if told else None

    def command(self) -> Command:
        """Return the checked `process`.

        Only the peer says for which handler it asks. A built-in one that is allowed for something
        harmless, such as facts, must not become a way to run any command.
        """
        command = Command(self.process or {})
        kind = self.handler if self.handler in BUILT_IN else "exec"
        kind = "worker" if kind in WORKERS else kind
        if command.kind != kind:
            raise Refused("bad-request", f"{self.handler} does not take kind {command.kind}")
        if command.worker and command.worker != self.handler:
            raise Refused("bad-request", f"{self.handler} has no worker {command.worker}")
        return command


class Sessions:
    """The register. A session is in it until its outcome has been acknowledged or given up.

    Args:
        loop: Where everything happens, and its clock.
        times: All waits.
        policy: What may run.
        spawn: Starts a process; a simulation has its own.

    Attributes:
        jobs: What must be written down before it is done; without it there are no such jobs.
        touches: What workers tell of the files they touch.
    """

    def __init__(
        self, loop: Loop, times: Times, policy: PolicyFile, spawn: Spawn = Process
    ) -> None:
        self.loop, self.times, self.policy, self.spawn = loop, times, policy, spawn
        self.began = self._memory_begins = loop.now()
        self._sessions: dict[bytes, Session] = {}
        self._tombstones: dict[bytes, str] = {}
        self._burials: deque[tuple[float, bytes]] = deque()
        self.jobs: Jobs | None = None
        self.touches = TouchBook(loop, times)

    @property
    def needed(self) -> bool:
        """Whether anything here would be lost with this keeper."""
        return bool(len(self) or len(self.touches))

    def __len__(self) -> int:
        # an outcome that the journal has needs no keeper: the next one tells it
        return sum(not (s.kept and s.state == FINISHED) for s in self._sessions.values())

    def open(self, connection: Connection, body: Map) -> Session | Viewer:
        """Run, join (K17 to K19) or watch (K37).

        Raises:
            Refused: with one of the codes of K16.
        """
        try:
            opening = Opening(body)
            session = self._sessions.get(opening.id)
            if opening.view:
                return self._viewed(session, opening).view(connection, opening)
            if session is not None:
                self._check_join(session, opening)
            else:
                session = self._start(opening)
        except WireError as error:
            raise Refused("bad-request", str(error)) from None
        existed = session.attempt > 0
        self._sessions[session.id] = session
        session.attach(connection, opening, existed)
        return session

    def _check_operator(self, session: Session, opening: Opening) -> None:
        if opening.operator != session.operator:
            raise Refused("policy", "the session belongs to another operator")
        self.policy.current().account(session.handler, session.login)

    def _viewed(self, session: Session | None, opening: Opening) -> Session:
        if session is None:
            raise Refused("not-found", "the device runs no such session")
        self._check_operator(session, opening)
        if session.state not in (RUNNING, DRAINING):
            raise Refused("not-found", "the session does not run")
        if len(session.viewers) >= c.MAX_VIEWERS:
            text = f"{c.MAX_VIEWERS} watch this session, and no more can at once: "
            text += "rshell sessions --json tells who; one of them may leave by ~."
            raise Refused("overload", text)
        return session

    def _check_join(self, session: Session, opening: Opening) -> None:
        self._check_operator(session, opening)
        if opening.attempt <= session.attempt:
            raise Refused("duplicate", f"attempt {session.attempt} came before this one")
        session.check(opening)

    def _start(self, opening: Opening) -> Session:
        ended = self._tombstones.get(opening.id)
        if ended is not None:
            raise Refused("lost", f"the session has ended: {ended}")
        if opening.resumes:
            raise Refused("lost", "the device does not know this session")
        if opening.attempt > 1 and self.loop.now() - self._memory_begins <= opening.age:
            raise Refused("unknown", "the device cannot tell whether this has run")
        policy = self.policy.current()
        account = policy.account(opening.handler, opening.login)
        command = opening.command()
        command.rules = policy.rules()
        if (
            sum(s.state != FINISHED for s in self._sessions.values())
            >= policy.limits["max_sessions"]
        ):
            raise Refused("overload", "the device runs as many sessions as it may")
        if self.jobs is not None:
            return self.jobs.session(opening, command, account)
        if opening.handler == "reboot" or command.confirm is not None:
            raise Refused("not-found", "this keeper has no journal for such jobs")
        return Session(self, opening, command, account)

    def keep(self, session: Session) -> None:
        """Register a session that no OPEN has made: the journal tells of it."""
        self._sessions[session.id] = session

    def known(self, key: bytes) -> bool:
        """Whether this keeper has the session, or remembers its end."""
        return key in self._sessions or key in self._tombstones

    def children_changed(self) -> None:
        """Look for processes that have ended, after SIGCHLD."""
        for session in tuple(self._sessions.values()):
            session.check_exited()

    # -- ends ----------------------------------------------------------------------------------

    def forget(self, session: Session) -> None:
        """Drop a session that never ran: its id stays unused."""
        self._sessions.pop(session.id, None)

    def bury(self, session: Session) -> None:
        """Make a finished session a tombstone (K18)."""
        if self._sessions.pop(session.id, None) is None:
            return
        outcome = session.outcome or {}
        session.buried()
        detail = outcome.get("exit_code") or outcome.get("signal") or outcome.get("message")
        self._tombstones[session.id] = f"{outcome.get('status')} {detail or ''}".strip()
        self._burials.append((self.loop.now(), session.id))
        self._expire_tombstones()

    def _expire_tombstones(self) -> None:
        while len(self._burials) > c.TOMBSTONES:
            when, key = self._burials[0]
            young = self.loop.now() - when < self.times.tombstone
            if young and len(self._burials) <= c.MAX_TOMBSTONES:
                return
            self._burials.popleft()
            del self._tombstones[key]
            self._memory_begins = when

    def finished(self, session: Session) -> None:
        """Keep uncollected outcomes within bounds."""
        self.expire()

    def expire(self) -> None:
        """Give up outcomes nobody came for, oldest first (K29)."""
        self.touches.expire()
        now = self.loop.now()
        alone = [s for s in self._sessions.values() if s.state == FINISHED and not s.connection]
        for session in alone:
            if session.kept and now - (session.alone_since or now) >= self.times.finished:
                session.out.drop(session.out.end - session.out.base)
        alone = [s for s in alone if not s.kept]  # their outcomes are kept until somebody has them
        alone.sort(key=lambda s: s.alone_since or now)
        total = sum(s.out.end - s.out.base for s in alone)
        for number, session in enumerate(alone):
            old = now - (session.alone_since or now) >= self.times.finished
            if old or len(alone) - number > c.MAX_FINISHED:
                self.bury(session)
            elif total > c.MAX_FINISHED_BYTES:
                total -= session.out.end - session.out.base
                session.out.drop(session.out.end - session.out.base)

    def limit_detached(self) -> None:
        """End those that were alone for longest, if there are too many (K32)."""
        alone = [s for s in self._sessions.values() if s.long_alone]
        alone.sort(key=lambda s: s.alone_since or 0.0)
        most = self.policy.current().limits["detached_max"]
        for session in alone[: max(0, len(alone) - most)]:
            session.stop(processes.outcome("timeout", message="too many sessions without operator"))

    def stop_all(self) -> None:
        """End every process, as at the keeper's end."""
        for session in tuple(self._sessions.values()):
            session.stop(processes.outcome("error", "stopped", "the keeper was stopped"))

    @property
    def busy(self) -> bool:
        """Whether a process still runs, or a connection waits for its outcome."""
        return any(s.state != FINISHED or s.connection for s in self._sessions.values())

    # -- control calls ------------------------------------------------------------------------

    def _named(self, call: Map) -> list[Session]:
        keys = [wire.unbase64(key, "session") for key in wire.array(call, "sessions")]
        return [self._sessions[key] for key in keys if key in self._sessions]

    def end(self, call: Map) -> list[object]:
        """Revoke the named sessions; return those that were running."""
        reason = wire.text(call, "reason", 1024, "revoked")
        ended = [s for s in self._named(call) if s.state != FINISHED]
        for session in ended:
            session.stop(processes.outcome("error", "revoked", reason))
        return [wire.base64(s.id) for s in ended]

    def acknowledge(self, call: Map) -> list[object]:
        """Bury the named finished sessions; return them.

        One that somebody has come for meanwhile is spared: he acknowledges it himself.
        """
        done = [s for s in self._named(call) if s.state == FINISHED and s.connection is None]
        for session in done:
            self.bury(session)
        return [wire.base64(s.id) for s in done]

    def describe(self) -> list[object]:
        """Return what the call `sessions` tells."""
        now = self.loop.now()
        return [
            {
                "session": wire.base64(s.id),
                "operator": s.operator,
                "handler": s.handler,
                "login": s.login,
                "pid": s.process.pid,
                "started_ms_ago": int((now - s.started) * 1000),
                "attempt": s.attempt,
                "attached": s.connection is not None,
                "viewers": len(s.viewers),
                "detached_ms": None if s.alone_since is None else int((now - s.alone_since) * 1000),
                "state": "finished" if s.state == FINISHED else "running",
                "outcome": s.outcome if s.state == FINISHED else None,
            }
            for s in self._sessions.values()
            if s.state != STARTING
        ]
