"""Unit tests of rshell_agent.courier: frames pass unchanged, bounded, and ends are told."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from rshell.handlers import Confirm, Outcome, ProcessRequest, TerminalSize
from rshell.link.core.events import DataReceived
from rshell.link.core.messages import Open, Positions
from rshell_agent.courier import QUEUE_BYTES, Courier, feature_of, open_frame
from rshell_agent.keeper import wire
from tests.agent.conversation import Talk
from tests.agent.pair import LinkPair
from tests.link.test_unix_sockets import Transport

OPENED = {"consumed": 0, "limit": 1000, "events": 0}


class CourierCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = LinkPair()
        self.couriers: list[Courier] = []
        self.ends: list[tuple[Outcome | None, str, str]] = []
        self.pair.device_owner.requested = self.requested
        self.transport = StringTransport()

    def requested(self, link: Any, number: int, request: Open) -> None:
        opening = open_frame(request, ProcessRequest(kind="exec", argv=[b"cat"]))
        courier = Courier(link, number, request, opening, 4, lambda *end: self.ends.append(end))
        self.couriers.append(courier)

    def opened(self, window: int = 1 << 18, features: tuple[str, ...] = (), **body: Any) -> Talk:
        """A stream that the keeper has accepted."""
        talk = self.pair.open("exec", window=window)
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.keeper(wire.WELCOME, {"proto": 1, "features": features})
        self.keeper(wire.OPENED, {**OPENED, **body})
        self.successResultOf(talk.opened)
        self.sent()
        return talk

    def keeper(self, kind: int, payload: bytes | dict[str, Any], flags: int = 0) -> None:
        """The keeper sends a frame."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.couriers[0].keeper_side.dataReceived(wire.encode(kind, data, flags))
        self.pair.pump()

    def sent(self) -> list[tuple[int, int, bytes]]:
        """What went to the keeper since the last look."""
        self.pair.pump()
        data = self.transport.value()
        self.transport.clear()
        return list(wire.Decoder().feed(data))


class GuardTests(CourierCase):
    """What must be confirmed over a link that was dialled after it."""

    request = Open(handler="exec", session=bytes(16), attempt=1, operator="alice")
    guarded = ProcessRequest(
        kind="exec",
        argv=[b"x"],
        confirm=Confirm(seconds=30, rollback=b"undo\xff", keep_failed=True),
    )

    def test_frame(self) -> None:
        """The keeper is told how it is undone, and when the link was dialled."""
        frame = open_frame(self.request, self.guarded, 1.2349)
        ((_, _, payload),) = wire.Decoder().feed(frame)
        body = json.loads(payload)
        self.assertEqual(1234, body["link_dialled_ms"])
        self.assertEqual(
            {"seconds": 30, "rollback": wire.base64(b"undo\xff"), "keep_failed": True},
            body["process"]["confirm"],
        )

    def test_feature(self) -> None:
        """Only a keeper that knows of it is asked: an older one would run it without a guard."""
        self.assertEqual("confirm", feature_of(self.request, self.guarded))
        self.assertIsNone(feature_of(self.request, ProcessRequest(kind="exec", argv=[b"x"])))
        self.assertIsNone(feature_of(self.request, None))

    def test_unproved(self) -> None:
        """A change that waits asks for a new link, once it is told that this one is too old."""
        self.opened()
        asked: list[bool] = []
        self.couriers[0].unproved = lambda: asked.append(True)
        self.keeper(wire.EVENT, {"seq": 1, "at": 0, "kind": "guard", "fresh": True})
        self.keeper(wire.EVENT, {"seq": 2, "at": 0, "kind": "guard", "fresh": "no"})
        self.assertEqual([], asked)
        self.keeper(wire.EVENT, {"seq": 3, "at": 0, "kind": "guard", "fresh": False})
        self.assertEqual([True], asked)


