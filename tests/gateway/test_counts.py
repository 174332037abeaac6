"""What the gateway does for each device and each command, counted: statements and frames.

Each bound is what there is now: whoever passes one has made each device or command dearer.
"""

from __future__ import annotations

import gc
import sys

from rshell.link.core.constants import FrameType
from rshell.link.core.messages import Outcome
from rshell.store.writer import LINGER_SECONDS, TOLD_LINGER_SECONDS
from tests.gateway.fleet import FleetTestCase
from tests.link.pairs import frames_of
from tests.store.fixture import statements

FLIGHT = {
    "boot_id": "b",
    "mono_ms": 2,
    "records": [
        {
            "seq": 1,
            "boot_id": "b",
            "mono_ms": 1,
            "wall_ms": 1,
            "clock_trusted": False,
            "kind": "tcp",
        }
    ],
}
#: What the collector counts of one device in `CountTests.test_objects`, and a tenth.
OBJECTS_A_DEVICE, BYTES_A_DEVICE = 95, 9_000


class CountTests(FleetTestCase):
    def test_command(self) -> None:
        """A command is two audit rows, and asks the database nothing but where the chain ends."""
        operator, device = self.both()
        with statements() as found:
            operator.call("exec", device="pump-1")
            self.fleet.pump()
            device.accept().channel.finish(Outcome(status="ok"))
            self.fleet.pump()
        # The two share one BEGIN, SELECT and UPDATE where the store has threads.
        kinds = [text.split()[0] for text in found]
        self.assertEqual(kinds, ["BEGIN", "SELECT", "INSERT", "UPDATE"] * 2, found)

    def test_records(self) -> None:
        """A command that is over at once is two records for its device and one for its operator."""
        operator, device = self.both()
        device.on_request = lambda _number, _request: device.accept().channel.finish(
            Outcome(status="ok")
        )
        wires = [end.wire.gateway for end in (operator, device)]
        before = [len(wire.sent) for wire in wires]
        talk = operator.call("exec", device="pump-1")
        talk.channel.loseConnection()
        self.fleet.pump()
        self.assertEqual(talk.closed, ("none", ""))
        told, asked = (
            [[frame.type for frame in frames_of(record)] for record in wire.sent[sent:]]
            for wire, sent in zip(wires, before, strict=True)
        )
        self.assertEqual(told, [[FrameType.OPENED, FrameType.EVENT]])
        self.assertEqual(asked, [[FrameType.OPEN], [FrameType.LIMIT]])

    def test_answer(self) -> None:
        """What the gateway answers itself is one record, if it is short."""
        operator, _ = self.both()
        before = len(operator.wire.gateway.sent)
        for verb in ("gateway.whoami", "gateway.devices"):
            operator.call(verb, session=verb.encode()[-16:].rjust(16))
            self.fleet.pump()
            (record,) = operator.wire.gateway.sent[before:]
            kinds = [frame.type for frame in frames_of(record)]
            self.assertEqual(kinds, [FrameType.OPENED, FrameType.DATA, FrameType.EVENT])
            before += 1

    def test_arrival(self) -> None:
        """A device goes live with one query, one update, and one audit row that shares a commit."""
        self.fleet.dial(self.pump)
        other = self.fleet.enrol("pump-2")
        with statements() as found:
            end = self.fleet.dial(other)
        self.assertEqual(len(self.fleet.gateway.presence), 2)
        kinds = sorted(text.split()[0] for text in found)
        # With BEGIN each: the key; the audit's head, row and head; the device's row.
        self.assertLessEqual(len(found), 8, found)
        self.assertEqual(kinds.count("INSERT"), 1, found)
        frames = frames_of(b"".join(end.wire.gateway.sent))
        self.assertLessEqual(len(frames), 2)
        self.assertEqual(frames[0].type, FrameType.WELCOME)

    def test_arrivals_together(self) -> None:
        """Devices that come together share two commits, of five and five statements, for all."""
        threads, clock = self.fleet.threads, self.fleet.clock
        self.patch(threads, "later", lambda wait, call: clock.callLater(wait, call).cancel)
        peers = [self.fleet.enrol(f"more-{number}") for number in range(20)]
        for expected_again in (2, 0):  # facts are added once, and replaced from then on
            with statements() as arriving:
                ends = [self.fleet.dial(peer) for peer in peers]
                clock.advance(LINGER_SECONDS)
            looked_up = [text for text in arriving if text.startswith("SELECT devices")]
            self.assertEqual(len(looked_up), len(peers))
            kinds = [text.split()[0] for text in arriving[2 * len(peers) :]]
            self.assertEqual(kinds, ["BEGIN", "UPDATE", "SELECT", "INSERT", "UPDATE"], arriving)
            before = [len(end.wire.gateway.sent) for end in ends]
            with statements() as telling:
                for end in ends:
                    end.call("gateway.report-facts", request={"facts": {"os": "arch"}})
                    end.call("gateway.flight", request=FLIGHT)
                self.fleet.pump()
                clock.advance(TOLD_LINGER_SECONDS)
            kinds = [text.split()[0] for text in telling]
            self.assertEqual(len(kinds), 5 + expected_again, telling)
            answers = [len(end.wire.gateway.sent) for end in ends]
            self.assertEqual(
                [now - then for now, then in zip(answers, before, strict=True)], [2] * 20
            )
            for end in ends:
                end.wire.cut()
            self.fleet.pump()
            clock.advance(LINGER_SECONDS)

    def test_statements_are_ready(self) -> None:
        """Who comes back as before needs no statement that was not compiled already."""
        for name in ("pump-2", "pump-3"):
            self.fleet.dial(self.fleet.enrol(name))
        with statements() as first:
            self.fleet.dial(self.fleet.enrol("pump-4"))
        with statements() as second:
            self.fleet.dial(self.fleet.enrol("pump-5"))
        self.assertEqual(first, second)

    def test_objects(self) -> None:
        """A live device keeps a bounded number of objects, and of bytes in them."""
        for number in range(10):  # what is made once for all is there
            self.fleet.dial(self.fleet.enrol(f"first-{number}"))
        peers = [self.fleet.enrol(f"more-{number}") for number in range(20)]
        before = self._objects()
        ends = [self.fleet.dial(peer) for peer in peers]
        count, size = (now - then for now, then in zip(self._objects(), before, strict=True))
        self.assertEqual(len(ends), 20)
        # Both ends of the memory's wire, and the fake device, are in it: half of each.
        self.assertLessEqual(count / len(peers), OBJECTS_A_DEVICE)
        self.assertLessEqual(size / len(peers), BYTES_A_DEVICE)

    @staticmethod
    def _objects() -> tuple[int, int]:
        """Return how many objects the collector knows, and their own bytes."""
        gc.collect()
        found = gc.get_objects()
        return len(found), sum(sys.getsizeof(one) for one in found)
