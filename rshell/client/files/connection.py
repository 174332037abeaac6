"""FilesConnection: the client's end of a files session (docs/files.md).

It turns requests into frames and answers into results, and keeps memory bounded both ways: what it
sends waits in the session, which says when that is enough; what arrives is handed to whoever asked
for it, who may stop the delivery.  Requests may overlap freely, but for uploads, whose frames must
follow each other (FT8): `rshell.client.files.transfers` keeps that order.

What it is not: it decides nothing about what to copy or how.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rshell.access.printable import printable
from rshell.client.client import Client
from rshell.client.files.frames import (
    DATA_OUT,
    ERROR,
    HOLE_OUT,
    NOTE,
    REPLY,
    BadFrame,
    FrameReader,
    frame_head,
    request_frame,
)
from rshell.client.files.pages import PageQueue, decoded_paths
from rshell.client.files.records import Entry, FilesError, Hello
from rshell.client.outcomes import Outcome, describe_of
from rshell.client.session import SessionReceiver
from rshell.handlers.files import FilesRequest
from rshell.link.core.constants import BULK_WINDOW, MAX_PAYLOAD

__all__ = ["MAX_UNANSWERED", "Exchange", "FilesConnection", "FilesSession", "Receiver"]

#: Requests that may wait for their answer (FT3).
MAX_UNANSWERED = 1000
_MAX_ID = 2**32 - 1
#: How much of a frame is written at once: four frames of the link, which then cut nothing.
WRITE_BYTES = 4 * MAX_PAYLOAD
#: What a worker says on standard error when it ends; more is not kept.
MAX_COMPLAINT_BYTES = 2000

#: More paths than a device may say that a pattern matches (FT19).
MAX_PATHS = 100_000
#: Of the heap, that comes and goes: pieces that are read ahead, and a window.
_HEAP_STEP = 2 * 1024 * 1024
#: What may be raised by bytes that are no answer; the last one by maps in maps in maps.
_UNREADABLE = (BadFrame, msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Takes REPLY (with more to come), DATA, HOLE and NOTE of one request: type and payload.
Receiver = Callable[[int, bytes], None]


class FilesSession(Protocol):
    """What is used of a `rshell.client.session.Session`."""

    @property
    def outcome(self) -> Deferred[Outcome]: ...
    @property
    def ended(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def registerProducer(self, producer: Any, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


@attrs.define(eq=False)
class Exchange:
    """One request and its answer.

    Attributes:
        id: Its number.
        done: Fires with the map of the last REPLY or of END; fails with `FilesError`.
        receiver: Takes what comes before.
        failed: Why it failed; also before anybody has looked at ``done``.
    """

    id: int
    done: Deferred[dict[str, Any]]
    receiver: Receiver | None = None
    failed: FilesError | None = None


@implementer(IPushProducer)
class FilesConnection:
    """A conversation with the handler ``files`` of one device; `open` makes it.

    Args:
        device: Its name, for messages.

    Attributes:
        session: The session below, for example for its `link_changed`.
        hello: What the worker said of itself.
        uploading: Held while an upload's frames are sent.
    """

    session: Any
    hello: Hello

    def __init__(self, device: str) -> None:
        self.device = device
        self.uploading = DeferredLock()
        self._reader = FrameReader()
        self._exchanges: dict[int, Exchange] = {}
        self._next = 1
        self._full = False
        self._waiting: list[Deferred[None]] = []
        self._pauses = 0
        self._session_paused = False
        self._delivering = False
        self._error: FilesError | None = None
        self._complaint = b""
        self._ended: list[Deferred[Outcome]] = []
        self._outcome: Outcome | None = None

    @classmethod
    async def open(
        cls,
        client: Client,
        device: str,
        login: str | None = None,
        *,
        priority: str = "bulk",
        window: int = BULK_WINDOW,
    ) -> FilesConnection:
        """Open a session of the handler ``files`` and greet its worker.

        Args:
            client: Connected.
            device: Name or id.
            login: The account on the device; None asks for its default.
            priority: As for `Client.open`.
            window: Bytes the device may be ahead of us.

        Raises:
            FilesError: The device or the gateway refused, or is away; the code says which.
            RshellError: The session cannot be asked for at all.
        """

        def start(receiver: SessionReceiver) -> FilesSession:
            return client.open(
                device,
                "files",
                FilesRequest(),
                receiver,
                login=login,
                priority=priority,
                window=window,
            )

        return await cls.over(start, device)

    @classmethod
    async def over(
        cls, start: Callable[[SessionReceiver], FilesSession], device: str
    ) -> FilesConnection:
        """Greet the worker at the other end of any session; see `open`.

        Args:
            start: Opens the session for the receiver that it is given.
            device: For messages.
        """
        _keep_free_memory()
        connection = cls(device)
        session = start(connection)
        connection.session = session
        session.outcome.addCallback(connection._session_ended)
        session.registerProducer(connection, True)
        try:
            connection.hello = Hello.decode(await connection.request("hello"))
        except BaseException:
            session.abort()
            raise
        return connection

    # -- asking ----------------------------------------------------------------------------------

    @property
    def compress(self) -> list[str]:
        """Compressions that the device knows, best first."""
        return self.hello.compress

    @property
    def error(self) -> FilesError | None:
        """Why nothing is answered any more; None while the session lasts."""
        return self._error

    @property
    def unanswered(self) -> int:
        """Requests whose answer has not come."""
        return len(self._exchanges)

    def begin(
        self, op: str, fields: dict[str, Any], *, receiver: Receiver | None = None
    ) -> Exchange:
        """Send a request.

        Args:
            op: The operation.
            fields: Of the request; bytes become base64, None is left out.
            receiver: Called in order with what comes before the last answer; block payloads are
                as on the wire.

        Raises:
            FilesError: The session is over, or too many requests are unanswered.
        """
        if self._error is not None:
            raise self._error
        if len(self._exchanges) >= MAX_UNANSWERED or self._next > _MAX_ID:
            raise FilesError("overload", "too many requests wait for their answers")
        exchange = Exchange(self._next, Deferred(), receiver)
        self._next += 1
        self._exchanges[exchange.id] = exchange
        self.session.write(request_frame(exchange.id, op, fields))
        return exchange

    async def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            op: The operation, one that takes no content.
            fields: ``from_`` stands for ``from``; bytes become base64, None is left out.

        Returns:
            The map of the answer; pages before it are dropped.

        Raises:
            FilesError: The device did not do it, or the session is over.
        """
        fields = {name.rstrip("_"): value for name, value in fields.items()}
        if self._full:
            await self.writable()
        async with _Held(self.uploading):
            exchange = self.begin(op, fields)
        return await exchange.done

    async def stat(self, path: bytes, *, follow: bool = True) -> Entry:
        """Return what a path is.

        Raises:
            FilesError: See `request`.
        """
        return Entry.decode((await self.request("stat", path=path, follow=follow)).get("entry"))

    async def walk(self, path: bytes, **fields: Any) -> AsyncIterator[list[Entry]]:
        """Yield the pages of a listing; the first entry is the path itself.

        Args:
            path: Where to begin.
            fields: ``recursive``, ``follow_root``, ``max_depth``, and ``note``: a function that is
                called with message and path of what was passed over.

        Raises:
            FilesError: See `request`.
        """
        note = fields.pop("note", None)
        async for page in self._pages("walk", {"path": path, **fields}, note):
            entries = page.get("entries")
            yield [Entry.decode(item) for item in entries] if isinstance(entries, list) else []

    async def glob(self, pattern: bytes) -> list[bytes]:
        """Return the paths that a pattern matches.

        Raises:
            FilesError: See `request`.
        """
        found: list[bytes] = []
        async for page in self._pages("glob", {"pattern": pattern}, None):
            found.extend(decoded_paths(page.get("paths")))
            if len(found) > MAX_PATHS:
                raise FilesError("too-large", f"there are more than {MAX_PATHS:,} paths", pattern)
        return found

    async def _pages(
        self, op: str, fields: dict[str, Any], note: Callable[[str, bytes], None] | None
    ) -> AsyncIterator[dict[str, Any]]:
        pages = PageQueue(self, note)
        async with _Held(self.uploading):
            exchange = self.begin(op, fields, receiver=pages.received)
        exchange.done.addCallbacks(pages.ended, pages.failed)
        async for page in pages:
            yield page

    # -- sending ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send ready-made frames of an upload; look at `writable` now and then."""
        if self._error is None:
            # A stream takes its records off the front of what was written: of small ones, cheaply.
            for start in range(0, len(data), WRITE_BYTES):
                self.session.write(data[start : start + WRITE_BYTES])

    def send_frame(self, kind: int, number: int, payload: bytes | bytearray) -> None:
        """Send a frame of an upload, as `send` does, but copy its payload once."""
        if self._error is not None:
            return
        head = frame_head(kind, number, len(payload))
        view = memoryview(payload)
        begun = WRITE_BYTES - len(head)
        self.session.write(b"".join((head, view[:begun])))
        for start in range(begun, len(view), WRITE_BYTES):
            self.session.write(bytes(view[start : start + WRITE_BYTES]))

    async def writable(self) -> None:
        """Wait until the session takes more; what it holds is at most its window and one frame.

        Raises:
            FilesError: The session is over.
        """
        while self._full and self._error is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        if self._error is not None:
            raise self._error

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self._wake()

    def stopProducing(self) -> None:
        self._full = False
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    # -- receiving -------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop delivery; each call needs a `resume`."""
        self._pauses += 1
        self._match()

    def resume(self) -> None:
        """Deliver again, first what had arrived already."""
        self._pauses -= 1
        # While frames are handed out, whoever does that goes on by itself.
        if not self._pauses and not self._delivering:
            self._deliver()

    def _match(self) -> None:
        """Let the session wait if we do."""
        paused = self._pauses > 0
        if paused != self._session_paused:
            self._session_paused = paused
            self.session.pause() if paused else self.session.resume()

    def session_opened(self) -> None:
        """The greeting was written ahead (`SessionReceiver`)."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """The worker has no events (`SessionReceiver`)."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Take bytes of the worker (`SessionReceiver`)."""
        if stderr:
            room = MAX_COMPLAINT_BYTES - len(self._complaint)
            self._complaint += data[: max(0, room)]
        elif self._error is None:
            self._reader.feed(data)
            self._deliver()

    def _deliver(self) -> None:
        if self._delivering or self._pauses:
            return
        self._delivering = True
        try:
            for kind, number, payload in self._reader.frames():
                self._frame(kind, number, payload)
                if self._pauses or self._error is not None:
                    break
        except _UNREADABLE as error:
            self._fail(FilesError("protocol", f"{self.device} sent what is no answer: {error}"))
            self.session.abort()
        except FilesError as error:  # a receiver has had enough of it
            self._fail(error)
            self.session.abort()
        finally:
            self._delivering = False
        self._match()

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        exchange = self._exchanges.get(number)
        if exchange is None:
            raise BadFrame(f"an answer to request {number}, which nobody asked")
        if kind in (DATA_OUT, HOLE_OUT, NOTE):
            if exchange.receiver is not None:
                exchange.receiver(kind, payload)
            return
        answer = msgspec.json.decode(payload, type=dict[str, Any])
        if kind == REPLY and answer.get("more") is True:
            if exchange.receiver is not None:
                exchange.receiver(kind, payload)
            return
        del self._exchanges[number]
        if kind == ERROR:
            exchange.failed = FilesError.decode(answer)
            exchange.done.errback(exchange.failed)
        else:
            exchange.done.callback(answer)

    # -- the end ---------------------------------------------------------------------------------

    @property
    def ended(self) -> Deferred[Outcome]:
        """A new Deferred that fires with the session's outcome."""
        waiting: Deferred[Outcome] = Deferred()
        if self._outcome is not None:
            waiting.callback(self._outcome)
        else:
            self._ended.append(waiting)
        return waiting

    async def close(self) -> Outcome:
        """Say that no request follows, and wait for the worker's end."""
        # The end of input goes out behind what a producer still has; we are one that never ends.
        self.session.unregisterProducer()
        self.stopProducing()
        self.session.write_eof()
        return await self.ended

    def abort(self) -> None:
        """End the session here and now; part files of uploads stay on the device."""
        self.session.abort()

    def _session_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome
        complaint = printable(self._complaint.decode("utf-8", "replace").strip(), 300)
        text = f"{self.device}: {complaint}" if complaint else describe_of(self.device, outcome)
        if outcome.status == "ok":
            text = f"{self.device}: the session is over"
        self._fail(FilesError(outcome.code or "lost", text, hint=""))
        ended, self._ended = self._ended, []
        for deferred in ended:
            deferred.callback(outcome)

    def _fail(self, error: FilesError) -> None:
        """Nothing is answered any more."""
        if self._error is None:
            self._error = error
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.failed = self._error
            exchange.done.errback(self._error)
        self._wake()


def _keep_free_memory() -> None:
    """Let the C library keep up to 4 MiB that is free for what comes next.

    glibc returns the free top of the heap from 128 KiB on, so each piece of a copy went back and
    was faulted in anew: a ninth of this program's processor time.  It takes the largest block that
    was freed to the system for the size of what comes and goes, and returns twice that; this one
    is never touched.
    """
    bytes(_HEAP_STEP)


class _Held:
    """A `DeferredLock` for ``async with``; free ones cost no turn of the reactor."""

    def __init__(self, lock: DeferredLock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self._lock.release()
