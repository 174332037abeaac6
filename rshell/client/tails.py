"""Tail: the ends of one device's logs, followed through everything that can happen to the device.

A link that breaks, a gateway or an agent that dies are a session's own business
(`rshell.client.session`): its bytes come once and in order.  What ends the session itself (a
reboot, a keeper that dies, a link that stays away) is seen to here: the records told where in which
file each line was, so another session goes on behind the last one that arrived.

::

    Session --bytes--> Tail --lines, notices--> TailReceiver
                        | marks, cursor
                        +--> the next session

What it is not: it shows nothing (`rshell.cli.tail` does), and reads no files (the device does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rshell.client.absence import Away
from rshell.client.client import Client
from rshell.client.errors import RshellError
from rshell.client.outcomes import Outcome, describe_outcome
from rshell.client.records import SessionInfo
from rshell.client.session import Session
from rshell.client.tail_records import Ending, Garbage, Place, Records, path_of
from rshell.handlers.tail import JournalEntry, TailRecord, TailRequest
from rshell.link.core.errors import ErrorCode

__all__ = ["Tail", "TailLine", "TailNotice", "TailReceiver"]

#: After an end that is no end of ours; doubled each time, up to the second.
AGAIN_SECONDS = 0.5
MAX_AGAIN_SECONDS = 15.0
#: Files whose places are remembered: five times what a device follows, and no more from a hostile
#: one.
MAX_FILES = 1000
#: A line of the worker on standard error.
MAX_COMPLAINT_BYTES = 2000

#: Ends of a session after which another one goes on.
_PASSING = frozenset(
    {
        ErrorCode.LOST,
        ErrorCode.UNKNOWN,
        ErrorCode.LINK_LOST,
        ErrorCode.OFFLINE,
        ErrorCode.SHUTDOWN,
        ErrorCode.OVERLOAD,
        ErrorCode.TIMEOUT,
    }
)


@attrs.frozen
class TailLine:
    """A line of a log, or a piece of one.

    Attributes:
        data: Without its newline, as it is in the file: any bytes.
        path: Of the file; None for the journal.
        pos: The offset behind it in the file.
        cut: Bytes left out at its end.
        part: Whether its newline has not come yet.
        more: Whether it continues a piece that came before.
        entry: What the journal knows about it.
    """

    data: bytes
    path: bytes | None
    pos: int = 0
    cut: int = 0
    part: bool = False
    more: bool = False
    entry: JournalEntry | None = None


@attrs.frozen
class TailNotice:
    """Something about a log that is no line of it.

    Attributes:
        code: ``dropped`` (``count`` lines, by the rate), ``rotated``, ``truncated``, ``appeared``,
            ``gone``, ``missing``, ``missed``, ``unreadable``, ``not-a-file``, ``too-many``,
            ``no-stamps``, ``policy``, ``pattern``, ``journal``, ``cut``, ``worker``; and of this
            end: ``waiting``, ``resumed``.
        text: For a person, one line; from the device, so not safe to show as it is.
        path: Of the file, if it is about one.
        count: Of lines.
    """

    code: str
    text: str
    path: bytes | None = None
    count: int = 0


class TailReceiver(Protocol):
    """Takes what a tail tells; `Tail.pause` stops it soon."""

    def line_received(self, line: TailLine) -> None:
        """A line, in the order of its file."""

    def notice_received(self, notice: TailNotice) -> None:
        """Anything else, at its place among the lines."""


class Tail:
    """Follows the logs of one device; it behaves as a `rshell.client.Session` does.

    Args:
        client: Opens the sessions.
        device: Name or id.
        request: What is asked for.
        receiver: Takes lines and notices.
        reactor: For the waits before another session.
        login: The account on the device; None asks for its default.

    Attributes:
        link_changed: As a session's.

    Example:
        ::

            request = TailRequest(paths=[b"/var/log/syslog"], follow=True)
            tail = Tail(client, "pump-17", request, receiver, reactor)
            tail.start()
            outcome = await tail.outcome
    """

    def __init__(
        self,
        client: Client,
        device: str,
        request: TailRequest,
        receiver: TailReceiver,
        reactor: IReactorTime,
        *,
        login: str | None = None,
    ) -> None:
        self.link_changed: Callable[[Away | None], None] | None = None
        self._client = client
        self._device = device
        self._request = request
        self._receiver = receiver
        self._reactor = reactor
        self._login = login
        self._session: Session | None = None
        self._records = Records(self._record)
        self._complaints = b""
        #: Of the last session that got so far as to name its files.
        self._places: dict[int, Place] = {}
        #: Of the session that runs, while it names them.
        self._named: dict[int, Place] = {}
        self._ready = False
        self._began_at: float | None = None
        self._cursor: str | None = None
        self._orphan: SessionInfo | None = None
        self._failures = 0
        self._away: Away | None = None
        self._again: IDelayedCall | None = None
        self._paused = False
        self._cancelled = False
        self._garbage = False
        self._outcome: Outcome | None = None
        self._waiting: list[Deferred[Outcome]] = []

    def start(self) -> None:
        """Open the first session.

        Raises:
            ConnectionFailed: There is no link, and there will be none.
            Refused: The request does not fit into a control frame, or too many streams are open.
        """
        self._open(self._request, b"")

    # -- what a session has, too -------------------------------------------------------------------

    @property
    def away(self) -> Away | None:
        """Since when there is no way to the device; until when is the next attempt, if it ended."""
        return self._session.away if self._session is not None else self._away

    @property
    def outcome(self) -> Deferred[Outcome]:
        """A new Deferred that fires with the outcome; it never fails."""
        waiting: Deferred[Outcome] = Deferred()
        if self._outcome is not None:
            waiting.callback(self._outcome)
        else:
            self._waiting.append(waiting)
        return waiting

    def write(self, data: bytes) -> None:
        """Nobody reads input there."""

    def write_eof(self) -> None:
        """It has been said."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nobody reads input there (`IConsumer`)."""
        producer.stopProducing()

    def unregisterProducer(self) -> None:
        """There is none (`IConsumer`)."""

    def pause(self) -> None:
        """Stop delivery: the device reads no further, and nothing is dropped for that."""
        self._paused = True
        if self._session is not None:
            self._session.pause()

    def resume(self) -> None:
        """Deliver again."""
        self._paused = False
        if self._session is not None:
            self._session.resume()

    def cancel(self) -> None:
        """End it; the outcome still comes."""
        self._cancelled = True
        if self._session is not None:
            self._session.cancel()
        elif self._again is not None:
            self._again.cancel()
            self._again = None
            text = "given up while the device was away"
            code = ErrorCode.CANCELLED.value
            self._finish(Outcome(status="lost", code=code, message=text))

    # -- sessions ----------------------------------------------------------------------------------

    def _open(self, request: TailRequest, marks: bytes) -> None:
        self._named = {}
        self._records.clear()
        session = self._client.open(self._device, "tail", request, self, login=self._login)
        self._session = session
        session.link_changed = self._link_changed
        if self._paused:
            session.pause()
        session.write(marks)
        session.write_eof()
        session.outcome.addCallback(self._ended, session)

    def _link_changed(self, away: Away | None) -> None:
        if self.link_changed is not None:
            self.link_changed(away)

    def _ended(self, outcome: Outcome, session: Session) -> None:
        self._session = None
        if self._garbage:
            text = "the device sent what is no record of a log"
            outcome = Outcome(status="error", code=ErrorCode.PROTOCOL.value, message=text)
        elif self._goes_on(outcome):
            if outcome.code == ErrorCode.LINK_LOST.value and session.opened:
                self._orphan = self._info(session)
            self._wait(outcome)
            return
        self._finish(outcome)

    def _goes_on(self, outcome: Outcome) -> bool:
        if self._cancelled or not self._ready or self._client.closed:
            return False
        if outcome.status == "signal":  # a device that goes down ends everybody
            return outcome.signal in ("TERM", "KILL", "HUP")
        if outcome.status == "timeout":  # we slept for an hour
            return True
        if outcome.status in ("ok", "exit"):
            return False
        return outcome.code == "stopped" or ErrorCode.read(outcome.code or "") in _PASSING

    def _wait(self, outcome: Outcome) -> None:
        delay = min(AGAIN_SECONDS * 2**self._failures, MAX_AGAIN_SECONDS)
        self._failures = min(self._failures + 1, 10)
        now = self._reactor.seconds()
        if self._away is None:
            text = f"{describe_outcome(outcome)}; going on when the device is back"
            self._receiver.notice_received(TailNotice("waiting", text))
            self._away = Away(now, now + delay, describe_outcome(outcome))
        else:
            self._away = attrs.evolve(self._away, until_seconds=now + delay)
        self._link_changed(self._away)
        self._again = self._reactor.callLater(delay, self._go_on)

    def _go_on(self) -> None:
        """Open another session behind what has arrived."""
        self._again = None
        request = msgspec.structs.replace(
            self._request, lines=None, first=None, since=None, since_ago=None
        )
        marks = b""
        if self._request.paths:
            request = msgspec.structs.replace(request, resume=True)
            marks = b"".join(place.mark() + b"\n" for place in self._places.values())
        elif self._cursor is not None:
            request = msgspec.structs.replace(request, cursor=self._cursor)
        else:
            request = msgspec.structs.replace(request, since=self._began_at)
        try:
            self._open(request, marks)
        except RshellError as error:
            self._finish(Outcome(status="refused", code=error.code, message=error.message))

    def _finish(self, outcome: Outcome) -> None:
        if self._complaints:
            self._complain(b"\n")
        self._away = None
        self._outcome = outcome
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(outcome)

    # -- a session that may live on without us -----------------------------------------------------

    def _info(self, session: Session) -> SessionInfo:
        return SessionInfo(
            session=session.session_id.hex(),
            device=self._device,
            handler="tail",
            state="detached",
            login=self._login,
            attempt=session.attempt,
        )

    def _end_orphan(self) -> None:
        """End the session that another one has replaced: it would wait for us for an hour."""
        orphan, self._orphan = self._orphan, None
        if orphan is not None:
            receiver = Ending()
            try:
                receiver.session = self._client.attach(orphan, receiver, priority="normal")
            except RshellError:
                pass  # then it ends by its time limit

    # -- SessionReceiver ---------------------------------------------------------------------------

    def session_opened(self) -> None:
        self._end_orphan()

    def output_received(self, data: bytes, stderr: bool) -> None:
        if self._garbage:
            return
        if stderr:
            self._complain(data)
            return
        try:
            self._records.feed(data)
        except Garbage:
            self._garbage = True
            if self._session is not None:
                self._session.abort()

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """A tail's pipe waits: there are neither gaps nor progress."""

    def _complain(self, data: bytes) -> None:
        *lines, rest = (self._complaints + data).split(b"\n")
        if len(rest) > MAX_COMPLAINT_BYTES:
            lines.append(rest)
            rest = b""
        self._complaints = rest
        for line in lines:
            text = line[:MAX_COMPLAINT_BYTES].decode("utf-8", "replace")
            self._receiver.notice_received(TailNotice("worker", text))

    # -- records -----------------------------------------------------------------------------------

    def _record(self, record: TailRecord) -> None:
        match record.kind:
            case "line":
                self._line(record)
            case "file":
                self._name(record)
            case "ready":
                self._begin(record)
            case "dropped":
                self._dropped(record)
            case "at":
                self._move(record, False)
            case "end":
                self._places.pop(record.file, None)
            case "note":
                notice = TailNotice(record.code, record.text, path_of(record))
                self._receiver.notice_received(notice)
            case _:
                pass  # of a newer device

    def _line(self, record: TailRecord) -> None:
        if record.entry is not None:
            self._cursor = record.cursor or self._cursor
            path = None
        else:
            path = self._move(record, record.part)
        self._receiver.line_received(
            TailLine(
                record.data,
                path,
                record.pos,
                record.cut,
                record.part,
                record.more,
                record.entry,
            )
        )

    def _move(self, record: TailRecord, mid: bool) -> bytes | None:
        place = self._places.get(record.file)
        if place is None:
            return None
        place.pos, place.mid = record.pos, mid
        return place.path

    def _name(self, record: TailRecord) -> None:
        place = Place(record, path_of(record) or b"?", record.pos, record.mid)
        self._named[record.file] = place
        if len(self._named) > MAX_FILES or len(self._places) > MAX_FILES:
            raise Garbage
        if not self._request.follow:
            self._places = self._named

    def _begin(self, record: TailRecord) -> None:
        self._places = self._named
        self._ready = True
        self._failures = 0
        if self._began_at is None:
            self._began_at = record.time
        if self._away is not None:
            gone = self._reactor.seconds() - self._away.since_seconds
            self._away = None
            self._link_changed(None)
            text = f"back after {gone:.0f} s; going on where it was"
            self._receiver.notice_received(TailNotice("resumed", text))

    def _dropped(self, record: TailRecord) -> None:
        self._cursor = record.cursor or self._cursor
        path = self._move(record, False)
        text = f"{record.count:,} lines dropped"
        self._receiver.notice_received(TailNotice("dropped", text, path, record.count))
