"""Relay: four cores, two links, one stream (rule F7)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import ALLOWANCE
from rshell.link.core.events import (
    DataReceived,
    EventReceived,
    LimitReceived,
    StreamFinished,
    StreamRequested,
)
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Event, Open, Opened, Positions
from rshell.link.core.relay import Relay, RelaySide
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from tests.link.pairs import ConnectionPair, Side, Talker, frames_of, request


class Hop:
    """One hop of a relay as a `Party`: what arrives here goes to the other side."""

    def __init__(self, side: RelaySide, bound: int) -> None:
        self.side = side
        self.bound = bound
        self.far = Positions(0, 0, 0)
        self.told_limit = 0
        self.on_opened: Any = None

    def next_control(self) -> OutEvent | OutLimit | None:
        item = self.side.next_control()
        if isinstance(item, OutLimit):
            assert item.limit <= self.far.limit, "a relay never raises a limit"
            assert item.limit >= self.told_limit, "nor lowers what it said"
            assert (item.consumed, item.events) == (self.far.consumed, self.far.events)
            self.told_limit = item.limit
        return item

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return self.side.next_frame(room, credit)

    def opened(self, opened: Opened) -> None:
        self.on_opened(opened)

    def data(self, event: DataReceived) -> None:
        self.side.other.data(event)
        assert self.side.other.queued <= self.bound, self.side.other.queued

    def event(self, event: EventReceived) -> None:
        self.side.other.event(event)

    def limit(self, event: LimitReceived) -> None:
        other = self.side.other
        hop = self.twin
        hop.far = Positions(event.consumed, event.limit, event.events)
        other.limit(event)

    twin: Hop


class Chain:
    """operator <-> gateway <-> device, with as many streams as are opened."""

    def __init__(self, window: int = 262144, budget: CreditBudget | None = None) -> None:
        self.window = window
        self.budget = budget
        self.north = ConnectionPair()  # the operator dials the gateway
        self.south = ConnectionPair()  # the device dials the gateway
        self.north.gateway.on_request = self.relay
        self.south.dialler.on_request = self.answer
        self.devices: dict[bytes, Talker] = {}
        self.relays: list[tuple[Hop, Hop]] = []

    def links(self) -> list[tuple[ConnectionPair, Any]]:
        """Return the four directions in which a record may travel."""
        return [
            (pair, side)
            for pair in (self.north, self.south)
            for side in (pair.dialler, pair.gateway)
        ]

    def relay(self, event: StreamRequested) -> None:
        relay = Relay(self.budget, self.budget)
        bound = ALLOWANCE if self.budget is None else self.budget.window(ALLOWANCE)
        operator, device = Hop(relay.operator, bound), Hop(relay.device, bound)
        operator.twin, device.twin = device, operator
        self.relays.append((operator, device))
        opening = event.open
        start = relay.opening(opening)
        device.far = opening.start
        device.told_limit = start.limit
        onward = opening.starting(start, resuming=opening.resume is not None)
        number = self.south.gateway.core.open_stream(onward, device)
        self.south.gateway.parties[number] = device
        relay.device.wake = lambda: self.south.gateway.core.wake(number)

        def opened(answer: Opened) -> None:
            told = relay.opened(answer)
            operator.far = Positions(answer.consumed, answer.limit, answer.events)
            operator.told_limit = told.limit
            assert told.limit <= answer.limit
            core = self.north.gateway.core
            self.north.gateway.parties[event.stream] = operator
            core.accept(event.stream, opening, told, operator)
            relay.operator.wake = lambda: core.wake(event.stream)
            relay.device.wake()

        device.on_opened = opened

    def answer(self, event: StreamRequested) -> None:
        talker = self.devices.setdefault(event.open.session, Talker(self.window))
        talker.answer(self.south.dialler, event.stream, event.open)

    def call(self, **more: Any) -> Talker:
        """Open a stream from the operator's end."""
        talker = Talker(self.window)
        talker.call(self.north.dialler, **more)
        self.run()
        return talker

    def device(self) -> Talker:
        """Return the newest session's device end."""
        return list(self.devices.values())[-1]

    def run(self) -> None:
        """Carry everything until nothing moves."""
        while any(side.core.has_output for _, side in self.links()):
            for pair, side in self.links():
                pair.step(side)


