"""Writes of one kind about many devices: done together, in each device's order, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from twisted.trial.unittest import SynchronousTestCase

from rshell.store import writer
from rshell.store.alike import Alike, Gathering
from rshell.store.devices import Seen
from rshell.store.errors import LimitReached
from rshell.store.facts import MAX_BYTES
from rshell.store.narrowing import EVERYTHING
from tests.store.fixture import HeldThreads, StoreTestCase, statements
from tests.store.test_flight import flight_rows

_NO_DATABASE: Any = None


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.done: list[tuple[str, list[str]]] = []

    def seen(self, _connection: Connection, rows: Sequence[Any]) -> None:
        self.done.append(("seen", list(rows)))

    def told(self, _connection: Connection, rows: Sequence[Any]) -> None:
        self.done.append(("told", list(rows)))

    def gather(self, *writes: tuple[str, str]) -> list[tuple[str, list[str]]]:
        """Gather writes, each its kind and its row; a row's first letter is the device."""
        kinds = {"seen": self.seen, "told": self.told}
        gathering = Gathering()
        for kind, row in writes:
            gathering.add(_NO_DATABASE, Alike(kinds[kind], row[0], row))
        gathering.do(_NO_DATABASE)
        return self.done

    def test_kinds(self) -> None:
        """What is alike is done together, kinds in the order in which they came."""
        self.assertEqual(
            self.gather(("seen", "a1"), ("told", "a2"), ("seen", "b1"), ("told", "b2")),
            [("seen", ["a1", "b1"]), ("told", ["a2", "b2"])],
        )

    def test_order_of_a_device(self) -> None:
        """Of one device nothing overtakes what was asked for before."""
        self.assertEqual(
            self.gather(("seen", "a1"), ("told", "b1"), ("seen", "b2"), ("told", "b3")),
            [("seen", ["a1"]), ("told", ["b1"]), ("seen", ["b2"]), ("told", ["b3"])],
        )

    def test_nothing(self) -> None:
        """Of nothing, nothing is done."""
        self.assertEqual(self.gather(), [])


class StoreTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.ids = [self.enrol(name, number).id for number, name in enumerate(("a", "b", "c"))]
        self.threads = HeldThreads()
        self.store = self.open(self.threads)

    def written(self) -> None:
        """Let everything that waits be written."""
        self.threads.timers.pop()[1]()
        self.threads.release()

    def os_of(self) -> list[Any]:
        found = [self.got(self.store.facts_of(device)) for device in self.ids]
        return [None if told is None else told.facts["os"] for told in found]

    def test_statements(self) -> None:
        """Devices that come together have their rows, facts and flights written together."""
        for _ in range(2):
            for device in self.ids:
                self.store.record_seen(device, 1, Seen(last_address="1"))
                self.store.keep_facts(device, 1, {"os": "arch"})
                self.store.append_flight(device, flight_rows((1, 2)))
            with statements() as found:
                self.written()
        # The second time, when all have facts: their rows; facts; flights told again, and surplus.
        kinds = [text.split()[0] for text in found]
        self.assertEqual(kinds, ["BEGIN", "UPDATE", "UPDATE", "DELETE", "INSERT", "DELETE"], found)

    def test_told_twice(self) -> None:
        """Of a device that tells twice in one batch the last word is kept, known or not."""
        for first, last in (("one", "two"), ("three", "four")):
            self.store.keep_facts(self.ids[0], 1, {"os": first})
            self.store.keep_facts(self.ids[1], 1, {"os": first})
            self.store.keep_facts(self.ids[0], 1, {"os": last})
            self.store.append_flight(self.ids[0], flight_rows((1, 2), first))
            self.store.append_flight(self.ids[0], flight_rows((2, 3), last))
            self.written()
            self.assertEqual(self.os_of(), [last, first, None])
            kept = self.got(self.store.flight_rows(self.ids[0], 10))
            self.assertEqual([row.message for row in kept], [first, last, last])

    def test_newer_link_in_the_same_batch(self) -> None:
        """What a link told before the next one came is kept; what it says afterwards is not."""
        older, newer = 1, 2
        self.store.record_seen(self.ids[1], newer, Seen(last_address="other"))
        for device in self.ids[:2]:
            self.store.record_seen(device, older, Seen(last_address="older"))
            self.store.keep_facts(device, older, {"os": "older"})
        self.store.record_seen(self.ids[0], newer, Seen(last_address="newer"))
        self.store.keep_facts(self.ids[0], older, {"os": "too late"})
        self.written()
        self.assertEqual(self.os_of(), ["older", None, None])
        found = [self.got(self.store.device(device)) for device in self.ids]
        addresses = [device.last_address for device in found if device is not None]
        self.assertEqual(addresses, ["newer", "other", None])

    def test_bad_one(self) -> None:
        """One that is refused takes none of its neighbours along."""
        writes = [
            self.store.keep_facts(self.ids[0], 1, {"os": "arch"}),
            self.store.keep_facts(self.ids[1], 1, {"os": "y" * MAX_BYTES}),
            self.store.record_seen(self.ids[1], 1, Seen(facts={"x": "y" * 65_536})),
            self.store.record_seen(self.ids[1], 1, Seen(last_address="\ud800")),
            self.store.record_seen(self.ids[2], 1, Seen(last_address="good")),
            self.store.keep_facts(self.ids[2], 1, {"os": "debian"}),
        ]
        self.written()
        for bad in writes[1:3]:
            self.failureResultOf(bad, LimitReached)
        self.failureResultOf(writes[3])
        for good in (writes[0], *writes[4:]):
            self.assertIsNone(self.got(good))
        self.assertEqual(self.os_of(), ["arch", None, "debian"])

    def test_between_others(self) -> None:
        """What is written for all stays before or after what somebody changes meanwhile."""
        self.store.record_seen(self.ids[0], 1, Seen(link_generation=9))
        released = self.store.release("a")
        self.store.record_seen(self.ids[0], 1, Seen(link_generation=3))
        self.threads.release()
        self.assertEqual(self.got(released).link_generation, 0)
        self.written()
        found = self.got(self.store.device("a"))
        assert found is not None
        self.assertEqual(found.link_generation, 3)


class LingerTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pump = self.enrol("pump")
        self.threads = HeldThreads()
        self.store = self.open(self.threads)

    def lengths(self) -> list[float]:
        return [seconds for seconds, _ in self.threads.timers]

    def test_two_lengths(self) -> None:
        """What devices tell may wait for longer than their coming; who is due first takes all."""
        told = self.store.keep_facts(self.pump.id, 1, {"os": "arch"})
        self.assertEqual(self.lengths(), [writer.TOLD_LINGER_SECONDS])
        seen = self.store.record_seen(self.pump.id, 1, Seen())
        again = self.store.keep_facts(self.pump.id, 1, {"os": "arch"})
        self.assertEqual(self.lengths(), [writer.TOLD_LINGER_SECONDS, writer.LINGER_SECONDS])
        self.assertEqual(self.threads.held, [])
        self.threads.timers.pop()[1]()
        self.threads.release()
        self.assertEqual([self.got(one) for one in (told, seen, again)], [None] * 3)
        self.assertEqual(self.lengths(), [])

    def test_shorter_first(self) -> None:
        """Beside a shorter wait a longer one needs no timer."""
        self.store.record_seen(self.pump.id, 1, Seen())
        self.store.keep_facts(self.pump.id, 1, {"os": "arch"})
        self.assertEqual(self.lengths(), [writer.LINGER_SECONDS])

    def test_taken_along(self) -> None:
        """Who shared a commit leaves no timer; who comes during one waits its own while."""
        self.store.keep_facts(self.pump.id, 1, {"os": "arch"})
        self.store.set_labels("pump", {"site": "oslo"})
        self.assertEqual(self.lengths(), [])
        late = self.store.keep_facts(self.pump.id, 1, {"os": "debian"})
        self.assertEqual(self.lengths(), [writer.TOLD_LINGER_SECONDS])
        self.threads.release()
        self.assertEqual(self.threads.held, [])
        self.threads.timers.pop()[1]()
        self.threads.release()
        self.assertIsNone(self.got(late))

    def test_reads_see_it(self) -> None:
        """Whoever asks about devices, facts or flights gets what was told before."""
        for number in (1, 2, 3, 4, 5, 6):
            self.store.record_seen(self.pump.id, number, Seen())
            self.store.keep_facts(self.pump.id, number, {"n": number})
            self.store.append_flight(self.pump.id, flight_rows((number,)))
            reads: list[Any] = [
                self.store.device("pump"),
                self.store.find_devices(),
                self.store.facts_of(self.pump.id),
                self.store.all_facts(["n"]),
                self.store.flight_rows(self.pump.id, 1),
                self.store.first_page(EVERYTHING, 10),
            ]
            read = reads[number - 1]
            self.assertNoResult(read)
            while self.threads.held:
                self.threads.release()
            device, listed, told, all_told, flights, paged = (self.got(one) for one in reads)
            self.assertEqual((device.epoch, listed[0].epoch), (number, number))
            self.assertEqual((told.facts, all_told), ({"n": number}, {self.pump.id: {"n": number}}))
            self.assertEqual(flights[0].seq, number)
            self.assertEqual(paged[0].devices[0].epoch, number)

    def test_log_does_not_wait(self) -> None:
        """The audit log has nothing of them: its reads do not wait for them."""
        self.store.record_seen(self.pump.id, 1, Seen())
        self.assertEqual(self.got(self.store.audit_rows()), [])
        self.assertEqual(self.threads.held, [])

    def test_close(self) -> None:
        """Closing writes what lingers, and leaves no timer behind."""
        told = self.store.keep_facts(self.pump.id, 1, {"os": "arch"})
        closed = self.store.close()
        self.threads.release()
        self.assertIsNone(self.got(told))
        self.assertIsNone(self.got(closed))
        self.assertEqual(self.threads.timers, [])