class OpeningTests(CourierCase):
    def test_open_is_built_field_by_field(self) -> None:
        """The keeper's OPEN says what the link's said, in the keeper's words."""
        request = Open(
            handler="exec",
            session=bytes(16),
            attempt=3,
            age_ms=70,
            operator="alice",
            login="bob",
            resume=Positions(10, 20, 2),
        )
        process = ProcessRequest(
            kind="exec",
            line=b"\xff",
            environment=[(b"A", b"b")],
            directory=b"/tmp",
            terminal=TerminalSize(rows=5, columns=7, term="vt100"),
            timeout_ms=9,
            detach=True,
        )
        ((kind, _, payload),) = wire.Decoder().feed(open_frame(request, process))
        self.assertEqual(wire.OPEN, kind)
        self.assertEqual(
            {
                "session": "AAAAAAAAAAAAAAAAAAAAAA==",
                "attempt": 3,
                "age_ms": 70,
                "operator": "alice",
                "handler": "exec",
                "login": "bob",
                "limit": 20,
                "resume": {"consumed": 10, "limit": 20, "events": 2},
                "detach": True,
                "process": {
                    "kind": "exec",
                    "line": "/w==",
                    "env": [["QQ==", "Yg=="]],
                    "cwd": "L3RtcA==",
                    "pty": {"rows": 5, "columns": 7, "term": "vt100"},
                    "timeout_ms": 9,
                },
            },
            json.loads(payload),
        )

    def test_hello_then_open(self) -> None:
        """The connection begins with HELLO for a stream, then OPEN, without waiting."""
        self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        (hello, opening) = self.sent()
        self.assertEqual((wire.HELLO, wire.OPEN), (hello[0], opening[0]))
        self.assertEqual("stream", json.loads(hello[2])["purpose"])

    def test_at_once(self) -> None:
        """Both need one write, and no turn of the reactor."""
        transport = Transport(room=4096)
        self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(transport)
        kinds = [kind for kind, _, _ in wire.Decoder().feed(transport.socket.sent)]
        self.assertEqual(([wire.HELLO, wire.OPEN], b""), (kinds, transport.value()))

    def test_positions(self) -> None:
        """OPENED on the link states the keeper's positions."""
        talk = self.pair.open("exec", resume=Positions(0, 1 << 18, 0))
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.keeper(wire.OPENED, {"consumed": 7, "limit": 90, "events": 3, "gap": 5})
        opened = self.successResultOf(talk.opened)
        self.assertEqual((7, 90, 3, 5), (opened.consumed, opened.limit, opened.events, opened.gap))

    def test_replay(self) -> None:
        """What the keeper says of bytes written before is said on the link too (R8)."""
        talk = self.pair.open("exec", resume=Positions(0, 1 << 18, 0))
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.keeper(wire.OPENED, {**OPENED, "gap": 5, "replay": 99})
        opened = self.successResultOf(talk.opened)
        self.assertEqual((5, 99), (opened.gap, opened.replay))

    def test_refused(self) -> None:
        """The keeper's REFUSED becomes the link's, with code and message."""
        talk = self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.keeper(wire.REFUSED, {"code": "policy", "message": "not here"})
        self.assertEqual(("policy", "not here"), self.successResultOf(talk.ended))
        self.assertEqual([(None, "policy", "not here")], self.ends)

    def test_given_up_before_the_keeper_answers(self) -> None:
        """An operator who gives up early cancels what the keeper may have started."""
        talk = self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.sent()
        talk.channel.reset("cancelled", "enough")
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.RESET, "cancelled"), (kind, json.loads(payload)["code"]))
        self.assertTrue(self.transport.disconnecting)

    def test_given_up_before_connected(self) -> None:
        """One who gives up before the keeper is reached starts nothing at all."""
        talk = self.pair.open("exec")
        talk.channel.reset("cancelled", "enough")
        self.pair.pump()
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.assertEqual([], self.sent())
        self.assertTrue(self.transport.disconnected or self.transport.disconnecting)


class ViewTests(CourierCase):
    def viewing(self, welcome: dict[str, Any]) -> Talk:
        talk = self.pair.open("shell", view=True)
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.assertEqual([wire.HELLO], [kind for kind, _, _ in self.sent()])
        self.keeper(wire.WELCOME, {"proto": 1, **welcome})
        return talk

    def test_view(self) -> None:
        """A viewer's OPEN goes to a keeper that knows viewers, and says that it is one."""
        self.viewing({"features": ["view"]})
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.OPEN, True), (kind, json.loads(payload)["view"]))

    def test_older_keeper(self) -> None:
        """A keeper that does not is not asked: it would displace the driver."""
        welcomes: list[dict[str, Any]] = [{}, {"features": []}, {"features": "view"}]
        for welcome in welcomes:
            with self.subTest(welcome=welcome):
                self.setUp()
                talk = self.viewing(welcome)
                self.assertEqual("version", self.successResultOf(talk.ended)[0])
                self.assertEqual([], self.sent())
                self.assertTrue(self.transport.disconnected or self.transport.disconnecting)

    def test_no_process(self) -> None:
        """Who watches asks for no process; who does not, says nothing of viewing."""
        request = Open(handler="shell", session=bytes(16), operator="alice", view=True, limit=7)
        ((_, _, payload),) = wire.Decoder().feed(open_frame(request, None))
        body = json.loads(payload)
        self.assertEqual((True, 7), (body["view"], body["limit"]))
        self.assertNotIn("process", body)

    def test_gaps(self) -> None:
        """A gap arrives at its place among the bytes, however these are cut on the way."""
        talk = self.pair.open("shell", window=2048, view=True)
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.keeper(wire.WELCOME, {"proto": 1, "features": ["view"]})
        self.keeper(wire.OPENED, {**OPENED, "limit": 0, "replay": 3000})
        seen: list[int] = []
        given = talk.event_received

        def event_received(kind: str, body: dict[str, Any], urgent: bool) -> None:
            seen.append(len(talk.output))
            given(kind, body, urgent)

        talk.event_received = event_received  # type: ignore[method-assign]  # looks at the place
        self.keeper(wire.DATA, b"r" * 3000)
        self.keeper(wire.EVENT, {"seq": 1, "at": 3000, "kind": "gap", "bytes": 70_000})
        self.keeper(wire.DATA, b"l" * 3000)
        for _ in range(3):
            self.pair.clock.advance(2)
            self.pair.pump()
        self.assertEqual((6000, [3000]), (len(talk.output), seen))
        self.assertEqual([("gap", {"bytes": 70_000})], talk.events)

    def test_ends_only_the_viewing(self) -> None:
        """The end of a viewer's link is RESET, which ends its own connection at the keeper."""
        self.viewing({"features": ["view"]})
        self.keeper(wire.OPENED, OPENED)
        self.sent()
        self.pair.cut()
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.RESET, "link-lost"), (kind, json.loads(payload)["code"]))