class Overwritten(Talker):
    """A device's end as its keeper would build it: its ring begins after ``gap`` lost bytes."""

    def __init__(self, gap: int) -> None:
        super().__init__(100_000)
        self.gap = gap
        self.end.write(bytes(gap))
        while self.end.next_frame(gap, gap) is not None:
            pass
        self.end.acknowledged(gap, 0)

    def answer(self, side: Side, number: int, opening: Open, gap: int = 0) -> None:
        start = self.end.positions()
        side.parties[number] = self
        opened = Opened(start.consumed, start.limit, start.events, self.gap)
        side.core.accept(number, opening, opened, self)
        self.end.attach(lambda: side.core.wake(number))


ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.booleans(), st.integers(1, 60_000)),
    st.tuples(st.just("event"), st.booleans(), st.booleans()),
    st.tuples(st.just("consume"), st.booleans(), st.integers(1, 100_000)),
    st.tuples(st.just("step"), st.integers(0, 3), st.integers(1, 10)),
)


class RelayTests(SynchronousTestCase):
    """Whole chains."""

    @given(st.sampled_from([3000, 50_000, 262_144]), st.lists(ACTIONS, max_size=60))
    def test_random(self, window: int, actions: list[tuple[str, Any, int]]) -> None:
        """Any interleaving delivers identical bytes and events; the relay keeps its bound.

        `Hop` checks at every step that the relay holds at most its allowance, never raises a
        limit, and passes consumed and events on unchanged.
        """
        chain = Chain(window)
        ends = {True: chain.call()}
        ends[False] = chain.device()
        sent = {True: bytearray(), False: bytearray()}
        notes: dict[bool, list[int]] = {True: [], False: []}
        for talker in ends.values():
            talker.consuming = False
        for what, first, second in actions:
            if what == "write":
                data = bytes((len(sent[first]) + n) % 253 for n in range(second))
                sent[first] += data
                ends[first].end.write(data, stderr=bool(second % 2))
            elif what == "event":
                notes[first].append(len(sent[first]))
                ends[first].end.send_event("mark", {"n": len(notes[first])}, urgent=bool(second))
            elif what == "consume":
                ends[first].consume(second)
            else:
                pair, side = chain.links()[first]
                for _ in range(second):
                    pair.step(side)
        for talker in ends.values():
            talker.consuming = True
        for _ in range(3):
            for talker in ends.values():
                talker.consume()
                talker.end.announce()
            chain.run()
        for one in (True, False):
            self.assertEqual(bytes(ends[not one].got), bytes(sent[one]))
            got = sorted(body["n"] for _, _, body, _ in ends[not one].notes)
            self.assertEqual(got, list(range(1, len(notes[one]) + 1)))
            for _, at, body, urgent in ends[not one].notes:
                if not urgent:
                    self.assertEqual(at, notes[one][body["n"] - 1])
            self.assertTrue(ends[one].end.drained)

    def test_outcome(self) -> None:
        """The outcome ends the stream on both links when the operator acknowledged it."""
        chain = Chain()
        operator = chain.call()
        chain.device().end.write(b"result")
        chain.device().end.send_event("outcome", {"status": "ok"})
        for pair, side in [(chain.south, chain.south.dialler), (chain.north, chain.north.gateway)]:
            pair.step(side)
        self.assertFalse(chain.device().end.drained, "a relay acknowledges nothing by itself")
        chain.run()
        self.assertEqual(operator.got, b"result")
        self.assertEqual(len(operator.notes), 1)
        self.assertTrue(chain.device().end.drained)
        for _, side in chain.links():
            self.assertEqual(side.core.streams, {})
        self.assertEqual(len(chain.north.dialler.told(StreamFinished)), 1)

    def test_consumption_is_the_far_applications(self) -> None:
        """What the relay holds or the operator has not read is not acknowledged to the device."""
        chain = Chain(100_000)
        operator = chain.call()
        operator.consuming = False
        device = chain.device()
        device.end.write(bytes(90_000))
        chain.run()
        self.assertEqual(len(operator.got), 90_000)
        self.assertEqual(device.end.retained, 90_000)
        operator.consume(60_000)
        chain.run()
        self.assertEqual(device.end.retained, 30_000)

    def test_stalled_operator_link(self) -> None:
        """When the operator's link takes nothing, the device may send the allowance, no more."""
        chain = Chain(1_000_000)
        operator = chain.call()
        device = chain.device()
        device.end.write(bytes(1_000_000))
        for _ in range(200):
            chain.south.step(chain.south.dialler)
            chain.south.step(chain.south.gateway)
        hop = chain.relays[0][0]
        self.assertEqual(hop.side.queued, ALLOWANCE)
        chain.run()
        self.assertEqual(len(operator.got), 1_000_000)
        self.assertEqual(hop.side.queued, 0)

    def test_shared_budget(self) -> None:
        """With many streams on a link each relay holds only its share."""
        budget = CreditBudget(64 * 1024)
        for _ in range(8):
            budget.join()
        chain = Chain(262_144, budget)
        operator = chain.call()
        chain.device().end.write(bytes(100_000))
        for _ in range(100):
            chain.south.step(chain.south.dialler)
        self.assertEqual(chain.relays[0][0].side.queued, 8192)
        chain.run()
        self.assertEqual(len(operator.got), 100_000)

    def test_slow_reader_stalls_its_own_stream(self) -> None:
        """One operator's stream that is not read leaves the others at full speed (Q2)."""
        chain = Chain(20_000)
        slow = chain.call()
        slow_device = chain.device()
        slow.consuming = False
        fast = Talker(20_000)
        second = Open(handler="exec", session=bytes(16), limit=20_000)
        fast.end.positions()
        number = chain.north.dialler.core.open_stream(second, fast)
        chain.north.dialler.parties[number] = fast
        fast._attach_later = lambda: None
        chain.run()
        fast.end.attach(lambda: chain.north.dialler.core.wake(number))
        slow_device.end.write(bytes(500_000))
        chain.devices[bytes(16)].end.write(bytes(500_000))
        chain.run()
        self.assertEqual((len(slow.got), len(fast.got)), (20_000, 500_000))

    def test_gap(self) -> None:
        """A gap that the device states reaches the operator, and offsets count on (R5)."""
        for gap in (1, 40_000, 300_000):
            chain = Chain(100_000)
            operator = Talker(100_000)
            device = Overwritten(gap)
            chain.devices[request().session] = device
            operator.call(chain.north.dialler, resume=True, attempt=2)
            chain.run()
            device.end.write(b"after the gap")
            device.end.send_event("outcome", {"status": "ok"})
            chain.run()
            self.assertEqual(operator.got, b"after the gap")
            self.assertEqual(operator.end.positions().consumed, gap + 13)
            self.assertEqual([kind for kind, _, _, _ in operator.notes], ["outcome"])
            self.assertEqual(chain.south.dialler.core.streams, {})


