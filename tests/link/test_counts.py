"""What relaying costs, counted and not timed: frames, LIMITs, writes and calls of Python code.

Each bound is what there is now and a little room: whoever passes one has made each byte, key or
command dearer, and says why by raising it.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import (
    MAX_PAYLOAD,
    RELAY_BUDGET,
    WEIGHT_BULK,
    WEIGHT_INTERACTIVE,
    FrameType,
)
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Open, Outcome
from rshell.link.hops import RelayedStream
from rshell.link.protocol import LinkProtocol
from tests.link.fakes import Application, Line
from tests.link.pairs import frames_of, request
from tests.link.test_hops import Seen

MIB = 1024 * 1024


class Sink(Application):
    """Takes bytes and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.count += len(data)
        if self.on_data is not None:
            self.on_data(data)


class Hop:
    """One link of a relayed stream, and what went over it."""

    def __init__(self, beside: Hop | None = None) -> None:
        self.line = Line(beside=None if beside is None else beside.line)
        self.writes: Counter[str] = Counter()
        self.frames: Counter[tuple[str, str]] = Counter()

    def step(self) -> bool:
        """Carry what was written, counting it."""
        moved = False
        for name in ("dialler", "gateway"):
            link: LinkProtocol = getattr(self.line, name)
            records = self.line.wire(link).records
            self.writes[name] += len(records)
            for frame in frames_of(b"".join(records)):
                self.frames[name, FrameType(frame.type).name] += 1
            moved = bool(self.line.carry(link)) or moved
        return moved

    def forget(self) -> None:
        """Count from here."""
        self.writes.clear()
        self.frames.clear()


