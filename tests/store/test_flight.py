"""What flight recorders and facts told: kept once each, of the current link, not for ever."""

from __future__ import annotations

from collections.abc import Sequence

from rshell.store.devices import Seen
from rshell.store.flight import MAX_ROWS, FlightRow
from tests.store.fixture import StoreTestCase


def flight_rows(numbers: Sequence[int], message: str = "") -> list[FlightRow]:
    """Return records with these numbers."""
    return [
        FlightRow(
            seq=number,
            at=1_000 + number,
            placed="order",
            received_at=5_000,
            boot_id="b",
            kind="tcp",
            target="gw:7411",
            message=message,
            seconds=None,
        )
        for number in numbers
    ]


class Telling(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device = self.enrol("pump", 1).id

    def tell(self, numbers: Sequence[int], message: str = "") -> dict[int, str]:
        """Tell these; return the messages of all that is kept, by number."""
        self.got(self.store.append_flight(self.device, flight_rows(numbers, message)))
        kept = self.got(self.store.flight_rows(self.device, 10_000))
        return {row.seq: row.message for row in kept}

    def test_told_again(self) -> None:
        """What is told again replaces what was told, and nothing of another device."""
        other = self.enrol("valve", 2).id
        self.got(self.store.append_flight(other, flight_rows((1, 2, 3), "other")))
        self.tell((1, 2, 3), "first")
        self.assertEqual(
            self.tell((2, 3, 4), "then"), {1: "first", 2: "then", 3: "then", 4: "then"}
        )
        self.assertEqual(
            {row.message for row in self.got(self.store.flight_rows(other, 10))}, {"other"}
        )

    def test_gaps_and_disorder(self) -> None:
        """Numbers with gaps, or in another order, replace those and no others."""
        self.tell(range(1, 8), "first")
        kept = self.tell((6, 2, 4), "then")
        self.assertEqual([n for n, message in kept.items() if message == "then"], [2, 4, 6])
        self.assertEqual(len(kept), 7)
        # Ends that look like a run, with something else between.
        kept = self.tell((1, 9, 3), "last")
        self.assertEqual({n for n, message in kept.items() if message == "last"}, {1, 3, 9})

    def test_surplus(self) -> None:
        """The oldest go when there are too many."""
        self.tell(range(1, MAX_ROWS + 1))
        self.assertEqual(min(self.tell(range(MAX_ROWS + 1, MAX_ROWS + 11))), 11)


class Facts(StoreTestCase):
    def test_current_link_only(self) -> None:
        """Facts of an older link, or of a revoked device, change nothing."""
        device = self.enrol("pump", 1).id
        self.got(self.store.record_seen(device, 5, Seen()))
        self.got(self.store.keep_facts(device, 4, {"os": "a"}))
        self.assertIsNone(self.got(self.store.facts_of(device)))
        self.got(self.store.keep_facts(device, 5, {"os": "b"}))
        self.got(self.store.keep_facts(device, 6, {"os": "c"}))
        self.got(self.store.keep_facts(device, 4, {"os": "d"}))
        self.got(self.store.revoke_device("pump"))
        self.got(self.store.keep_facts(device, 7, {"os": "e"}))
        told = self.got(self.store.facts_of(device))
        assert told is not None
        self.assertEqual(told.facts, {"os": "c"})
