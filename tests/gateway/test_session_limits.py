"""Sessions end when they are idle, or last, longer than roles allow; who is there is warned."""

from __future__ import annotations

from typing import Any

from rshell.link.core.messages import Positions, SessionReport, Sessions
from rshell.store.records import Grant
from tests.gateway.ends import OperatorEnd, Talk
from tests.gateway.gate import SESSION, GateTestCase

TERMINAL: dict[str, Any] = {"terminal": {"rows": 24, "columns": 80, "term": "xterm"}}
RESUME = Positions(0, 262144, 0)


class LimitTests(GateTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.role(idle_limit=120, time_limit=600)
        self.zoe = self.fleet.add_operator("zoe", "ops")
        self.operator = self.come()

    def role(self, **terms: Any) -> None:
        """Make the operator's role, or change it."""
        self.fleet.add_role("ops", Grant(handlers=("*",), **terms))

    def come(self) -> OperatorEnd:
        end: OperatorEnd = self.fleet.dial(self.zoe, features=["resume", "notices"])
        return end

    def open(self, handler: str = "shell", **fields: Any) -> tuple[Talk, Talk]:
        talk = self.operator.call(handler, device="pump-1", **fields)
        self.fleet.pump()
        far = self.device.accept()
        self.fleet.pump()
        return talk, far

    def notices(self) -> list[tuple[str, str]]:
        return [(one.code, one.message) for all in self.operator.answers for one in all.notices]

    def ended_on_device(self) -> list[bytes]:
        return [session for all in self.device.answers for session in all.end]

    def test_terminal_left_out(self) -> None:
        """A shell whose request says nothing of a terminal has one: its output keeps no seat."""
        talk, far = self.open(request={})
        for _ in range(13):
            far.channel.write(b"still here")
            self.fleet.advance(10, 1)
        self.assertEqual(talk.code, "idle-limit")

    def test_idle(self) -> None:
        """A terminal at which nobody types ends, with a warning before and the rule's name."""
        talk, _ = self.open(request=TERMINAL)
        self.fleet.advance(88, 1)
        self.assertEqual((self.notices(), talk.code), ([], None))
        self.fleet.advance(6, 1)
        ((code, message),) = self.notices()
        self.assertEqual(code, "idle-limit")
        self.assertRegex(message, r"^this session ends in (2|3)\d seconds: nobody types here \(")
        self.fleet.advance(22, 1)
        self.assertIsNone(talk.code)
        self.fleet.advance(8, 1)
        self.assertEqual(
            talk.closed, ("idle-limit", "nothing was typed for 2m, the limit of ops/1")
        )
        self.assertEqual(self.ended_on_device(), [SESSION])
        self.assertEqual(self.told(), [("timeout", "idle-limit")])
        self.assertEqual(len(self.notices()), 1)
        limited = self.fleet.gateway.metrics.sessions_limited
        self.assertEqual(limited.labels("idle-limit")._value.get(), 1)

    def test_typing(self) -> None:
        """Who types, also after the warning, goes on, and is warned anew the next time."""
        talk, _ = self.open(request=TERMINAL)
        for count, seconds in ((1, 100), (2, 80)):
            self.fleet.advance(seconds, 1)
            self.assertEqual(len(self.notices()), count)
            talk.channel.write(b"x")
            self.fleet.advance(30, 1)
            self.assertIsNone(talk.code)

    def test_output_is_no_typing(self) -> None:
        """What a program shows on a terminal is no sign that anybody is there."""
        talk, far = self.open(request=TERMINAL)
        for _ in range(13):
            far.channel.write(b"still here\r\n")
            self.fleet.advance(10, 1)
        self.assertEqual(talk.code, "idle-limit")

    def test_shell_without_a_terminal(self) -> None:
        """There output counts too: a program feeds it."""
        talk, far = self.open(request={"terminal": None})
        for _ in range(13):
            far.channel.write(b"still here\n")
            self.fleet.advance(10, 1)
        self.assertIsNone(talk.code)
        self.fleet.advance(125, 1)
        self.assertEqual(talk.code, "idle-limit")

    def test_work_is_never_idle(self) -> None:
        """Commands, transfers and forwards without a terminal end by their time only."""
        talk, _ = self.open("exec")
        self.fleet.advance(540, 2)
        self.assertIsNone(talk.code)
        self.fleet.advance(20, 1)
        ((code, message),) = self.notices()
        self.assertEqual(code, "time-limit")
        self.assertRegex(message, r"^this session ends in (60|5\d) seconds: its time is over \(")
        self.fleet.advance(44, 1)
        self.assertEqual(
            talk.closed, ("time-limit", "the session has lasted 10m, the limit of ops/1")
        )

    def test_role_changes(self) -> None:
        """A limit that a role gets, or loses, holds for sessions that are open."""
        self.role()
        talk, _ = self.open(request=TERMINAL)
        self.fleet.advance(60, 2)
        self.role(idle_limit=90)
        self.fleet.advance(10, 1)
        self.assertEqual(len(self.notices()), 1)
        self.role(idle_limit=900)
        self.fleet.advance(100, 2)
        self.assertIsNone(talk.code)
        self.role(idle_limit=60)
        self.fleet.advance(3, 1)
        self.assertEqual(talk.code, "idle-limit")

    def test_attempts_share_one_time(self) -> None:
        """Another link begins neither the time nor, if nobody attached, the idleness anew."""
        self.open(request=TERMINAL)
        self.fleet.advance(80, 1)
        self.operator.wire.cut()
        self.fleet.pump()
        self.operator = self.come()
        again = self.ask(attempt=2, resume=Positions(7, 262144, 0))
        self.fleet.advance(44, 1)
        self.assertEqual(again.code, "idle-limit")

    def test_attaching_is_use(self) -> None:
        """Whoever attaches has the whole idle time before them, and the rest of the time."""
        self.open(request=TERMINAL)
        self.fleet.advance(80, 1)
        self.operator.wire.cut()
        self.fleet.pump()
        self.fleet.advance(400, 2)
        self.operator = self.come()
        again, _ = self.open(attempt=2, resume=RESUME)
        self.fleet.advance(110, 1)
        self.assertIsNone(again.code)
        self.fleet.advance(20, 1)
        # 610 s old by now; as a terminal it would have been idle only later.
        self.assertEqual(again.code, "time-limit")

    def test_what_it_calls_itself(self) -> None:
        """A later attempt cannot choose another handler's limits."""
        self.open(request=TERMINAL)
        self.operator.wire.cut()
        self.fleet.pump()
        self.operator = self.come()
        again, _ = self.open("exec", attempt=2, resume=RESUME)
        self.fleet.advance(125, 1)
        self.assertEqual(again.code, "idle-limit")

    def test_detached(self) -> None:
        """A session that nobody is attached to ends by its time, and the log says so."""
        self.open(request=TERMINAL)
        self.operator.wire.cut()
        self.fleet.pump()
        self.fleet.advance(590, 2)
        self.assertEqual(self.ended_on_device(), [])
        self.fleet.advance(45, 1)
        self.assertEqual(self.ended_on_device(), [SESSION])
        (row,) = self.fleet.audit("session.outcome")
        self.assertEqual((row.record.status, row.record.code), ("timeout", "time-limit"))
        self.assertEqual(self.fleet.gateway.sessions.entries(), [])

    def test_detached_without_a_limit(self) -> None:
        """Without a time limit it lives, also if another role has one."""
        self.role(idle_limit=60)
        self.fleet.add_role("short", Grant(handlers=("exec",), time_limit=10))
        self.open(request=TERMINAL)
        self.operator.wire.cut()
        self.fleet.pump()
        self.fleet.advance(1200, 5)
        self.assertEqual(self.ended_on_device(), [])

    def test_device_that_returns(self) -> None:
        """What became too old while its device was away ends when it is listed."""
        self.open(request=TERMINAL)
        self.operator.wire.cut()
        self.away()
        self.fleet.advance(60, 5)
        self.back()
        for age, ended in ((599_000, []), (600_000, [SESSION])):
            report = SessionReport(session=SESSION, operator="zoe", handler="shell", age_ms=age)
            self.device.link.sessions(Sessions([report]))
            self.fleet.pump()
            self.assertEqual(self.ended_on_device(), ended)
        (row,) = self.fleet.audit("session.outcome")
        self.assertEqual(row.record.code, "time-limit")

    def test_parked(self) -> None:
        """An attempt that waits for its device is ended by the time limit."""
        self.role(time_limit=30)
        self.open(request=TERMINAL)
        self.away()
        asked = self.ask(attempt=2, resume=Positions(1, 262144, 0))
        self.fleet.advance(35, 1)
        self.assertEqual(asked.code, "time-limit")

    def test_viewers_do_not_count(self) -> None:
        """Somebody who watches keeps no session alive, and leaves with it."""
        self.open(request=TERMINAL)
        copy = self.operator.call("shell", device="pump-1", view=True)
        self.fleet.pump()
        self.device.accept()
        self.fleet.pump()
        copy.channel.write(b"x")
        self.fleet.advance(125, 1)
        self.assertEqual(self.told()[0], ("timeout", "idle-limit"))

    def test_administrators(self) -> None:
        """The role admin has no limits."""
        self.operator = self.fleet.dial(self.ann)
        talk, _ = self.open(request=TERMINAL)
        self.fleet.advance(1200, 5)
        self.assertIsNone(talk.code)
