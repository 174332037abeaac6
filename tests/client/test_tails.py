"""Tail: records into lines, and one session after another behind the last line that came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import Away, Outcome, Refused, SessionInfo
from rshell.client.tail_records import MAX_RECORD_BYTES
from rshell.client.tails import Tail, TailLine, TailNotice
from rshell.handlers.tail import TailRequest

LOST = Outcome(status="lost", code="lost", message="the device does not have it any more")
FOLLOW = TailRequest(paths=[b"/log"], follow=True, lines=5)


class FakeSession:
    """A session whose device is the test."""

    def __init__(self, request: Any, receiver: Any) -> None:
        self.request = request
        self.receiver = receiver
        self.input = b""
        self.calls: list[str] = []
        self.away: Away | None = None
        self.link_changed: Any = None
        self.session_id = b"s" * 16
        self.attempt = 3
        self.opened = True
        self.outcome: Deferred[Outcome] = Deferred()

    def write(self, data: bytes) -> None:
        self.input += data

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)

    def abort(self) -> None:
        self.outcome.callback(Outcome(status="lost", code="cancelled"))

    def tell(self, *records: dict[str, Any]) -> None:
        """Let records come."""
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        self.receiver.output_received(data, False)


class FakeClient:
    """Opens `FakeSession`s."""

    closed = False

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.attached: list[SessionInfo] = []
        self.refusal: Refused | None = None

    def open(self, device: str, handler: str, request: Any, receiver: Any, login: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.sessions.append(FakeSession(request, receiver))
        return self.sessions[-1]

    def attach(self, info: SessionInfo, receiver: Any, priority: str) -> Any:
        self.attached.append(info)
        self.sessions.append(FakeSession(None, receiver))
        return self.sessions[-1]


class TailTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = FakeClient()
        self.clock = Clock()
        self.lines: list[TailLine] = []
        self.notices: list[TailNotice] = []
        self.changes: list[Away | None] = []
        self.file = {"kind": "file", "file": 1, "path": "/log", "dev": 1, "ino": 7, "head": 3}
        self.file.update(digest="abc", pos=10, mid=False)

    def line_received(self, line: TailLine) -> None:
        self.lines.append(line)

    def notice_received(self, notice: TailNotice) -> None:
        self.notices.append(notice)

    def tail(self, request: TailRequest = FOLLOW) -> Tail:
        tail = Tail(self.client, "pump", request, self, self.clock)  # type: ignore[arg-type]  # a double
        tail.link_changed = self.changes.append
        tail.start()
        return tail

    @property
    def session(self) -> FakeSession:
        return self.client.sessions[-1]

    def codes(self) -> list[str]:
        return [notice.code for notice in self.notices]

    def begun(self, *records: dict[str, Any]) -> Tail:
        tail = self.tail()
        self.session.tell(self.file, {"kind": "ready", "time": 5.0}, *records)
        return tail

    def test_lines(self) -> None:
        """Records become lines however they are cut; unknown kinds and keys are passed over."""
        self.tail()
        records: list[dict[str, Any]] = [
            self.file,
            {"kind": "ready", "time": 1.0, "new": [1]},
            {"file": 1, "pos": 13, "line": "ab"},
            {"file": 1, "pos": 20, "b64": "/w==", "cut": 4, "part": True, "more": False},
            {"kind": "from the future", "file": 9},
            {"kind": "dropped", "file": 1, "count": 7, "pos": 99},
            {"kind": "note", "code": "rotated", "text": "x", "path_b64": "/w=="},
        ]
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        for index in range(len(data)):
            self.session.receiver.output_received(data[index : index + 1], False)
        expected = [TailLine(b"ab", b"/log", 13), TailLine(b"\xff", b"/log", 20, 4, True)]
        self.assertEqual(expected, self.lines)
        self.assertEqual(("dropped", 7), (self.notices[0].code, self.notices[0].count))
        self.assertEqual(("rotated", b"\xff"), (self.notices[1].code, self.notices[1].path))

    def test_goes_on(self) -> None:
        """After the session is lost another one gets the place behind the last line."""
        self.begun({"file": 1, "pos": 13, "line": "ab"}, {"file": 1, "pos": 15, "line": "c"})
        self.session.receiver.output_received(b'{"file":1,"pos":99,"li', False)
        first = self.session
        first.outcome.callback(LOST)
        self.assertEqual(["waiting"], self.codes())
        self.clock.advance(0.5)
        self.assertIsNot(first, self.session)
        self.assertEqual((True, None), (self.session.request.resume, self.session.request.lines))
        mark = json.loads(self.session.input)
        expected = {"path": "/log", "dev": 1, "ino": 7, "head": 3, "digest": "abc", "pos": 15}
        self.assertEqual(expected, mark)
        self.session.tell({**self.file, "file": 4, "pos": 15}, {"kind": "ready", "time": 9.0})
        self.session.tell({"file": 4, "pos": 17, "line": "d"})
        self.assertEqual([b"ab", b"c", b"d"], [line.data for line in self.lines])
        self.assertEqual(["waiting", "resumed"], self.codes())
        self.assertIsNone(self.changes[-1])

    def test_lost_again_before_it_was_ready(self) -> None:
        """A session that ends before it named its files changes nothing of what is known."""
        self.begun({"file": 1, "pos": 13, "line": "ab", "part": True})
        self.session.outcome.callback(LOST)
        for delay in (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0):
            self.clock.advance(delay)
            mark = json.loads(self.session.input)
            self.assertEqual((13, True), (mark["pos"], mark["mid"]))
            self.session.tell({**self.file, "pos": 0})
            self.session.outcome.callback(Outcome(status="offline", code="offline"))
        self.assertEqual(["waiting"], self.codes())

    def test_files_that_end(self) -> None:
        """A file that will have no more is no place to go on from; one whose place moved is."""
        self.begun(
            {**self.file, "file": 2, "ino": 8},
            {"kind": "end", "file": 1},
            {"kind": "at", "file": 2, "pos": 50},
        )
        self.session.outcome.callback(LOST)
        self.clock.advance(0.5)
        (mark,) = map(json.loads, self.session.input.splitlines())
        self.assertEqual((8, 50), (mark["ino"], mark["pos"]))

    def test_journal(self) -> None:
        """In the journal it goes on after the last cursor, or from when it began."""
        self.tail(TailRequest(journal=True, follow=True))
        self.session.tell({"kind": "ready", "time": 5.0})
        self.session.outcome.callback(LOST)
        self.clock.advance(0.5)
        self.assertEqual((5.0, None), (self.session.request.since, self.session.request.cursor))
        self.session.tell({"kind": "ready", "time": 9.0})
        self.session.tell({"line": "m", "cursor": "c1", "entry": {"time": 1, "ident": "app"}})
        self.session.outcome.callback(LOST)
        self.clock.advance(0.5)
        self.assertEqual((None, "c1"), (self.session.request.since, self.session.request.cursor))
        entry = self.lines[0].entry
        assert entry is not None
        self.assertEqual("app", entry.ident)

    def test_final_ends(self) -> None:
        """A refusal, a request that makes no sense, and an end of its own are final."""
        for outcome in (
            Outcome(status="ok"),
            Outcome(status="exit", exit_code=2),
            Outcome(status="refused", code="policy"),
            Outcome(status="error", code="revoked"),
            Outcome(status="lost", code="duplicate"),
            Outcome(status="lost", code="auth"),
            Outcome(status="signal", signal="SEGV"),
        ):
            tail = self.begun()
            self.session.outcome.callback(outcome)
            self.assertEqual(outcome, self.successResultOf(tail.outcome))
        for outcome in (
            Outcome(status="signal", signal="TERM"),
            Outcome(status="error", code="stopped"),
            Outcome(status="timeout"),
        ):
            tail = self.begun()
            self.session.outcome.callback(outcome)
            self.assertNoResult(tail.outcome)

    def test_not_begun(self) -> None:
        """What never began, or does not follow, is not begun again."""
        tail = self.tail()
        offline = Outcome(status="offline", code="offline")
        self.session.outcome.callback(offline)
        self.assertEqual(offline, self.successResultOf(tail.outcome))
        tail = self.tail(TailRequest(paths=[b"/log"]))
        self.session.tell(self.file, {"file": 1, "pos": 13, "line": "ab"})
        self.session.outcome.callback(LOST)
        self.assertEqual(LOST, self.successResultOf(tail.outcome))

    def test_cancel(self) -> None:
        """Cancelled, it begins no other session, and ends at once while none is there."""
        tail = self.begun()
        tail.cancel()
        self.assertEqual(["write_eof", "cancel"], self.session.calls)
        outcome = Outcome(status="signal", signal="TERM")
        self.session.outcome.callback(outcome)
        self.assertEqual(outcome, self.successResultOf(tail.outcome))
        tail = self.begun()
        self.session.outcome.callback(LOST)
        self.assertIsNotNone(tail.away)
        tail.cancel()
        self.assertEqual("cancelled", self.successResultOf(tail.outcome).code)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_paused(self) -> None:
        """A reader that is slow stays so over sessions."""
        tail = self.begun()
        tail.pause()
        self.session.outcome.callback(LOST)
        self.clock.advance(0.5)
        self.assertEqual("pause", self.session.calls[0])
        tail.resume()
        self.assertEqual("resume", self.session.calls[-1])

    def test_orphan(self) -> None:
        """A session that waits on the device for us is ended once another one has replaced it."""
        self.begun()
        self.session.outcome.callback(Outcome(status="lost", code="link-lost"))
        self.clock.advance(0.5)
        replacement = self.session
        self.assertEqual([], self.client.attached)
        replacement.receiver.session_opened()
        (info,) = self.client.attached
        self.assertEqual((b"s" * 16, 3), (bytes.fromhex(info.session), info.attempt))
        self.session.receiver.session_opened()
        self.assertEqual(["cancel"], self.session.calls)

    def test_refused_to_open(self) -> None:
        """If another session cannot be opened at all, that is the end."""
        tail = self.begun()
        self.session.outcome.callback(LOST)
        self.client.refusal = Refused("streams", "too many")
        self.clock.advance(0.5)
        self.assertEqual("streams", self.successResultOf(tail.outcome).code)

    def test_garbage(self) -> None:
        """A device that sends no records, or too much, is cut off with an error."""
        for data in (
            b"hello\n",
            b"[]\n",
            b'{"pos":-1}\n',
            b'{"file":1e400}\n',
            b'{"line":5}\n',
            b"\xff\n",
            b"[" * 50_000 + b"\n",
            b"x" * (MAX_RECORD_BYTES + 1),
            b"".join(b'{"kind":"file","file":%d,"path":"x"}\n' % n for n in range(2000)),
        ):
            tail = self.tail()
            self.session.receiver.output_received(data, False)
            outcome = self.successResultOf(tail.outcome)
            self.assertEqual(("error", "protocol"), (outcome.status, outcome.code), data[:50])
        self.assertEqual([], self.lines)

    def test_complaints(self) -> None:
        """What the worker says on standard error is told line by line, however long."""
        tail = self.tail()
        self.session.receiver.output_received(b"one\ntw", True)
        self.session.receiver.output_received(b"o", True)
        self.session.outcome.callback(Outcome(status="exit", exit_code=70))
        self.assertEqual(["one", "two"], [notice.text for notice in self.notices])
        self.successResultOf(tail.outcome)

    def test_request(self) -> None:
        """Requests that make no sense are refused by their type."""
        for fields in (
            {},
            {"paths": ["Lw=="], "journal": True},
            {"paths": ["YQBi"]},
            {"paths": [""]},
            {"units": ["-x"]},
            {"units": ["a b"]},
            {"paths": ["Lw=="], "since": 1.0, "since_ago": 1.0},
            {"journal": True, "first": 1},
            {"paths": ["Lw=="], "rate": -1},
            {"paths": ["Lw=="], "pattern": "x" * 1001},
        ):
            with self.assertRaises(msgspec.ValidationError):
                msgspec.convert(fields, TailRequest)