class LateTests(CourierCase):
    def test_keeper_not_reached(self) -> None:
        """No keeper in time is REFUSED, once, whatever comes after."""
        talk = self.pair.open("exec")
        self.couriers[0].end("overload", "the device's keeper does not answer")
        self.couriers[0].end("lost", "again")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.pair.pump()
        self.assertEqual("overload", self.successResultOf(talk.ended)[0])
        self.assertEqual([], self.sent())
        self.assertEqual(1, len(self.ends))

    def test_keeper_not_reached_after_the_link(self) -> None:
        """A failure to reach the keeper that comes after the link's loss is nobody's news."""
        self.pair.open("exec")
        self.pair.cut()
        self.couriers[0].end("overload", "late")
        self.assertEqual(["link-lost"], [code for _, code, _ in self.ends])

    def test_answer_after_the_link(self) -> None:
        """An OPENED that comes when the link is lost changes nothing: the session is detached."""
        self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.sent()
        self.pair.cut()
        self.keeper(wire.OPENED, OPENED)
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.RESET, "link-lost"), (kind, json.loads(payload)["code"]))

    def test_closed_before_an_answer(self) -> None:
        """A keeper that closes instead of answering is a broken hop: who asked may ask again."""
        talk = self.pair.open("exec")
        self.couriers[0].keeper_side.makeConnection(self.transport)
        self.couriers[0].keeper_side.connectionLost()
        self.pair.pump()
        self.assertEqual("link-lost", self.successResultOf(talk.ended)[0])

    def test_displaced(self) -> None:
        """One whose session a higher attempt has joined hears `duplicate`."""
        talk = self.opened()
        self.couriers[0].displaced = True
        self.couriers[0].keeper_side.connectionLost()
        self.pair.pump()
        self.assertEqual("duplicate", self.successResultOf(talk.ended)[0])


