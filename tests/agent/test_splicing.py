"""Unit tests of rshell_agent.dispatch: streams that are the keeper's, attempt by attempt."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from rshell.handlers import ExecRequest, Outcome
from rshell.link.core.messages import Open, Positions, encode
from rshell_agent.keeper import wire
from rshell_agent.policy import PolicyReport
from tests.agent.test_channel import OK, DispatchCase


class SpliceTests(DispatchCase):
    def setUp(self) -> None:
        super().setUp()

        async def body(request: Any, channel: Any, device: Any) -> Outcome:
            return OK

        self.serve(body)

    def answer(self, index: int, kind: int, body: dict[str, Any]) -> None:
        """The keeper answers one of the couriers."""
        self.keeper.sides[index].dataReceived(wire.encode_map(kind, body))
        self.pair.pump()

    def test_keeper_unavailable(self) -> None:
        """Without a keeper an exec is refused, with the reason."""
        self.keeper.available = False
        talk = self.pair.open("exec", ExecRequest(argv=[b"true"]))
        self.assertEqual("overload", self.ended(talk))

    def test_too_large(self) -> None:
        """A request that fits the link but not the keeper's frame is refused, not cut."""
        session, size = bytes(16), 12_100
        request = Open(handler="exec", session=session, operator="alice", limit=1 << 18)
        body: Any = None
        while body is None or len(encode(msgspec.structs.replace(request, request=body))) > 16_370:
            size -= 1
            body = {"argv": msgspec.to_builtins([b"x" * size])}
        talk = self.pair.open("exec", body, session=session)
        self.assertEqual("bad-request", self.ended(talk))
        self.assertEqual([], self.keeper.sides)

    def test_displaced(self) -> None:
        """A newer attempt makes the keeper close the older one: that reads as duplicate."""
        talk = self.pair.open("exec", ExecRequest(argv=[b"true"]))
        self.keeper.sides[0].dataReceived(
            wire.encode_map(wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        )
        newer = self.pair.open(
            "exec", ExecRequest(argv=[b"true"]), session=talk.request.session, attempt=2
        )
        self.keeper.sides[0].connectionLost()
        self.assertEqual("duplicate", self.ended(talk))
        self.assertNoResult(newer.ended)

    def test_resume_goes_to_the_keeper(self) -> None:
        """What resumes a session unknown here joins at the keeper; no handler runs (R3, K17)."""
        talk = self.pair.open("exec", {}, attempt=2, resume=Positions(0, 1000, 0))
        (_, opening) = self.keeper.frames()
        body = json.loads(opening[2])
        self.assertNotIn("process", body)
        self.assertEqual((2, "exec"), (body["attempt"], body["handler"]))
        self.answer(0, wire.REFUSED, {"code": "lost", "message": "not here"})
        self.assertEqual("lost", self.ended(talk))

    def test_viewers(self) -> None:
        """A viewer goes to the keeper, displaces nobody, and needs the handler's policy (R9)."""
        talk = self.pair.open("exec", ExecRequest(argv=[b"true"]))
        self.answer(0, wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        session = talk.request.session
        self.pair.open("exec", {}, session=session, view=True)
        self.pair.open("exec", {}, session=session, view=True)
        self.assertEqual(3, len(self.keeper.sides))
        self.answer(0, wire.RESET, {"code": "lost", "message": ""})
        self.assertEqual("lost", self.ended(talk))
        self.policy.current = PolicyReport(frozenset({"echo"}), ("self",))
        forbidden = self.pair.open("exec", {}, session=session, view=True)
        self.assertEqual("policy", self.ended(forbidden))

    def test_two_quick_attempts(self) -> None:
        """Of attempts the keeper hears in the wrong order the higher one stays (R3)."""
        argv = ExecRequest(argv=[b"true"])
        first = self.pair.open("exec", argv)
        session = first.request.session
        second = self.pair.open("exec", argv, session=session, attempt=2)
        third = self.pair.open("exec", argv, session=session, attempt=3)
        self.answer(2, wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        self.answer(0, wire.REFUSED, {"code": "duplicate", "message": ""})
        self.answer(1, wire.REFUSED, {"code": "duplicate", "message": ""})
        self.assertEqual(["duplicate"] * 2, [self.ended(first), self.ended(second)])
        self.assertNoResult(third.ended)
        self.keeper.sides[2].connectionLost()
        self.assertEqual("link-lost", self.ended(third))

    def test_keeper_refuses_the_newer(self) -> None:
        """A newer attempt that the keeper refuses leaves the older one as it was."""
        argv = ExecRequest(argv=[b"true"])
        first = self.pair.open("exec", argv)
        self.answer(0, wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        second = self.pair.open("exec", argv, session=first.request.session, attempt=2)
        self.answer(1, wire.REFUSED, {"code": "policy", "message": ""})
        self.assertEqual("policy", self.ended(second))
        self.keeper.sides[0].connectionLost()
        self.assertEqual("link-lost", self.ended(first))

    def test_again_before_the_keeper_is_reached(self) -> None:
        """A re-open while the first connection is being made: only the second one opens."""
        gate: Deferred[None] = Deferred()
        connect = self.keeper.connect_stream

        async def slowly(protocol: Any) -> None:
            await gate
            await connect(protocol)

        self.keeper.connect_stream = slowly
        argv = ExecRequest(argv=[b"true"])
        first = self.pair.open("exec", argv)
        first.channel.reset("link-lost", "")
        self.pair.pump()
        self.keeper.connect_stream = connect
        second = self.pair.open("exec", argv, session=first.request.session, attempt=2)
        self.answer(0, wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        gate.callback(None)
        self.assertEqual([], self.keeper.frames(1))
        self.assertTrue(self.keeper.transports[1].disconnecting)
        self.successResultOf(second.opened)
        self.assertNoResult(second.ended)

    def test_late_answer_of_the_old_courier(self) -> None:
        """What the keeper still says to a courier whose link is gone reaches nobody."""
        argv = ExecRequest(argv=[b"true"])
        first = self.pair.open("exec", argv)
        first.channel.reset("link-lost", "")
        self.pair.pump()
        second = self.pair.open("exec", argv, session=first.request.session, attempt=2)
        self.answer(1, wire.OPENED, {"consumed": 0, "limit": 100, "events": 0})
        self.answer(0, wire.OPENED, {"consumed": 5, "limit": 100, "events": 0})
        self.answer(0, wire.DATA, {"stale": 1})
        self.keeper.sides[0].connectionLost()
        self.pair.pump()
        self.assertEqual(b"", second.output)
        self.assertNoResult(second.ended)
