"""The hop between agent and keeper, cut after every byte: nothing is lost, doubled or run twice."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.ends import StreamEnd
from rshell.link.core.messages import Positions
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import frame_of, hello_frame
from tests.keeper.client import b64
from tests.keeper.inprocess import InProcess, PlayedProcess

UP, DOWN = "up", "down"
SIGNALS = ["USR1", "INT", "USR2", "HUP"]
NEVER = 1 << 40
PAYLOAD = bytes(range(256)) * 8


class Operator:
    """The operator's end of one session: it opens again whenever the hop is cut."""

    def __init__(self, keeper: InProcess, payload: bytes, signals: list[str]) -> None:
        self.end = StreamEnd(window=512)
        self.output: list[tuple[bool, bytes]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.refused: dict[str, Any] | None = None
        self.passed = {UP: 0, DOWN: 0}
        self._keeper = keeper
        self._session = os.urandom(16)
        self._attempt = 0
        self._resumes = False
        self._acknowledged = False
        for name in signals:
            self.end.send_event("signal", {"signal": name}, urgent=True)
        self.end.write(payload)
        self.end.write_eof()

    def attempt(self, cut: dict[str, int]) -> bool:
        """Open and go on until the hop is cut after so many bytes; False when all is over."""
        self._attempt += 1
        self._socket = self._keeper.socket()
        self._socket.setblocking(False)
        self._decoder = wire.Decoder()
        self._opened = self._closed = False
        self._left = dict(cut)
        self.passed = {UP: 0, DOWN: 0}
        self.end.detach()
        self._up = hello_frame("stream") + self._opening()
        over = self._talk()
        self._socket.close()
        self._keeper.settle()
        return not over

    def _opening(self) -> bytes:
        positions = self.end.positions()
        body: dict[str, Any] = {
            "session": b64(self._session),
            "attempt": self._attempt,
            "age_ms": self._attempt - 1,
            "operator": "ann",
            "handler": "exec",
            "login": None,
            "limit": positions.limit,
            "process": {"kind": "exec", "argv": [b64("cat")]},
        }
        if self._resumes:
            body["resume"] = {
                "consumed": positions.consumed,
                "limit": positions.limit,
                "events": positions.events,
            }
        return frame_of(wire.OPEN, body)

    def _talk(self) -> bool:
        idle = 0
        while idle < 400:
            moved = self._send() | self._keeper_works() | self._receive()
            if self.outcomes and self._acknowledged and not self._up:
                return True
            if self.refused is not None or self._closed:
                return True
            if self._left[UP] == 0 or self._left[DOWN] == 0:
                return False
            idle = 0 if moved else idle + 1
            if not moved:  # consumption is told within a second
                self._keeper.advance(1.0)
        raise AssertionError(f"stuck: {len(self.text)}, {self.outcomes}, {self.passed}")

    def _keeper_works(self) -> bool:
        self._keeper.settle(0.01 if self._keeper.real else 0.0)
        return False

    # -- to the keeper -------------------------------------------------------------------------

    def _send(self) -> bool:
        while self._opened and len(self._up) < 600:
            frame = self.end.next_control() or self.end.next_frame(150, self._credit)
            if frame is None:
                break
            self._up += self._encoded(frame)
        piece = self._up[: min(97, self._left[UP])]
        try:
            count = self._socket.send(piece) if piece else 0
        except (BlockingIOError, BrokenPipeError):
            count = 0
        self._up = self._up[count:]
        self._left[UP] -= count
        self.passed[UP] += count
        return count > 0

    def _encoded(self, frame: OutData | OutEvent | OutLimit) -> bytes:
        if isinstance(frame, OutData):
            self._credit -= len(frame.data)
            return wire.encode(wire.DATA, frame.data, wire.EOF if frame.eof else 0)
        if isinstance(frame, OutEvent):
            return wire.encode(wire.EVENT, frame.payload, wire.URGENT)
        self._acknowledged = frame.events > 0
        return wire.encode(wire.LIMIT, struct.pack(">QQQ", *frame))

    # -- from the keeper -----------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(min(89, self._left[DOWN]))
        except (BlockingIOError, ConnectionResetError):
            return False
        self._closed = not data
        self._left[DOWN] -= len(data)
        self.passed[DOWN] += len(data)
        for kind, flags, payload in self._decoder.feed(data):
            self._received(kind, flags, payload)
        return bool(data)

    def _received(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == wire.OPENED:
            opened = json.loads(payload)
            assert "gap" not in opened, opened
            positions = Positions(opened["consumed"], opened["limit"], opened["events"])
            self.end.resume(positions)
            self._credit = positions.limit - positions.consumed
            self._granted = positions.limit
            self._opened = self._resumes = True
        elif kind == wire.DATA:
            if payload:
                self.output.append((bool(flags & wire.STDERR), payload))
            self.end.received(len(payload))
            self.end.consumed(len(payload))
        elif kind == wire.LIMIT:
            consumed, limit, events = struct.unpack(">QQQ", payload)
            self.end.acknowledged(consumed, events)
            self._credit += max(0, limit - self._granted)
            self._granted = max(self._granted, limit)
        elif kind == wire.EVENT:
            event = json.loads(payload)
            if event["seq"] > self.end.positions().events:
                self.outcomes.append(event)
                self.end.event_seen(event["seq"])
        elif kind == wire.REFUSED:
            self.refused = json.loads(payload)
        else:
            assert kind == wire.WELCOME, (kind, payload)

    @property
    def text(self) -> bytes:
        return b"".join(data for stderr, data in self.output if not stderr)

    @property
    def errors(self) -> bytes:
        return b"".join(data for stderr, data in self.output if stderr)


class Echo(InProcess):
    """Plays `cat`: what it reads it writes, the first byte also to standard error; then 7.

    Args:
        slow: It takes a few bytes at a time, through a pipe that holds one page.
    """

    def __init__(self, slow: bool = False) -> None:
        super().__init__()
        self._slow = slow
        self.time = 1000.0
        self.errors = b""

    def settle(self, longest: float = 0.0) -> None:
        super().settle(longest)
        for process in self.processes[-1:]:
            if process._ended is None:
                self._work(process)
        super().settle(longest)

    def _work(self, process: PlayedProcess) -> None:
        if self._slow:
            process.narrow()
        data = process.read(30 if self._slow else 65536)
        if data == b"":
            process.exit(7)
        elif data:
            assert process.write(data) == len(data)
            self.errors += data[: process.write(data[:1], stderr=True)]


class CutTests(SynchronousTestCase):
    def run_cut(
        self,
        keeper: InProcess,
        cuts: list[dict[str, int]],
        payload: bytes = PAYLOAD,
        signals: list[str] = SIGNALS,
    ) -> Operator:
        """One command whose first attempts are cut; the last one is not."""
        operator = Operator(keeper, payload, signals)
        for cut in cuts:
            if not operator.attempt(cut):
                break
        else:
            self.assertFalse(operator.attempt({UP: NEVER, DOWN: NEVER}))
        return operator

    def check_played(
        self, operator: Operator, keeper: Echo, cuts: object, payload: bytes = PAYLOAD
    ) -> None:
        process = keeper.processes.pop()
        self.assertEqual([], keeper.processes, cuts)  # it ran once
        self.assertEqual(payload, operator.text, cuts)
        self.assertEqual(keeper.errors, operator.errors, cuts)
        keeper.errors = b""
        self.assertEqual([7], [outcome["exit_code"] for outcome in operator.outcomes], cuts)
        signals = [told[1] for told in process.told if told[0] == "signal"]
        self.assertEqual([10, 2, 12, 1], signals, cuts)

    def every_offset(self, way: str) -> None:
        keeper = Echo()
        self.addCleanup(keeper.stop)
        whole = self.run_cut(keeper, [])
        self.check_played(whole, keeper, None)
        total = whole.passed[way]
        self.assertGreater(total, len(PAYLOAD))
        other = DOWN if way == UP else UP
        for offset in range(1, total + 1):
            cuts = [{way: offset, other: NEVER}]
            self.check_played(self.run_cut(keeper, cuts), keeper, cuts)

    def test_after_every_byte_up(self) -> None:
        """Cut after each single byte towards the keeper: all arrives once, it runs once."""
        self.every_offset(UP)

    def test_after_every_byte_down(self) -> None:
        """Cut after each single byte from the keeper: all arrives once, it runs once."""
        self.every_offset(DOWN)

    def test_resume_is_cut_too(self) -> None:
        """A resume that is cut at any place, again and again, costs nothing either."""
        keeper = Echo()
        self.addCleanup(keeper.stop)
        for offset in range(1, 700, 3):
            cuts = [
                {UP: NEVER, DOWN: 3 * offset % 2500 + 1},
                {UP: offset, DOWN: NEVER},
                {UP: NEVER, DOWN: offset},
                {UP: offset + 200, DOWN: offset + 300},
            ]
            self.check_played(self.run_cut(keeper, cuts), keeper, cuts)

    def test_slow_program(self) -> None:
        """Input that waits for a slow program when the hop is cut is taken once, too."""
        keeper = Echo(slow=True)
        self.addCleanup(keeper.stop)
        payload = PAYLOAD * 6
        for offset in range(1, 13_000, 211):
            for cuts in ([{UP: offset, DOWN: NEVER}], [{UP: NEVER, DOWN: offset}]):
                operator = self.run_cut(keeper, cuts, payload)
                self.check_played(operator, keeper, cuts, payload)

    def test_real_command(self) -> None:
        """The same with processes of the system, at every 97th byte each way."""
        keeper = InProcess(real=True)
        keeper.time = 1000.0
        self.addCleanup(keeper.stop)
        payload = PAYLOAD[:1024]
        for offset in range(1, 1800, 97):
            for cut in ({UP: offset, DOWN: NEVER}, {UP: NEVER, DOWN: offset}):
                keeper.spawned = 0
                operator = self.run_cut(keeper, [cut], payload, [])
                self.assertEqual((1, payload), (keeper.spawned, operator.text), cut)
                self.assertEqual(["ok"], [outcome["status"] for outcome in operator.outcomes])