class CountTests(SynchronousTestCase):
    """An operator, a gateway and a device, without TLS and without time."""

    def setUp(self) -> None:
        self.north = Hop()
        self.south = Hop(self.north)
        self.share = CreditBudget(RELAY_BUDGET)
        self.seen = Seen()
        self.weight = WEIGHT_BULK
        self.operator, self.device = Sink(), Sink()
        self.north.line.gateway_owner.on_request = self._relay
        self.south.line.dialler_owner.on_request = self._accept

    def _relay(self, link: LinkProtocol, number: int, opening: Open) -> None:
        relayed = RelayedStream(
            link, number, opening, self.south.line.gateway, self.seen, self.weight, self.share
        )
        relayed.open(Open(handler=opening.handler, session=opening.session, operator="ann"))

    def _accept(self, link: LinkProtocol, number: int, opening: Open) -> None:
        self.device.channel = StreamChannel(link, self.device)
        self.device.channel.accept(number, opening)

    def call(self) -> StreamChannel:
        """Open the stream, and carry all that this brings."""
        channel = StreamChannel(self.north.line.dialler, self.operator)
        self.operator.channel = channel
        channel.request(request())
        self.carry()
        return channel

    def carry(self) -> None:
        """Carry until both links are silent."""
        while any([self.north.step(), self.south.step()]):
            pass

    def forget(self) -> None:
        """Count from here."""
        self.north.forget()
        self.south.forget()

    def send(self, channel: StreamChannel, size: int) -> None:
        """Send bytes as a producer would: never far ahead."""
        for _ in range(0, size, 64 * 1024):
            channel.write(bytes(64 * 1024))
            self.carry()

    def most(self, counted: Any, **bounds: int) -> None:
        """Check upper bounds of what one side wrote."""
        for name, bound in bounds.items():
            side, _, kind = name.partition("_")
            found = counted.frames[side, kind] if kind else counted.writes[side]
            self.assertLessEqual(found, bound, name)

    def test_bulk(self) -> None:
        """A MiB is 65 frames on each hop, and a LIMIT for each 64 KiB comes back."""
        for channel, sink in ((self.call(), self.device), (self.device.channel, self.operator)):
            self.forget()
            sink.count = 0
            self.send(channel, MIB)
            self.assertEqual(sink.count, MIB)
            up = channel is not self.device.channel
            if up:
                self.most(self.north, dialler_DATA=81, gateway_LIMIT=17, dialler=81, gateway=17)
                self.most(self.south, gateway_DATA=81, dialler_LIMIT=17, gateway=81, dialler=17)
            else:
                self.most(self.south, dialler_DATA=81, gateway_LIMIT=17, dialler=81, gateway=17)
                self.most(self.north, gateway_DATA=81, dialler_LIMIT=17, gateway=81, dialler=17)

    def test_fast_link(self) -> None:
        """A link that is measured to be fast gets 64 KiB in one write."""
        channel = self.call()
        self.hasten()
        self.forget()
        self.send(channel, MIB)
        self.most(self.north, dialler=33)
        self.most(self.south, gateway=33)

    def test_no_crumbs(self) -> None:
        """A sender that is far ahead uses up its credit in full frames, at every hop and way."""
        channel = self.call()
        self.hasten()
        for end in (channel, self.device.channel):
            self.forget()
            end.write(bytes(64 * MAX_PAYLOAD))
            self.carry()
            for hop in (self.north, self.south):
                data = sum(n for (_, kind), n in hop.frames.items() if kind == "DATA")
                limits = sum(n for (_, kind), n in hop.frames.items() if kind == "LIMIT")
                self.assertEqual(data, 64)
                self.assertLessEqual(limits, 8)

    def test_key(self) -> None:
        """A key and its echo are one frame and one write on each hop and way."""
        self.weight = WEIGHT_INTERACTIVE
        channel = self.call()
        self.device.on_data = self.device.channel.write
        self.forget()
        for _ in range(100):
            channel.write(b"x")
            self.carry()
        self.assertEqual(self.operator.count, 100)
        for hop in (self.north, self.south):
            self.assertEqual(hop.writes, {"dialler": 100, "gateway": 100})
            self.assertEqual(sum(hop.frames.values()), 200)

    def test_command(self) -> None:
        """A command with a line of output: OPEN, OPENED, its bytes, its outcome and a LIMIT."""
        self.forget()
        self.call()
        self.device.channel.write(b"one line\n")
        self.device.channel.finish(Outcome(status="ok"))
        self.carry()
        self.assertEqual(self.operator.said[-1], ("closed", "none", ""))
        for hop, asks, answers in (
            (self.north, "dialler", "gateway"),
            (self.south, "gateway", "dialler"),
        ):
            self.assertEqual(
                hop.frames,
                {
                    (asks, "OPEN"): 1,
                    (answers, "OPENED"): 1,
                    (answers, "DATA"): 1,
                    (answers, "EVENT"): 1,
                    (asks, "LIMIT"): 1,
                },
            )

    def calls(self, channel: StreamChannel) -> int:
        """Send a MiB; return how many calls of Python code of the link that took."""
        self.send(channel, MIB)
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call" and "rshell/link" in frame.f_code.co_filename

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            self.send(channel, MIB)
        finally:
            sys.setprofile(before)
        return calls

    def hasten(self) -> None:
        """Let all links be measured as fast."""
        for hop in (self.north, self.south):
            for link in (hop.line.dialler, hop.line.gateway):
                link._pacing._pace.measured(1e9)

    def test_calls(self) -> None:
        """A relayed MiB takes a bounded number of calls of Python code, ends included."""
        self.assertLess(self.calls(self.call()), 12_300)

    def test_calls_of_runs(self) -> None:
        """On fast links the frames of a write pass the relay and the ends together."""
        channel = self.call()
        self.hasten()
        self.assertLess(self.calls(channel), 9_900)

    def test_share(self) -> None:
        """What a stream may hold at the relay is returned when it ends, however it ends."""
        for end in ("outcome", "reset", "lost"):
            self.setUp()
            channel = self.call()
            self.assertEqual(self.share._streams, 2)
            if end == "outcome":
                self.device.channel.finish(Outcome(status="ok"))
            elif end == "reset":
                channel.reset("cancelled", "")
            else:
                self.north.line.gateway.abort("the test says so")
            self.carry()
            self.assertEqual(self.share._streams, 0, end)

    def test_no_share_for_typing(self) -> None:
        """A stream on which somebody types has the narrow allowance: less to drain after ^C."""
        self.weight = WEIGHT_INTERACTIVE
        self.call()
        self.assertEqual(self.share._streams, 0)
