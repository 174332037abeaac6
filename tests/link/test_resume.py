"""StreamEnd: resuming, and a model of two ends over hops that break (section 8)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.ends import ResumeLost
from rshell.link.core.messages import Positions, decode_event
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from tests.link.pairs import ConnectionPair, Talker
from tests.link.test_ends import connected, controls, frames


class ResumeTests(SynchronousTestCase):
    """Section 8."""

    def test_from_every_position(self) -> None:
        """From every consumed position exactly the same bytes follow, with their channels (R2)."""
        for position in range(13):
            end = connected()
            for data, stderr in [(b"abcd", False), (b"ERR", True), (b"efghi", False)]:
                end.write(data, stderr=stderr)
                frames(end)
            end.write_eof()
            frames(end)
            end.detach()
            end.resume(Positions(position, 10**9, 0))
            sent = [item for item in frames(end) if isinstance(item, OutData)]
            wanted = [("abcdERRefghi"[n].encode(), 4 <= n < 7) for n in range(position, 12)]
            got = [(bytes([b]), item.stderr) for item in sent for b in item.data]
            self.assertEqual(got, wanted)
            self.assertEqual([item.eof for item in sent][-1], True)

    def test_outside(self) -> None:
        """Positions outside what was sent and kept are ResumeLost, and change nothing."""
        end = connected()
        end.write(bytes(100))
        frames(end, credit=60)
        end.send_event("progress", {})
        end.acknowledged(20, 0)
        for bad in (Positions(19, 100, 0), Positions(61, 100, 0), Positions(20, 100, 1)):
            self.assertRaises(ResumeLost, end.resume, bad)
        end.resume(Positions(20, 100, 0))
        self.assertEqual(sum(len(i.data) for i in frames(end) if isinstance(i, OutData)), 80)

    def test_events_again(self) -> None:
        """Events that were not seen go again, numbered from the stated one (R2)."""
        end = connected()
        end.send_event("signal", {"signal": "A"}, urgent=True)
        controls(end)
        end.write(b"ab")
        end.send_event("progress", {"done": 1})
        frames(end)
        end.send_event("signal", {"signal": "B"}, urgent=True)
        controls(end)
        end.resume(Positions(1, 100, 1))
        sent = controls(end) + list(frames(end))
        told = [decode_event(i.payload) for i in sent if isinstance(i, OutEvent)]
        self.assertEqual(
            [(e.seq, e.kind, e.at) for e in told], [(2, "signal", 0), (3, "progress", 2)]
        )

    def test_order_of_events_again(self) -> None:
        """Events that were sent go again before those that still waited for their place."""
        end = connected()
        for number in range(4):
            end.send_event("progress", {"done": number})
            end.write(b"x")
            if number == 1:
                frames(end)
        end.resume(Positions(0, 100, 0))
        told = [decode_event(i.payload) for i in frames(end) if isinstance(i, OutEvent)]
        self.assertEqual(
            [(e.seq, e.at, e.body["done"]) for e in told], [(n + 1, n, n) for n in range(4)]
        )

    def test_newest_window_again(self) -> None:
        """Of window sizes, sent or not, only the newest goes again."""
        end = connected()
        for rows in (1, 2):
            end.send_event("window", {"rows": rows}, urgent=True)
            controls(end)
        end.send_event("window", {"rows": 3}, urgent=True)
        end.resume(Positions(0, 100, 0))
        told = [decode_event(i.payload).body for i in controls(end) if isinstance(i, OutEvent)]
        self.assertEqual(told, [{"rows": 3}])

    def test_gap(self) -> None:
        """Offsets count on after lost bytes, which give credit and are told (R5, F3)."""
        end = connected(1000)
        end.received(10)
        end.consumed(10)
        end.resume(Positions(0, 100, 0), gap=90)
        self.assertEqual(end.unconsumed, 0)
        self.assertEqual(end.next_control(), OutLimit(100, 1100, 0))
        self.assertEqual(end.positions(), Positions(100, 1100, 0))

    def test_positions_count_what_is_kept(self) -> None:
        """What arrived is stated as taken although the application has not consumed it."""
        end = connected(1000)
        end.received(300)
        end.consumed(100)
        self.assertEqual(end.positions(), Positions(300, 1100, 0))


ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.booleans(), st.integers(1, 3000), st.booleans()),
    st.tuples(
        st.just("event"), st.booleans(), st.sampled_from(["progress", "mark"]), st.booleans()
    ),
    st.tuples(st.just("consume"), st.booleans(), st.integers(1, 2000), st.none()),
    st.tuples(st.just("step"), st.booleans(), st.none(), st.none()),
    st.tuples(st.just("cut"), st.booleans(), st.integers(0, 4000), st.integers(0, 4000)),
)


class World:
    """Two ends, and hops that break: whatever is in flight is lost, then a new link carries on.

    ``cut(n)`` delivers the first n bytes of each side's next record and loses the rest.
    """

    def __init__(self, window: int) -> None:
        self.caller, self.answerer = Talker(window), Talker(window)
        self.caller.consuming = self.answerer.consuming = False
        self.attempt = 0
        self.sent: dict[bool, bytearray] = {True: bytearray(), False: bytearray()}
        self.marks: dict[bool, list[tuple[int, int | None]]] = {True: [], False: []}
        self.connect()

    def connect(self) -> None:
        self.pair = ConnectionPair()
        self.attempt += 1
        self.pair.gateway.on_request = lambda event: self.answerer.answer(
            self.pair.gateway, event.stream, event.open
        )
        self.caller.call(self.pair.dialler, resume=self.attempt > 1, attempt=self.attempt)

    def talker(self, caller: bool) -> Talker:
        return self.caller if caller else self.answerer

    def cut(self, forward: int, back: int) -> None:
        pair = self.pair
        for side, size in ((pair.dialler, forward), (pair.gateway, back)):
            wire = side.record()
            pair.other(side).receive(wire[:size], 0)
        self.caller.end.detach()
        self.answerer.end.detach()
        if not any(kind == "outcome" for kind, _, _, _ in self.caller.notes):
            self.connect()  # a caller that has the outcome has no reason to come back

    def event(self, caller: bool, kind: str, urgent: bool) -> None:
        number = len(self.marks[caller])
        self.marks[caller].append((number, None if urgent else len(self.sent[caller])))
        self.talker(caller).end.send_event(kind, {"n": number}, urgent=urgent)

    def act(self, what: str, caller: bool, first: Any, second: Any) -> None:
        talker = self.talker(caller)
        if what == "write":
            start = len(self.sent[caller])
            data = bytes((start + n) * 7 % 251 for n in range(first))
            self.sent[caller] += data
            talker.end.write(data, stderr=second)
        elif what == "event":
            self.event(caller, first, second)
        elif what == "consume":
            talker.consume(first)
        elif what == "step":
            self.pair.step(self.pair.dialler if caller else self.pair.gateway)
        else:
            self.cut(first, second)

    def finish(self) -> None:
        """Let everything arrive."""
        self.caller.consuming = self.answerer.consuming = True
        for _ in range(3):
            for talker in (self.caller, self.answerer):
                talker.consume()
                talker.end.announce()
            self.pair.run()

    def check(self, test: SynchronousTestCase) -> None:
        """Identical bytes, every event exactly once and at its place."""
        for caller in (True, False):
            to = self.talker(not caller)
            test.assertEqual(bytes(to.got), bytes(self.sent[caller]))
            got = [(body["n"], None if urgent else at) for _, at, body, urgent in to.notes]
            test.assertEqual(sorted(got), sorted(self.marks[caller]))
            ordered = [n for n, at in got if at is not None]
            test.assertEqual(ordered, sorted(ordered))
            urgent = [n for n, at in got if at is None]
            test.assertEqual(urgent, sorted(urgent))
            test.assertEqual(self.talker(caller).end.retained, 0)


class ModelTests(SynchronousTestCase):
    """Two ends against what was put in."""

    @settings(max_examples=200)
    @given(st.integers(2048, 6000), st.lists(ACTIONS, max_size=60))
    def test_random(self, window: int, actions: list[tuple[Any, Any, Any, Any]]) -> None:
        """Random writes, events, reads and cuts lose nothing, double nothing, keep no more."""
        world = World(window)
        for action in actions:
            world.act(*action)
            for talker in (world.caller, world.answerer):
                in_flight = talker.end.retained - talker.end.unsent
                self.assertLessEqual(in_flight, window)
        world.finish()
        world.check(self)

    def test_cut_at_every_byte(self) -> None:
        """A hop that breaks after any byte, of either direction, changes nothing."""
        for position in range(330):
            for forward, back in ((position, 0), (position, 5000), (0, position), (5000, position)):
                self.cut_once(forward, back)

    def cut_once(self, forward: int, back: int) -> None:
        world = World(2048)
        world.act("write", True, 20, False)
        world.pair.run()
        world.talker(False).consume(10)
        world.act("write", False, 30, True)
        world.act("event", False, "progress", False)
        world.act("event", True, "mark", True)
        world.act("event", True, "mark", False)
        world.act("write", True, 40, False)
        world.act("write", False, 25, False)
        world.caller.end.write_eof()
        world.talker(False).end.announce()
        world.cut(forward, back)
        world.finish()
        world.event(False, "outcome", False)
        world.cut(back, forward)
        world.finish()
        world.check(self)
        self.assertGreaterEqual(world.answerer.eofs, 1)
        self.assertEqual(world.caller.notes[-1][0], "outcome")

    def test_cut_while_opening(self) -> None:
        """A break inside the OPEN or the OPENED is one more break."""
        for position in range(0, 200, 3):
            world = World(2048)
            world.act("write", True, 100, False)
            for _ in range(3):
                world.cut(position, position)
            world.act("write", False, 100, False)
            world.finish()
            world.check(self)
