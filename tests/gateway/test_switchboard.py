"""The one gate: policy, audit, route, stream; what it refuses, and what each hop is told."""

from __future__ import annotations

from typing import Any

from rshell.gateway.absences import MAX_LOOKING
from rshell.link.core.messages import Open, Outcome, Positions
from rshell.link.core.sources import OutData
from rshell.store.records import Grant
from tests.gateway.ends import Ask, DeviceEnd, OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase

SESSION = b"S" * 16


class GateTests(FleetTestCase):
    def _open(self, operator: OperatorEnd, /, **fields: Any) -> Talk:
        talk = operator.call("exec", **{"device": "pump-1", **fields})
        self.fleet.pump()
        return talk

    def test_unknown_device(self) -> None:
        """A device that does not exist is not found; what was typed is shown escaped."""
        operator, _ = self.both()
        talk = self._open(operator, device="no\x1b[2Jsuch")
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "not-found")
        self.assertTrue(talk.closed[1].isprintable())

    def test_no_device(self) -> None:
        """An OPEN without a device is a bad request."""
        operator, _ = self.both()
        self.assertEqual(self._open(operator, device=None).code, "bad-request")

    def test_never_seen(self) -> None:
        """A device that never connected is offline, and the text says never; audited."""
        talk = self._open(self.fleet.dial(self.ann))
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "offline")
        self.assertIn("never connected", talk.closed[1])
        ends = self.fleet.audit("session", status="offline")
        self.assertEqual(len(ends), 1)

    def test_offline_since(self) -> None:
        """A device that left is offline, and the text says since when."""
        operator, device = self.both()
        device.wire.cut()
        talk = self._open(operator)
        assert talk.closed is not None
        self.assertRegex(talk.closed[1], r"last seen \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")

    def test_offline_why(self) -> None:
        """It says for how long, why, and whether it checks in; the audit keeps the short form."""
        operator, device = self.both()
        self.fleet.advance(30)
        device.wire.cut()
        self.fleet.advance(65)
        talk = self._open(operator)
        assert talk.closed is not None
        words = (
            r"\Apump-1 is offline: last seen [^;]* UTC; away for 1 min \d+ s; lost: .*; it does not"
        )
        self.assertRegex(talk.closed[1], words + r" check in, it dials by itself\Z")
        (row,) = self.fleet.audit("session", status="offline")
        self.assertRegex(row.record.message or "", r"\Apump-1 is offline: last seen [^;]*\Z")

    def test_offline_long_reason(self) -> None:
        """A reason that does not fit into a REFUSED is cut; the rest of the line is whole."""
        operator, device = self.both()
        device.wire.cut()
        self.fleet.advance(5)
        flights = self.fleet.gateway.flights
        flights.refused(self.pump.owner, "192.0.2.1", "policy", "\x1b[2J" + "bad " * 200)
        talk = self._open(operator)
        assert talk.closed is not None
        text = talk.closed[1]
        self.assertEqual(256, len(text))
        self.assertTrue(text.isprintable())
        self.assertTrue(
            text.endswith("\N{HORIZONTAL ELLIPSIS}; it does not check in, it dials by itself")
        )

    def test_offline_crowd(self) -> None:
        """Of a crowd that is away so many are explained at once, the others told at once."""
        operator = self.fleet.dial(self.ann)
        talks = [operator.call("exec", device="pump-1") for _ in range(MAX_LOOKING + 10)]
        self.fleet.threads.hold("read")
        self.fleet.pump()
        for _ in talks:  # the gate's own look-up of each; those for the reason queue behind
            self.fleet.threads.release_one()
            self.fleet.pump()
        self.fleet.threads.release()
        self.fleet.pump()
        texts = [talk.closed[1] for talk in talks if talk.closed is not None]
        self.assertEqual(len(talks), len(texts))
        self.assertEqual(MAX_LOOKING, sum("check in" in text for text in texts))

    def test_policy_refusal_is_audited(self) -> None:
        """What the role forbids is refused, does not reach the device, and is in the audit."""
        device = self.fleet.dial(self.pump)
        role = self.fleet.add_role("viewer", Grant(handlers=("tail",)))
        bob = self.fleet.dial(self.fleet.add_operator("bob", role))
        talk = self._open(bob)
        self.assertEqual(talk.code, "policy")
        self.assertEqual(device.requests, [])
        (row,) = self.fleet.audit("session", operator="bob")
        self.assertEqual((row.record.status, row.record.code), ("refused", "policy"))
        self.assertFalse(row.record.opens)

    def test_row_is_committed_before_the_open_leaves(self) -> None:
        """The device sees no OPEN until the audit row is on disk."""
        operator, device = self.both()
        self.fleet.threads.hold("write")
        self._open(operator)
        self.assertEqual(device.requests, [])
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(len(device.requests), 1)
        (row,) = self.fleet.audit("session", opens=True)
        self.assertEqual(
            (row.record.operator, row.record.device_name, row.record.handler, row.record.door),
            ("ann", "pump-1", "exec", "link"),
        )

    def test_audit_fails(self) -> None:
        """A row that cannot be written opens nothing (fail closed)."""
        operator, device = self.both()
        self.fleet.got(self.fleet.store.close())
        talk = self._open(operator)
        self.assertEqual(talk.code, "store-unavailable")
        self.assertEqual(device.requests, [])

    def test_outcome_row(self) -> None:
        """The outcome that passes by is the end of the audit row."""
        operator, device = self.both()
        talk = self._open(operator, login="root", request={"argv": ["aWQ="]})
        device.accept().channel.finish(Outcome(status="exit", exit_code=3))
        self.fleet.pump()
        self.assertEqual(talk.outcome, {"status": "exit", "exit_code": 3})
        begin, end = self.fleet.audit("session")
        self.assertEqual(begin.record.login, "root")
        self.assertEqual(begin.record.details, {"request": {"argv": ["aWQ="]}, "rule": "admin"})
        self.assertEqual(end.refers, begin.seq)
        self.assertEqual((end.record.status, end.record.exit_code), ("exit", 3))
        self.assertEqual(len(self.fleet.gateway.switchboard), 0)

    def test_hostile_outcome(self) -> None:
        """An outcome of the wrong shape ends the row as an error of the device."""
        operator, device = self.both()
        self._open(operator)
        device.accept().channel.send_event("outcome", {"status": 7, "exit_code": "x"})
        self.fleet.pump()
        (end,) = self.fleet.audit("session", status="error")
        self.assertEqual(end.record.code, "protocol")

    def test_outcome_with_control_sequences(self) -> None:
        """What a device says in an outcome is escaped before it is written down."""
        operator, device = self.both()
        self._open(operator)
        device.accept().channel.finish(
            Outcome(status="\x1b[2J", code="a\x07", message="\x1b]0;x\x07", signal="\x1b[m")
        )
        self.fleet.pump()
        end = self.fleet.audit("session")[-1]
        texts = [end.record.status, end.record.code, end.record.message, str(end.record.details)]
        for text in texts:
            self.assertTrue((text or "").isprintable(), text)

    def test_device_goes_while_the_row_is_written(self) -> None:
        """A device that goes meanwhile is offline "just now", not "never connected"."""
        operator, device = self.both()
        self.fleet.threads.hold("write")
        talk = self._open(operator)
        device.wire.cut()
        self.fleet.threads.release()
        self.fleet.pump()
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "offline")
        self.assertIn("just now", talk.closed[1])
        self.assertEqual(len(self.fleet.audit("session", status="offline")), 1)

    def test_device_comes_back_while_the_row_is_written(self) -> None:
        """The stream is opened on the newest link, not on the one there was at first."""
        operator, device = self.both()
        self.fleet.threads.hold("write")
        self._open(operator)
        again: DeviceEnd = self.fleet.dial(self.pump, dial=2)
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(device.requests, [])
        self.assertEqual(len(again.requests), 1)

    def test_too_many_streams(self) -> None:
        """More streams than the device takes are refused with streams; audited."""
        operator = self.fleet.dial(self.ann)
        self.fleet.dial(self.pump, max_streams=2)
        talks = [self._open(operator, session=bytes([n]) * 16) for n in range(3)]
        self.assertEqual([talk.code for talk in talks], [None, None, "streams"])
        self.assertEqual(len(self.fleet.audit("session", code="streams")), 1)
        self.assertEqual(len(self.fleet.gateway.switchboard), 2)

    def test_operator_gives_up_before_opened(self) -> None:
        """RESET before OPENED resets the device's stream, and the audit says so."""
        operator, device = self.both()
        talk = self._open(operator)
        number, request = device.requests[0]
        talk.channel.reset("cancelled", "")
        self.fleet.pump()
        self.assertFalse(device.link.waiting(number))
        self.assertEqual(request.session, SESSION)
        self.assertEqual(self.fleet.audit("session")[-1].record.code, "cancelled")

    def test_operator_gives_up_while_the_row_is_written(self) -> None:
        """A stream given up before its row is written never reaches the device."""
        operator, device = self.both()
        self.fleet.threads.hold("write")
        talk = self._open(operator)
        talk.channel.reset("cancelled", "")
        self.fleet.pump()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(device.requests, [])
        self.assertEqual(self.fleet.audit("session")[-1].record.code, "cancelled")

    def test_operator_lost_before_opened(self) -> None:
        """The operator's link breaks before OPENED: the device is told link-lost (rule R1)."""
        operator, device = self.both()
        self._open(operator)
        number, _ = device.requests[0]
        operator.wire.cut()
        self.fleet.pump()
        self.assertFalse(device.link.waiting(number))
        self.assertEqual(self.fleet.audit("session")[-1].record.status, "detached")

    def test_revoked_while_the_row_is_written(self) -> None:
        """An operator revoked meanwhile opens nothing."""
        self.fleet.add_operator("bob")
        operator, device = self.both()
        self.fleet.threads.hold("write")
        self._open(operator)
        self.fleet.gateway.revocation._revoked.add(("operator", "ann"))
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(device.requests, [])
        self.assertEqual(self.fleet.audit("session")[-1].record.code, "revoked")

    def test_open_is_written_field_by_field(self) -> None:
        """The operator's name in the device's OPEN is the authenticated one, whatever is sent."""
        operator, device = self.both()
        self._open(operator, operator="root", login="web", attempt=1, age_ms=7)
        _, told = device.requests[0]
        self.assertEqual(
            told,
            Open(
                handler="exec",
                session=SESSION,
                operator="ann",
                login="web",
                age_ms=7,
                limit=told.limit,
            ),
        )
        self.assertLessEqual(told.limit, 262144)


class WhoseSessionTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        everything = Grant(handlers=("*",), logins=("*",))
        self.bob = self.fleet.add_operator("bob", self.fleet.add_role("ops", everything))
        self.anns, self.device = self.both()
        self.bobs: OperatorEnd = self.fleet.dial(self.bob)

    def _open(self, operator: OperatorEnd, /, **fields: Any) -> Ask:
        talk = operator.ask("shell", **fields)
        self.fleet.pump()
        return talk

    def test_other_operator(self) -> None:
        """Attempt 2 of another operator's session is refused and audited (rule R6)."""
        self._open(self.anns)
        seen = len(self.device.requests)
        for more in ({"attempt": 2}, {"resume": Positions(0, 4096, 0)}):
            self.assertEqual(self._open(self.bobs, **more).code, "policy")
        self.assertEqual(len(self.device.requests), seen)
        self.assertEqual(len(self.fleet.audit("session", operator="bob", status="refused")), 2)

    def test_same_operator(self) -> None:
        """The same operator's attempt 2 passes, with attempt and positions."""
        self._open(self.anns)
        self._open(self.anns, attempt=2, resume=Positions(5, 4101, 1))
        _, told = self.device.requests[-1]
        self.assertEqual((told.attempt, told.resume), (2, Positions(5, 4101, 1)))

    def test_session_of_another_device(self) -> None:
        """A session is resumed on the device it began on, nowhere else."""
        other: DeviceEnd = self.fleet.dial(self.fleet.enrol("pump-2"))
        self._open(self.anns)
        self.assertEqual(self._open(self.anns, attempt=2, device="pump-2").code, "policy")
        self.assertEqual(other.requests, [])

    def test_claims_do_not_take_a_session_over(self) -> None:
        """However often somebody else asks for a session id, it stays its first owner's."""
        self._open(self.anns)
        for _ in range(120):
            self._open(self.bobs)
            self.device.refuse("duplicate", "")
            self.fleet.pump()
        self.assertEqual(self._open(self.bobs, attempt=2).code, "policy")
        self.assertIsNone(self._open(self.anns, attempt=2).code)

    def test_refused_claims_do_not_lock_the_owner_out(self) -> None:
        """A refused request with another's session id does not keep its owner from resuming."""
        eve: OperatorEnd = self.fleet.dial(self.fleet.add_operator("eve", "viewer"))
        self._open(eve)
        self._open(self.anns)
        self.assertIsNone(self._open(self.anns, attempt=2).code)


class RelayTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.operator, self.device = self.both()
        self.talk = self.operator.call("shell", device="pump-1")
        self.fleet.pump()
        self.far = self.device.accept()
        self.fleet.pump()

    def test_bytes_both_ways(self) -> None:
        """A megabyte each way arrives byte for byte, stderr apart, with the ends in order."""
        body = bytes(range(256)) * 4096
        self.talk.channel.write(body)
        self.talk.channel.loseConnection()
        self.far.channel.write(body[::-1])
        self.far.channel.write_stderr(b"warning")
        self.fleet.pump()
        self.far.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(bytes(self.far.data), body)
        self.assertTrue(self.far.eof)
        self.assertEqual(bytes(self.talk.data), body[::-1] + b"warning")
        self.assertEqual(bytes(self.talk.stderr), b"warning")
        self.assertEqual(self.talk.outcome, {"status": "ok"})
        self.assertEqual((self.talk.code, self.far.code), ("none", "none"))

    def test_window_event(self) -> None:
        """An urgent event passes before unread input."""
        self.far.channel.pauseProducing()
        self.talk.channel.write(b"typed")
        self.talk.channel.send_event("window", {"rows": 50, "columns": 132}, urgent=True)
        self.fleet.pump()
        self.assertEqual(self.far.events, [("window", {"rows": 50, "columns": 132})])
        self.assertEqual(self.far.data, b"")

    def test_slow_reader_holds_its_sender(self) -> None:
        """While the operator reads nothing the gateway holds a bounded amount of its stream."""
        self.talk.channel.pauseProducing()
        self.far.channel.write(bytes(4 * 1024 * 1024))
        self.fleet.pump()
        (session,) = self.fleet.gateway.switchboard.sessions()
        stream: Any = session.stream
        self.assertLessEqual(stream.bytes_relayed, 262144)
        self.assertGreater(stream.bytes_relayed, 0)
        self.talk.channel.resumeProducing()
        self.fleet.advance(2)
        self.assertEqual(len(self.talk.data), 4 * 1024 * 1024)

    def test_reset_passes_with_its_code(self) -> None:
        """RESET of one end reaches the other with its code, and the audit."""
        self.far.channel.reset("timeout", "a time limit passed")
        self.fleet.pump()
        self.assertEqual(self.talk.closed, ("timeout", "a time limit passed"))
        end = self.fleet.audit("session")[-1].record
        self.assertEqual((end.status, end.code), ("refused", "timeout"))

    def test_operators_reset(self) -> None:
        """RESET of the operator reaches the device with its code."""
        self.talk.channel.reset("cancelled", "enough")
        self.fleet.pump()
        self.assertEqual(self.far.closed, ("cancelled", "enough"))

    def test_device_link_lost(self) -> None:
        """The device's link breaks: the operator is told link-lost, the audit says detached."""
        self.device.wire.cut()
        self.fleet.pump()
        self.assertEqual(self.talk.code, "link-lost")
        self.assertEqual(self.fleet.audit("session")[-1].record.status, "detached")
        self.assertEqual(len(self.fleet.gateway.switchboard), 0)

    def test_operator_link_lost(self) -> None:
        """The operator's link breaks: the device is told link-lost and keeps the session."""
        self.operator.wire.cut()
        self.fleet.pump()
        self.assertEqual(self.far.code, "link-lost")
        self.assertEqual(self.fleet.audit("session")[-1].record.status, "detached")

    def test_crash_marks_interrupted(self) -> None:
        """Rows that a dead gateway left open are marked interrupted at the next start, once."""
        (begin,) = self.fleet.audit("session")
        self.fleet.crash()
        self.fleet.crash()
        (end,) = self.fleet.audit("session", status="interrupted")
        self.assertEqual(end.refers, begin.seq)
        verdict = self.fleet.got(self.fleet.store.verify_audit())
        self.assertTrue(verdict.sound, verdict.reason)

    def test_overrun_is_fatal_to_its_link_only(self) -> None:
        """A device that sends beyond its limit loses its link; the operator keeps theirs (F1)."""
        number = self.far.channel.number
        stream = self.device.link.core.streams[number]
        stream.send_limit += 1 << 24
        self.talk.channel.pauseProducing()
        stream.source = _Flood()
        for _ in range(100):
            self.device.link.wake(number)
            self.fleet.pump()
        self.assertEqual(self.device.told, "flow-control")
        self.assertIsNone(self.operator.lost)
        self.assertEqual(self.talk.code, None, "the reader is paused")
        self.talk.channel.resumeProducing()
        self.assertEqual(self.talk.code, "link-lost")


class _Flood:
    """A source that always has more."""

    def next_control(self) -> None:
        return None

    def next_frame(self, room: int, credit: int) -> OutData | None:
        return OutData(bytes(min(room, credit)), False, False) if credit else None
