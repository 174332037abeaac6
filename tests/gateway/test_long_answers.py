"""Long answers: so many rows a turn, as fast as they are taken, and no longer than wanted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import CodeType, FrameType
from typing import Any, ClassVar

from rshell.gateway import audit_services
from rshell.gateway.audit_services import row_fields
from rshell.gateway.callers import OpenRefused
from rshell.gateway.device_rows import row_of
from rshell.gateway.long_answers import MAX_ANSWERS, MAX_OF_ONE, ROWS_A_TURN, Slices
from rshell.store.records import AuditRecord
from tests.gateway.ends import OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase
from tests.store.test_narrowing import put_all

DEVICES = 4 * ROWS_A_TURN + 30
SESSION = b"S" * 15


class Turns:
    """Turns of a reactor, one by one: a fake clock lets all that follow pass at once."""

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []

    def call_next_turn(self, call: Callable[[], None]) -> None:
        self._next.append(call)

    def pass_one(self) -> None:
        """Let one pass."""
        calls, self._next = self._next, []
        for call in calls:
            call()


class LongTestCase(FleetTestCase):
    #: Of each device, besides its site.
    labels: ClassVar[dict[str, str]] = {}

    def setUp(self) -> None:
        super().setUp()
        self.turns = Turns()
        self.fleet.gateway.slices = Slices(self.turns)
        self.rows = [
            (f"dev-{number:04}", {"site": f"s{number % 2}", **self.labels}, "active")
            for number in range(DEVICES)
        ]
        self.names = [name for name, _, _ in self.rows]
        self.ids = dict(zip(self.names, put_all(self.fleet.store, self.rows), strict=True))
        self.operator: OperatorEnd = self.fleet.dial(self.ann)
        self.turn()

    def ask(self, handler: str = "gateway.devices", number: int = 0, **request: Any) -> Talk:
        """Ask for a listing; nothing is delivered yet."""
        if handler == "gateway.devices":
            request.setdefault("selector", "dev-*")
        return self.operator.call(handler, request=request, session=SESSION + bytes([number]))

    def turn(self) -> None:
        """Let one turn of the reactor pass, and deliver what it sent."""
        self.turns.pass_one()
        self.fleet.pump()

    def until(self, done: Callable[[], bool]) -> None:
        """Let turns pass."""
        for _ in range(300):
            if done():
                return
            self.turn()
        self.fail("300 turns have passed")

    def made(self, code: CodeType, work: Callable[[], object]) -> int:
        """Return how often a function is called by ``work``."""
        calls: Counter[CodeType] = Counter()

        def seen(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call":
                calls[frame.f_code] += 1

        before = sys.getprofile()
        sys.setprofile(seen)
        try:
            work()
        finally:
            sys.setprofile(before)
        return calls[code]


class SliceTests(LongTestCase):
    def test_rows_a_turn(self) -> None:
        """No turn makes more rows than its share, however many operators list at once."""
        other: OperatorEnd = self.fleet.dial(self.fleet.add_operator("bob"))
        talks = [self.ask(), self.ask(number=1), other.call("gateway.devices", request={})]
        made = [self.made(row_of.__code__, self.fleet.pump)]
        while any(talk.closed is None for talk in talks):
            made.append(self.made(row_of.__code__, self.turn))
            self.assertLess(len(made), 50)
        self.assertLessEqual(max(made), ROWS_A_TURN)
        self.assertEqual(sum(made), 3 * DEVICES + 1)
        self.assertEqual([row["name"] for row in talks[1].answer()], self.names)
        self.assertEqual([row["name"] for row in talks[2].answer()], [*self.names, "pump-1"])
        self.assertEqual(self.fleet.gateway.slices.long, 0)

    def test_audit_rows_a_turn(self) -> None:
        """The log is read and told by pages, too; what is written meanwhile is not in it."""
        for number in range(250):
            record = AuditRecord(kind="test", message=str(number))
            self.fleet.got(self.fleet.store.append_audit(record))
        talks = [
            self.ask("gateway.audit", limit=230, kind="test"),
            self.ask("gateway.audit-rows", 1, limit=1_000, after=0, kind="test"),
        ]
        made = [self.made(row_fields.__code__, self.fleet.pump)]
        self.fleet.got(self.fleet.store.append_audit(AuditRecord(kind="test", message="250")))
        while any(talk.closed is None for talk in talks):
            made.append(self.made(row_fields.__code__, self.turn))
            self.assertLess(len(made), 50)
        self.assertLessEqual(max(made), ROWS_A_TURN)
        told = [int(row["message"]) for row in talks[0].answer()]
        self.assertEqual(told, list(range(249, 19, -1)))
        answer = talks[1].answer()
        self.assertEqual([int(row["message"]) for row in answer["rows"]], list(range(250)))
        self.assertGreaterEqual(answer["through"], answer["rows"][-1]["seq"])

    def test_of_some(self) -> None:
        """A page of which nothing is meant is not the end."""
        last = self.names[-1]
        self.fleet.got(self.fleet.store.keep_facts(self.ids[last], 2**60, {"os": "arch"}))
        talk = self.ask(selector="facts.os=arch", facts=["os"])
        self.until(lambda: talk.closed is not None)
        (row,) = talk.answer()
        self.assertEqual((row["name"], row["facts"]), (last, {"os": "arch"}))

    def test_none(self) -> None:
        """An empty answer is an empty array."""
        talk = self.ask(selector="nobody-*")
        self.fleet.pump()
        self.assertEqual(talk.answer(), [])


class MeanwhileTests(LongTestCase):
    def test_changed(self) -> None:
        """Who is renamed meanwhile is told once; a row is as its page finds it."""
        store = self.fleet.store
        talk = self.ask(selector="site=s0")
        self.fleet.pump()
        self.fleet.got(store.rename(self.ids["dev-0000"], "zzz"))  # told already
        self.fleet.got(store.rename(self.ids["dev-0400"], "aaa"))
        self.fleet.got(store.set_labels(self.ids["dev-0402"], {"site": "s1"}))
        self.fleet.got(store.set_labels(self.ids["dev-0403"], {"site": "s0"}))
        self.fleet.got(store.revoke_device(self.ids["dev-0404"]))
        self.until(lambda: talk.closed is not None)
        found = [row["name"] for row in talk.answer()]
        even = self.names[::2]
        gone = {"dev-0402", "dev-0404"}
        renamed = ["aaa" if name == "dev-0400" else name for name in even if name not in gone]
        self.assertEqual(found, renamed)

    def test_rights(self) -> None:
        """What an operator may no longer see is not told any more."""
        talk = self.ask()
        self.fleet.pump()
        self.fleet.add_operator("eve")  # an administrator has to stay
        self.fleet.run(self.fleet.gateway.rights.assign("ann", (), ("admin",)))
        self.until(lambda: talk.closed is not None)
        self.assertEqual([row["name"] for row in talk.answer()], self.names[:ROWS_A_TURN])

    def test_rights_to_the_log(self) -> None:
        """Who is no administrator any more is told only their own rows from the next page on."""
        self.patch(audit_services, "PAGE", ROWS_A_TURN)
        for number in range(4 * ROWS_A_TURN):
            self.fleet.got(
                self.fleet.store.append_audit(
                    AuditRecord(
                        kind="test", operator="ann" if number % 2 else "bob", message=str(number)
                    )
                )
            )
        talk = self.ask("gateway.audit", limit=1_000, kind="test")
        self.fleet.pump()
        self.fleet.add_operator("eve")
        self.fleet.run(self.fleet.gateway.rights.assign("ann", (), ("admin",)))
        self.until(lambda: talk.closed is not None)
        told = talk.answer()
        self.assertEqual({row["operator"] for row in told[:ROWS_A_TURN]}, {"ann", "bob"})
        # The second page was read already, and waited for its turn.
        self.assertEqual({row["operator"] for row in told[2 * ROWS_A_TURN :]}, {"ann"})

    def test_log_of_one_that_is_renamed(self) -> None:
        """The log of a device is told whole, whatever it is called meanwhile."""
        self.patch(audit_services, "PAGE", ROWS_A_TURN)
        device = self.ids["dev-0000"]
        for number in range(4 * ROWS_A_TURN):
            record = AuditRecord(kind="test", device=device, message=str(number))
            self.fleet.got(self.fleet.store.append_audit(record))
        talk = self.ask("gateway.audit", limit=1_000, kind="test", device="dev-0000")
        self.fleet.pump()
        self.fleet.got(self.fleet.store.rename(device, "zzz"))
        self.until(lambda: talk.closed is not None)
        self.assertEqual(len(talk.answer()), 4 * ROWS_A_TURN)


class SlowReaderTests(LongTestCase):
    labels: ClassVar[dict[str, str]] = {f"label-{number}": "x" * 250 for number in range(8)}

    def test_slow_reader(self) -> None:
        """An answer that nobody takes is made no further than stream and buffer hold of it."""
        talk = self.ask()
        talk.channel.pauseProducing()
        made = self.made(row_of.__code__, self.fleet.pump)
        made += sum(self.made(row_of.__code__, self.turn) for _ in range(20))
        # The window, the buffer, and one slice: 2.3 KB a row.
        self.assertLess(made, (262_144 + 65_536) / 2_300 + 2 * ROWS_A_TURN)
        self.assertLess(made, DEVICES)
        talk.channel.resumeProducing()
        self.until(lambda: talk.closed is not None)
        self.assertEqual([row["name"] for row in talk.answer()], self.names)


class TakingTests(LongTestCase):
    def test_left(self) -> None:
        """Who gives up, or whose link breaks, ends the work."""
        for leave in (
            lambda talk: talk.channel.reset("cancelled", ""),
            lambda talk: self.operator.wire.cut(),
        ):
            talk = self.ask()
            self.fleet.pump()
            self.assertEqual(self.fleet.gateway.slices.long, 1)
            leave(talk)
            self.turn()
            self.turn()
            made = sum(self.made(row_of.__code__, self.turn) for _ in range(5))
            self.assertEqual((made, self.fleet.gateway.slices.long), (0, 0))

    def test_store_fails(self) -> None:
        """A listing whose rest cannot be read ends with an error, not as if it were whole."""
        talk = self.ask()
        self.fleet.pump()
        self.fleet.got(self.fleet.store.close())
        self.until(lambda: talk.closed is not None)
        assert talk.outcome is not None
        self.assertEqual(talk.outcome["status"], "error")
        self.assertIn("closed", talk.outcome["message"])
        self.assertEqual(self.fleet.gateway.slices.long, 0)

    def test_too_many(self) -> None:
        """Of listings that one operator does not take, so many are under way; others get theirs."""
        talks = [self.ask(number=number) for number in range(MAX_OF_ONE)]
        self.fleet.pump()
        self.assertEqual(self.fleet.gateway.slices.long, MAX_OF_ONE)
        refused = self.ask(number=MAX_OF_ONE)
        short = self.ask(number=MAX_OF_ONE + 1, selector="dev-000*")
        bob: OperatorEnd = self.fleet.dial(self.fleet.add_operator("bob"))
        other = bob.call("gateway.devices", request={})
        self.until(lambda: short.closed is not None and other.closed is not None)
        assert refused.closed is not None
        self.assertEqual(refused.closed[0], "overload")
        self.assertIn("try again", refused.closed[1])
        self.assertEqual(len(short.answer()), 10)
        self.assertEqual(len(other.answer()), DEVICES + 1)
        self.until(lambda: all(talk.closed for talk in talks))
        self.assertEqual([len(talk.answer()) for talk in talks], [DEVICES] * MAX_OF_ONE)
        self.assertEqual(self.fleet.gateway.slices.long, 0)

    def test_too_many_of_all(self) -> None:
        """There is an end to those of all operators together, and room again when one is over."""
        slices = Slices(Turns())
        with ExitStack() as under_way:
            for number in range(MAX_ANSWERS - 1):
                under_way.enter_context(slices.lasting(f"op-{number // MAX_OF_ONE}"))
            with slices.lasting("last"):
                with self.assertRaises(OpenRefused) as refused, slices.lasting("one-more"):
                    pass
                self.assertEqual(refused.exception.code, "overload")
            with slices.lasting("one-more"):
                self.assertEqual(slices.long, MAX_ANSWERS)
        self.assertEqual(slices.long, 0)
