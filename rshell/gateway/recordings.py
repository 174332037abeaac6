"""Recordings: which sessions are recorded, from their first attempt to their end.

The gate asks before a stream is opened (`begin`) and tells how attempts end.  A recording is a
session's, not an attempt's: it is open from the first attempt until the session's outcome is
known, over cut links and restarts of this gateway.

::

    gate -> Recordings -> LiveRecording -> (thread) CastFile
                 |             ^
                 |       RecordedStream  between the device's link and the door
                 +-> index in the store, retention
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.asciicast import CastHeader
from rshell.access.printable import printable
from rshell.access.recordings import DAY_SECONDS, RecordingPolicy, decide_recording
from rshell.gateway.callers import OpenRefused
from rshell.gateway.live_recording import LiveRecording
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.recording_files import CastFile, finish, remove
from rshell.gateway.recording_tap import RecordedStream, cells
from rshell.link.clock import WheelTimer
from rshell.link.contracts import StreamReceiver
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open
from rshell.store.errors import StoreError
from rshell.store.recordings import NewRecording, Recording, RecordingProgress
from rshell.store.records import AuditRecord
from rshell.store.threads import Threads

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Recordings"]

#: What has passed is in the file after this at the latest.
FLUSH_SECONDS = 1.0
#: Between looks at what nobody will add to any more, and at what retention gives up.
LOOK_SECONDS = 30.0
RETENTION_SECONDS = 3_600.0
#: A session whose outcome passed by may be asked for its last bytes for a grace.
TOLD_SECONDS = 120.0
#: No session that nobody is attached to lives longer than a day.
FORGOTTEN_SECONDS = 25 * 3_600.0
#: A refusal's and an ending's code.
FAILED = ErrorCode.RECORDING_FAILED

T = TypeVar("T")


class Recordings:
    """Decides and keeps.

    Args:
        gateway: Whose.
        policy: From the configuration.
        threads: Where files are written (its writer) and compressed and read (its readers).
    """

    _log = Logger()

    def __init__(self, gateway: Gateway, policy: RecordingPolicy, threads: Threads) -> None:
        self.policy = policy
        self.home: Path = gateway.home.path / "recordings"
        self._gateway = gateway
        self._threads = threads
        #: By session, hex: what may still grow.
        self._live: dict[str, LiveRecording] = {}
        self._dirty: dict[LiveRecording, None] = {}
        self._timer: WheelTimer | None = None
        self._look: WheelTimer | None = None
        self._next_retention = 0.0
        self._ending: set[Deferred[None]] = set()
        self._started = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._live)

    def live(self, session: str) -> LiveRecording | None:
        """Return a recording that may still grow."""
        return self._live.get(session)

    # -- the gate ------------------------------------------------------------------------------

    async def begin(self, session: LiveSession, request: Open) -> None:
        """Make ready to record an attempt, if its session is recorded.

        Raises:
            OpenRefused: It has to be and cannot be.
        """
        if session.view:
            return
        name = session.session.hex()
        live = self._live.get(name)
        if live is None:
            asked = request.request
            terms = self._gateway.rights.terms(
                session.owner, session.device, session.handler, session.login, asked
            )
            mode = decide_recording(self.policy, terms, session.handler, asked)
            if mode == "off" or request.resume is not None:
                return
        try:
            if live is None:
                live = await self._new(session, request, mode)
            await live.open()
        except (OSError, StoreError) as error:
            reason = str(getattr(error, "strerror", None) or error)
            await self._tell_failure(name, session.device.id, session.device.name, reason)
            if self.policy.on_failure == "end":
                text = f"this session has to be recorded, and cannot be: {reason}"
                raise OpenRefused(FAILED, f"{session.device.name}: {text}") from None
            return
        live.detached_at = None
        live.told = False
        live.owner = session
        session.recording = live

    async def _new(self, session: LiveSession, request: Open, mode: str) -> LiveRecording:
        name = session.session.hex()
        day = datetime.fromtimestamp(self._gateway.wall(), UTC)
        row = await self._gateway.store.begin_recording(
            NewRecording(
                session=name,
                device=session.device.id,
                device_name=session.device.name,
                operator=session.owner.name,
                handler=session.handler,
                login=session.login,
                mode=mode,
                path=f"{day:%Y/%m/%d}/{name}.cast",
            )
        )
        return self._keep(row, request)

    def _keep(self, row: Recording, request: Open | None = None) -> LiveRecording:
        terminal = request.request.get("terminal") if request is not None else None
        terminal = terminal if isinstance(terminal, dict) else {}
        size = [terminal.get(word) for word in ("rows", "columns")]
        rows, columns = cells(*(value if type(value) is int else 0 for value in size))
        header = CastHeader(
            columns=columns,
            rows=rows,
            timestamp=row.started_at // 1_000_000,
            title=printable(f"{row.operator} on {row.device_name}", 200),
            term=printable(str(terminal.get("term", "")), 64),
        )

        def elapsed_ms() -> int:
            return max(0, (self._gateway.now_us() - row.started_at) // 1000)

        live = LiveRecording(
            row,
            CastFile(self.home, self.home / row.path, header),
            self._threads,
            elapsed_ms,
            self._is_dirty,
            self._failed,
        )
        self._live[row.session] = live
        if self._look is None and self._started:
            self._look_later()
        return live

    @staticmethod
    def tap(live: LiveRecording) -> Callable[[Open, StreamReceiver], StreamReceiver]:
        """Return what puts itself between a device's stream and its receiver."""

        def put(request: Open, receiver: StreamReceiver) -> StreamReceiver:
            live.stream = RecordedStream(live, request, receiver)
            return live.stream

        return put

    # -- how attempts and sessions end ---------------------------------------------------------

    def detached(self, session: LiveSession, *, told: bool) -> None:
        """An attempt is over and the session may go on; ``told``: its outcome has passed by."""
        live = self._mine(session)
        if live is not None:
            live.told = live.told or told
            live.detached_at = self._gateway.wheel.seconds()
            live.stream = None
            self._watch(live.close())

    def ended(self, session: LiveSession) -> None:
        """The session ended through this attempt."""
        live = self._mine(session)
        if live is not None:
            self._finish(live, "complete")

    def refused(self, session: LiveSession, *, gone: bool) -> None:
        """The attempt was refused; ``gone``: the device does not have the session."""
        live = self._mine(session)
        if live is None:
            return
        if session.attempt == 1 and not live.out and not live.typed:
            self._finish(live, None)
        elif gone:
            self._finish(live, "interrupted")
        else:
            self.detached(session, told=False)

    def settled(self, session: str) -> None:
        """The log tells how a session ended, by another way than an attempt."""
        live = self._live.get(session)
        if live is not None and live.detached_at is not None and not live.told:
            # Not at once: its last output may still be asked for.
            live.told = True
            live.detached_at = self._gateway.wheel.seconds()

    @staticmethod
    def _mine(session: LiveSession) -> LiveRecording | None:
        live, session.recording = session.recording, None
        # A higher attempt may have it by now.
        return live if live is not None and live.owner is session else None

    def _finish(self, live: LiveRecording, status: str | None) -> None:
        """End a recording; None forgets one of which nothing came."""
        if self._live.get(live.row.session) is live:
            del self._live[live.row.session]
            live.stream = None
            self._watch(Deferred.fromCoroutine(self._finished(live, status)))

    async def _finished(self, live: LiveRecording, status: str | None) -> None:
        await live.close()
        path, store = self.home / live.row.path, self._gateway.store
        if status is None:
            await self._in_thread(lambda: remove(path))
            await store.drop_recording(live.row.session)
            return
        try:
            stored = await self._in_thread(lambda: finish(path, goes_on=status != "complete"))
        except OSError as error:
            self._log.error("{path} stays as it is: {why}", path=str(path), why=str(error))
            stored = live.position.size
        progress = RecordingProgress(
            ended_at=self._gateway.now_us(),
            duration_ms=live.position.at,
            size=live.position.size,
            stored=stored,
            status="failed" if live.damaged else status,
        )
        await store.update_recording(live.row.session, progress)

    # -- writing -------------------------------------------------------------------------------

    def _is_dirty(self, live: LiveRecording) -> None:
        self._dirty[live] = None
        if self._timer is None and not self._stopped:
            # A wheel fires up to a tick late.
            self._timer = self._gateway.wheel.call_later(FLUSH_SECONDS / 2, self._flush)

    def _flush(self) -> None:
        self._timer = None
        dirty, self._dirty = self._dirty, {}
        for live in dirty:
            live.flush()

    def _failed(self, live: LiveRecording, reason: str) -> None:
        row = live.row
        self._log.error(
            "session {session} of {operator} on {device} is not recorded: {why}",
            session=row.session,
            operator=row.operator,
            device=row.device_name,
            why=reason,
        )
        if live.stream is None:
            return
        self._watch(
            Deferred.fromCoroutine(
                self._tell_failure(row.session, row.device, row.device_name, reason)
            )
        )
        if self.policy.on_failure == "end":
            self._gateway.switchboard.end_where(
                lambda one: one.recording is live,
                FAILED,
                f"this session has to be recorded, and cannot be any more: {reason}",
            )

    async def _tell_failure(self, session: str, device: str, name: str, reason: str) -> None:
        """Write down that something is missing; a store that fails too is told in the log."""
        try:
            await self._gateway.store.append_audit(
                AuditRecord(
                    kind="recording.failed",
                    device=device,
                    device_name=name,
                    session=session,
                    status="failed",
                    message=printable(reason, 240),
                )
            )
        except StoreError as error:
            self._log.error("the audit could not be written: {why}", why=str(error))

    # -- starting, looking, stopping -----------------------------------------------------------

    async def start(self) -> None:
        """Take up what an earlier run of this gateway left open."""
        self._threads.start()
        self._started = True
        for row in await self._gateway.store.recordings_open():
            live = self._keep(row)
            live.detached_at = self._gateway.wheel.seconds()
            live.measure()
        self._look_later()

    async def stop(self) -> None:
        """Write everything there is."""
        self._stopped = True
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        for live in list(self._live.values()):
            await live.close()
        for ending in list(self._ending):
            await ending
        if self._started:
            self._threads.stop()

    def _look_later(self) -> None:
        # Roles may record where the configuration does not: as long as there is anything.
        if self.policy.mode != "off" or self._live:
            self._look = self._gateway.wheel.call_later(LOOK_SECONDS, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        now = self._gateway.wheel.seconds()
        for live in list(self._live.values()):
            if live.detached_at is None:
                continue
            alone = now - live.detached_at
            if live.told and alone > TOLD_SECONDS:
                self._finish(live, "complete")
            elif alone > FORGOTTEN_SECONDS:
                self._finish(live, "interrupted")
        if now >= self._next_retention:
            self._next_retention = now + RETENTION_SECONDS
            self._watch(Deferred.fromCoroutine(self.retain()))
        self._look_later()

    async def retain(self) -> int:
        """Delete what is too old or too much; return how many."""
        policy, store = self.policy, self._gateway.store
        before = 0
        if policy.keep_days:
            before = self._gateway.now_us() - policy.keep_days * DAY_SECONDS * 1_000_000
        surplus = await store.recordings_to_drop(before, policy.keep_bytes)
        if not surplus:
            return 0
        # The log first: nothing goes without a word.
        await store.append_audit(
            AuditRecord(
                kind="recordings.dropped",
                details={
                    "count": len(surplus),
                    "bytes": sum(row.stored for row in surplus),
                    "sessions": [row.session for row in surplus[:1_000]],
                },
            )
        )
        for row in surplus:
            await self._in_thread(partial(remove, self.home / row.path))
            await store.drop_recording(row.session)
        self._log.info("gave up {count} recordings by age or size", count=len(surplus))
        return len(surplus)

    def in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        """Run what may block; fires in the reactor's thread."""
        return self._in_thread(work)

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                problem = error
                self._threads.in_reactor(lambda: done.errback(problem))
            else:
                self._threads.in_reactor(lambda: done.callback(result))

        self._threads.in_reader(run)
        return done

    def _watch(self, ending: Deferred[None] | Deferred[int]) -> None:
        """Remember work that nobody waits for until it is done, and log its failure."""
        watched: Deferred[None] = Deferred()
        self._ending.add(watched)

        def over(result: object) -> None:
            self._ending.discard(watched)
            if isinstance(result, Failure):
                if result.check(StoreError, OSError):
                    self._log.error("recordings: {why}", why=result.getErrorMessage())
                else:
                    self._log.failure("recordings failed", result)
            watched.callback(None)

        ending.addBoth(over)