class FrameTests(CourierCase):
    def test_output(self) -> None:
        """Both channels of output arrive, cut to what the operator allows."""
        talk = self.opened(window=2048)
        self.keeper(wire.DATA, b"a" * 5000)
        self.keeper(wire.DATA, b"err", wire.STDERR)
        self.pair.clock.advance(2)
        self.pair.pump()
        self.assertEqual((b"a" * 5000, b"err"), (talk.output, talk.errors))

    def test_large_output(self) -> None:
        """A large frame of the keeper is cut for the link (K11)."""
        talk = self.opened()
        self.keeper(wire.DATA, b"a" * 40_000 + b"b" * 25_504)
        self.keeper(wire.DATA, b"c" * wire.MAX_DATA)
        self.pair.clock.advance(2)
        self.pair.pump()
        want = b"a" * 40_000 + b"b" * 25_504 + b"c" * wire.MAX_DATA
        self.assertEqual((want, b""), (talk.output, talk.errors))

    def test_input_is_cut_for_an_older_keeper(self) -> None:
        """What comes together goes in frames as large as the keeper takes (K11)."""
        for features, sizes in (((), [16_376, 16_376, 7_248]), (("large",), [40_000])):
            self.couriers.clear()
            self.opened(features=features)
            self.couriers[-1].data_received(DataReceived(1, b"x" * 40_000, False, True))
            frames = [(f, p) for kind, f, p in self.sent() if kind == wire.DATA]
            self.assertEqual(sizes, [len(payload) for _, payload in frames])
            self.assertEqual([0] * (len(sizes) - 1) + [wire.EOF], [flags for flags, _ in frames])

    def test_input_and_events_pass_at_once(self) -> None:
        """DATA, end and events of the operator are written to the keeper as they come."""
        talk = self.opened()
        talk.channel.write(b"hello")
        talk.channel.send_event("window", {"rows": 1, "columns": 2}, urgent=True)
        talk.channel.loseConnection()
        frames = self.sent()
        events = [(f, json.loads(p)) for kind, f, p in frames if kind == wire.EVENT]
        self.assertEqual(
            [(wire.URGENT, {"seq": 1, "at": 0, "kind": "window", "rows": 1, "columns": 2})], events
        )
        data = [(f, p) for kind, f, p in frames if kind == wire.DATA]
        self.assertEqual(b"hello", b"".join(p for _, p in data))
        self.assertEqual(wire.EOF, data[-1][0])

    def test_limits_pass_unchanged(self) -> None:
        """The keeper's LIMIT reaches the operator, the operator's the keeper."""
        talk = self.opened()
        talk.channel.write(b"x" * 3000)
        self.assertEqual(1000, sum(len(p) for kind, _, p in self.sent() if kind == wire.DATA))
        self.keeper(wire.LIMIT, wire.OFFSETS.pack(1000, 2500, 0))
        self.assertEqual(1500, sum(len(p) for kind, _, p in self.sent() if kind == wire.DATA))
        self.keeper(wire.DATA, b"y" * 700)
        self.pair.clock.advance(2)
        limits = [wire.OFFSETS.unpack(p) for kind, _, p in self.sent() if kind == wire.LIMIT]
        self.assertEqual([(700, (1 << 18) + 700, 0)], limits)

    def test_reading_is_paused(self) -> None:
        """While the link takes nothing, at most the bound and one read are kept here."""
        talk = self.opened()
        talk.channel.pauseProducing()
        for _ in range(30):
            self.keeper(wire.DATA, b"z" * 16_000)
        self.assertEqual("paused", self.transport.producerState)
        self.assertGreater(self.couriers[0]._queued, QUEUE_BYTES)
        talk.channel.resumeProducing()
        self.pair.pump()
        self.assertEqual("producing", self.transport.producerState)
        self.assertEqual(30 * 16_000, len(talk.output))


class EndTests(CourierCase):
    def outcome(self, seq: int = 1, at: int = 0) -> None:
        body = {"seq": seq, "at": at, "kind": "outcome", "status": "exit", "exit_code": 4}
        self.keeper(wire.EVENT, body)

    def test_outcome(self) -> None:
        """The outcome is passed on; its acknowledgement goes to the keeper and ends all."""
        talk = self.opened()
        self.keeper(wire.DATA, b"last")
        self.outcome(at=4)
        self.assertEqual(("none", ""), self.successResultOf(talk.ended))
        self.assertEqual(4, talk.outcome["exit_code"])
        limits = [wire.OFFSETS.unpack(p) for kind, _, p in self.sent() if kind == wire.LIMIT]
        self.assertEqual(1, limits[-1][2])
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual([(Outcome(status="exit", exit_code=4), "none", "")], self.ends)

    def test_link_lost_detaches(self) -> None:
        """The loss of the link is RESET link-lost to the keeper: the session lives."""
        self.opened()
        self.pair.cut()
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.RESET, "link-lost"), (kind, json.loads(payload)["code"]))
        self.assertTrue(self.transport.disconnecting)

    def test_relayed_loss_detaches(self) -> None:
        """RESET link-lost from the gateway is the same one hop further away."""
        talk = self.opened()
        talk.channel.reset("link-lost", "")
        ((kind, _, payload),) = self.sent()
        self.assertEqual((wire.RESET, "link-lost"), (kind, json.loads(payload)["code"]))

    def test_keeper_hop_breaks(self) -> None:
        """A connection to the keeper that breaks is one more broken hop (R1)."""
        talk = self.opened()
        self.couriers[0].keeper_side.connectionLost()
        self.pair.pump()
        self.assertEqual("link-lost", self.successResultOf(talk.ended)[0])

    def test_keeper_closes_after_the_outcome(self) -> None:
        """A keeper that closes once all is said does not spoil the outcome on its way."""
        talk = self.opened()
        talk.channel.pauseProducing()
        self.outcome()
        self.couriers[0].keeper_side.connectionLost()
        talk.channel.resumeProducing()
        self.pair.pump()
        self.assertEqual(("none", ""), self.successResultOf(talk.ended))

    def test_keeper_breaks_the_protocol(self) -> None:
        """Garbage from the keeper ends this stream, and only this."""
        talk = self.opened()
        self.keeper(wire.EVENT, b"no json")
        self.assertEqual("lost", self.successResultOf(talk.ended)[0])
        self.assertEqual([], self.pair.device_owner.lost)