class RelaySideTests(SynchronousTestCase):
    """One side by itself."""

    def relay(self) -> Relay:
        relay = Relay()
        relay.opening(request(200_000))
        relay.opened(Opened(0, 150_000, 0))
        return relay

    def test_limits_are_lowered(self) -> None:
        """Both hops hear the far end's limit or the allowance, whichever is less."""
        relay = Relay()
        self.assertEqual(relay.opening(request(200_000)), Positions(0, ALLOWANCE, 0))
        self.assertEqual(relay.opened(Opened(0, 100, 0)), Opened(0, 100, 0))

    def test_split(self) -> None:
        """A queued frame is split by room and credit; EOF stays with its last byte."""
        relay = self.relay()
        relay.operator.data(DataReceived(1, b"abcdef", True, True))
        take = relay.operator.next_frame
        self.assertEqual(take(4, 100), OutData(b"abcd", True, False))
        self.assertIsNone(take(100, 0))
        self.assertEqual(take(100, 100), OutData(b"ef", True, True, last=True))
        self.assertIsNone(take(100, 100))

    def test_eof_alone(self) -> None:
        """EOF without bytes passes without credit."""
        relay = self.relay()
        relay.operator.data(DataReceived(1, b"", False, True))
        self.assertEqual(relay.operator.next_frame(100, 0), OutData(b"", False, True, last=True))

    def test_after_the_outcome(self) -> None:
        """Bytes for a device whose outcome has passed by go nowhere; what waited before, does."""
        relay = self.relay()
        relay.device.data(DataReceived(1, b"before", False, False))
        outcome = Event(1, 0, "outcome", {"status": "ok"})
        relay.operator.event(EventReceived(1, outcome, False, b"{}"))
        woken: list[bool] = []
        relay.device.wake = lambda: woken.append(True)
        relay.device.data(DataReceived(1, b"behind", False, True))
        self.assertEqual((woken, relay.device.queued), ([], 6))
        frame = relay.device.next_frame(100, 100)
        self.assertEqual(frame, OutData(b"before", False, False, last=True))
        self.assertIsNone(relay.device.next_frame(100, 100))
        self.assertEqual(relay.operator.next_frame(0, 0), OutEvent(b"{}", 1, False, True))

    def test_events_unchanged(self) -> None:
        """An event's payload is passed on byte by byte; an urgent one overtakes bytes (V3)."""
        relay = self.relay()
        odd = b'{ "kind":"later", "seq":1,"at":0 , "x":[1, 2]}'
        relay.device.data(DataReceived(1, b"x", False, False))
        relay.device.event(EventReceived(1, Event(1, 0, "later", {}), True, odd))
        relay.device.event(EventReceived(1, Event(2, 1, "later", {}), False, odd))
        self.assertEqual(relay.device.next_control(), OutEvent(odd, 1, True, False))
        self.assertEqual(relay.device.next_frame(9, 9), OutData(b"x", False, False))
        self.assertEqual(relay.device.next_frame(9, 0), OutEvent(odd, 2, False, False))

    def test_urgent_event_overtakes_no_event(self) -> None:
        """Behind an event that waits an urgent one waits too, or the other would be lost (V1)."""
        relay = self.relay()
        relay.device.data(DataReceived(1, b"x", False, False))
        relay.device.event(EventReceived(1, Event(1, 1, "mark", {}), False, b"one"))
        relay.device.event(EventReceived(1, Event(2, 0, "signal", {}), True, b"two"))
        self.assertIsNone(relay.device.next_control())
        sent = [relay.device.next_frame(9, 9) for _ in range(2)]
        relay.device.event(EventReceived(1, Event(3, 0, "signal", {}), True, b"three"))
        self.assertIsNone(relay.device.next_control())
        sent += [relay.device.next_frame(9, 9) for _ in range(3)]
        self.assertEqual([i.seq for i in sent if isinstance(i, OutEvent)], [1, 2, 3])
        relay.device.data(DataReceived(1, b"y", False, False))
        relay.device.event(EventReceived(1, Event(4, 0, "signal", {}), True, b"four"))
        self.assertEqual(relay.device.next_control(), OutEvent(b"four", 4, True, False))

    def test_few_limits(self) -> None:
        """A relay does not tell every frame it passed: a megabyte costs few LIMITs."""
        chain = Chain(262_144)
        operator = chain.call()
        chain.south.gateway.wire.clear()
        chain.device().end.write(bytes(1_000_000))
        chain.run()
        self.assertEqual(len(operator.got), 1_000_000)
        self.assertLess(len(frames_of(bytes(chain.south.gateway.wire))), 100)
