"""Unit tests of rshell.client's forwards: what an operator writes, and connections that go over."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as NobodyThere
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import Outcome, Refused, RshellError
from rshell.client.forward_connection import BROKEN_HERE, RETRIES, RETRY_SECONDS, ForwardConnection
from rshell.client.forward_specs import Place, parse_place, parse_spec
from rshell.client.forwards import BackForward, Forward
from rshell.link.core.constants import DEFAULT_WINDOW

PEER = IPv4Address("TCP", "127.0.0.1", 5000)
OK = Outcome(status="ok")


class SpecTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """Ports, addresses to bind and paths of sockets, in every combination."""
        for text, listen, target in (
            ("8080:localhost:80", Place("", 8080), Place("localhost", 80)),
            ("0:web:80", Place("", 0), Place("web", 80)),
            ("127.0.0.2:8080:web:80", Place("127.0.0.2", 8080), Place("web", 80)),
            ("*:8080:web:80", Place("*", 8080), Place("web", 80)),
            ("[::1]:8080:[2001:db8::1]:80", Place("::1", 8080), Place("2001:db8::1", 80)),
            ("8080:[fe80::1%eth0]:80", Place("", 8080), Place("fe80::1%eth0", 80)),
            ("2375:/run/docker.sock", Place("", 2375), Place(path="/run/docker.sock")),
            ("localhost:1:/x", Place("localhost", 1), Place(path="/x")),
            ("/a.sock:web:80", Place(path="/a.sock"), Place("web", 80)),
            ("/a.sock:/b.sock", Place(path="/a.sock"), Place(path="/b.sock")),
            ("80:80:80", Place("", 80), Place("80", 80)),
        ):
            spec = parse_spec(text)
            self.assertEqual((listen, target, text), (spec.listen, spec.target, spec.text))
        self.assertEqual(Place("localhost", 22), parse_place("localhost:22"))
        self.assertEqual(Place("::1", 22), parse_place("[::1]:22"))
        self.assertEqual(Place(path="/x"), parse_place("/x"))

    def test_bad_ones(self) -> None:
        """What is none is refused in words."""
        for text in (
            "", ":", "80", "80:", "80:web", "80:web:", "80:web:http", "80:web:0", "80:web:65536",
            "65536:web:80", "x:80:web:80:1", "a:b:web:80", "web:80", "::1:80:web:80", "[::1:80:w:1",
            "80:[::1]x:80", "80::80", ":80:web:80", "80:/x:1", "/x", "/x:1", "/x:/y:1", "80:[]:80",
            "-1:web:80", "\uff18:web:80",
        ):  # fmt: skip
            with self.assertRaises(RshellError, msg=text) as caught:
                parse_spec(text)
            self.assertEqual("bad-request", caught.exception.code)
        for text in ("", "80", "web:", "web:x", "/x:1", "a:b:1", "web:0"):
            with self.assertRaises(RshellError, msg=text):
                parse_place(text)

    @given(st.text("0123456789:[]/.*ax%-", max_size=40))
    def test_any_text(self, text: str) -> None:
        """Any text is a forward, or refused."""
        for parse in (parse_spec, parse_place):
            try:
                parse(text)
            except RshellError as error:
                self.assertEqual("bad-request", error.code)

    def test_other_scripts(self) -> None:
        """Names in any script go to the device as resolvers know them."""
        self.assertEqual(
            {"host": "xn--bcher-kva.example", "port": 80},
            Place("B\u00fccher.example", 80).request,
        )
        with self.assertRaises(RshellError):
            Place("\u2603\ufe0f..", 80).request  # noqa: B018  # it computes

    def test_shown(self) -> None:
        """A place is shown as it is written."""
        for text in ("localhost:80", "[::1]:80", "/run/x"):
            self.assertEqual(text, str(parse_place(text)))


class Session:
    """A session that does what the test says."""

    def __init__(self, request: dict[str, Any], receiver: Any) -> None:
        self.request, self.receiver = request, receiver
        self.written = b""
        self.ended = self.aborted = self.paused = False
        self.output_ended: Any = None
        self.link_changed: Any = None
        self.producer: Any = None
        self.outcome: Deferred[Outcome] = Deferred()

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.over(Outcome(status="lost", code="cancelled"))

    def over(self, outcome: Outcome) -> None:
        if not self.outcome.called:
            self.outcome.callback(outcome)


class Gateway:
    """Stands for a client."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.windows: list[int] = []
        self.refusal: RshellError | None = None

    def open(
        self, device: str, handler: str, request: dict[str, Any], receiver: Any, window: int
    ) -> Session:
        if self.refusal is not None:
            raise self.refusal
        assert (device, handler) == ("pump-1", "forward")
        self.windows.append(window)
        self.sessions.append(Session(request, receiver))
        return self.sessions[-1]


class Local(StringTransport):
    """A local connection."""

    half_closed = aborted = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True


class Watcher:
    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    def connection_begun(self, connection: Any) -> None:
        self.begun.append(connection)

    def connection_over(self, connection: Any) -> None:
        self.ended.append((connection.number, connection.outcome.status, connection.outcome.code))

    def link_changed(self, away: Any) -> None:
        """Nothing is shown."""


class ForwardCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.gateway: Any = Gateway()
        self.watcher = Watcher()

    def over(self, local: Local, reason: Exception | None = None) -> None:
        local.protocol.connectionLost(Failure(reason or ConnectionDone()))


class ForwardTests(ForwardCase):
    def setUp(self) -> None:
        super().setUp()
        self.forward = Forward(
            self.gateway,
            self.reactor,
            "pump-1",
            Place("web", 80),
            watcher=self.watcher,
            max_connections=2,
        )
        endpoint = TCP4ServerEndpoint(self.reactor, 8080, interface="127.0.0.1")
        listening = Deferred.fromCoroutine(self.forward.listen(endpoint))
        self.place = self.successResultOf(listening)
        self.port = self.forward._port
        self.port.stopReading = lambda: self.reading.append(False)
        self.port.startReading = lambda: self.reading.append(True)
        self.reading: list[bool] = []

    def comes(self) -> Local:
        local = Local(peerAddress=PEER)
        local.protocol = self.reactor.tcpServers[0][1].buildProtocol(PEER)
        local.protocol.makeConnection(local)
        return local

    def talking(self) -> tuple[Local, Session]:
        local = self.comes()
        session: Session = self.gateway.sessions[-1]
        session.receiver.session_opened()
        return local, session

    def test_bytes(self) -> None:
        """Each connection is a session for the target; its bytes pass both ways."""
        local, session = self.talking()
        self.assertEqual({"host": "web", "port": 80}, session.request)
        self.assertEqual("producing", local.producerState)
        local.protocol.dataReceived(b"hello")
        session.receiver.output_received(b"answer", False)
        self.assertEqual((b"hello", b"answer"), (session.written, local.value()))
        self.assertEqual("127.0.0.1:5000", self.watcher.begun[0].peer)

    def test_ends(self) -> None:
        """Each direction ends by itself; the outcome closes what is left once all is written."""
        local, session = self.talking()
        local.protocol.readConnectionLost()
        self.assertTrue(session.ended)
        session.output_ended()
        self.assertTrue(local.half_closed)
        self.assertFalse(local.disconnecting)
        session.over(OK)
        self.assertTrue(local.disconnecting)
        self.assertEqual([], self.watcher.ended)
        self.over(local)
        self.assertEqual([(1, "ok", None)], self.watcher.ended)
        self.assertEqual(0, self.forward.connections)

    def test_failure(self) -> None:
        """A session that fails resets the local connection."""
        for outcome in (
            Outcome(status="error", code="reset"),
            Outcome(status="lost", code="link-lost"),
            Outcome(status="refused", code="policy"),
        ):
            local, session = self.talking()
            session.over(outcome)
            self.assertTrue(local.aborted)
            self.over(local, ConnectionLost())
            self.assertEqual((outcome.status, outcome.code), self.watcher.ended[-1][1:])

    def test_broken_here(self) -> None:
        """A local connection that breaks ends the session, and is no failure of the forward."""
        local, session = self.talking()
        self.over(local, ConnectionLost())
        self.assertTrue(session.aborted)
        self.assertEqual([(1, "error", BROKEN_HERE)], self.watcher.ended)

    def test_pacing(self) -> None:
        """Each end is paused for the other."""
        local, session = self.talking()
        session.producer.pauseProducing()
        self.assertEqual("paused", local.producerState)
        session.producer.resumeProducing()
        self.assertEqual("producing", local.producerState)
        assert local.producer is not None
        local.producer.pauseProducing()
        self.assertTrue(session.paused)
        local.producer.resumeProducing()
        self.assertFalse(session.paused)

    def test_limit(self) -> None:
        """Beyond the limit nothing is accepted; what was accepted already waits, unread."""
        first, second, third = self.comes(), self.comes(), self.comes()
        self.assertEqual([False], self.reading)
        self.assertEqual(2, len(self.gateway.sessions))
        self.assertEqual("paused", third.producerState)
        self.over(first)
        self.assertEqual(3, len(self.gateway.sessions))
        self.assertEqual("producing", third.producerState)
        self.assertEqual([False], self.reading)
        self.over(second)
        self.assertEqual([False, True], self.reading)

    def test_waiting_goes(self) -> None:
        """One that goes while it waits never has a session."""
        self.comes(), self.comes()
        third = self.comes()
        self.over(third)
        self.forward._slots.remove(self.watcher.begun[0], self.forward._begin)
        self.assertEqual(2, len(self.gateway.sessions))

    def test_device_full(self) -> None:
        """A device whose link is full is asked again, with what was sent meanwhile."""
        local = self.comes()
        local.protocol.dataReceived(b"early")
        local.protocol.readConnectionLost()
        self.gateway.sessions[-1].over(Outcome(status="refused", code="streams"))
        self.assertEqual("paused", local.producerState)
        self.assertFalse(local.aborted)
        self.reactor.advance(RETRY_SECONDS)
        session = self.gateway.sessions[-1]
        self.assertEqual(
            (2, b"early", True), (len(self.gateway.sessions), session.written, session.ended)
        )
        session.receiver.session_opened()
        session.over(OK)
        self.assertTrue(local.disconnecting)

    def test_device_full_for_long(self) -> None:
        """In the end that is a failure like any other."""
        local = self.comes()
        full = Outcome(status="refused", code="streams")
        for _ in range(RETRIES):
            self.gateway.sessions[-1].over(full)
            self.reactor.advance(RETRY_SECONDS)
        self.assertFalse(local.aborted)
        self.gateway.sessions[-1].over(full)
        self.assertTrue(local.aborted)

    def test_leaves_while_full(self) -> None:
        """Who leaves while it waits for room is not asked for again."""
        local = self.comes()
        self.gateway.sessions[-1].over(Outcome(status="refused", code="overload"))
        self.over(local, ConnectionLost())
        self.reactor.advance(10 * RETRY_SECONDS)
        self.assertEqual(1, len(self.gateway.sessions))
        self.assertEqual([(1, "error", BROKEN_HERE)], self.watcher.ended)

    def test_no_link(self) -> None:
        """If there is and will be no link, the connection is reset and told."""
        self.gateway.refusal = Refused("revoked", "you are revoked", "")
        local = self.comes()
        self.assertTrue(local.aborted)
        self.over(local, ConnectionLost())
        self.assertEqual([(1, "refused", "revoked")], self.watcher.ended)

    def test_windows(self) -> None:
        """Of many connections each has a smaller window, so that the device keeps less."""
        forward = Forward(self.gateway, self.reactor, "pump-1", Place("w", 1), max_connections=500)
        for number in range(300):
            local = Local(peerAddress=PEER)
            connection = ForwardConnection(forward, number)
            connection.makeConnection(local)
        windows = self.gateway.windows
        self.assertEqual(DEFAULT_WINDOW, windows[0])
        self.assertEqual(16 * 1024, windows[-1])
        self.assertLess(sum(windows), 20 * 1024 * 1024)

    def test_close(self) -> None:
        """Closing breaks everything, waiting ones too."""
        local, session = self.talking()
        others = [self.comes(), self.comes()]
        self.successResultOf(Deferred.fromCoroutine(self.forward.close()))
        self.assertTrue(session.aborted)
        self.assertTrue(all(one.aborted for one in (local, *others)))

    def test_check(self) -> None:
        """A check asks the device, and raises what it answers."""
        asking = Deferred.fromCoroutine(self.forward.check())
        session = self.gateway.sessions[-1]
        self.assertEqual({"host": "web", "port": 80, "check": True}, session.request)
        session.over(Outcome(status="refused", code="policy", message="its policy says no"))
        error = self.failureResultOf(asking, RshellError).value
        self.assertEqual(("policy", "pump-1: its policy says no"), (error.code, error.message))


class BackTests(ForwardCase):
    def setUp(self) -> None:
        super().setUp()
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", 3000)
        self.forward = BackForward(
            self.gateway,
            self.reactor,
            "pump-1",
            Place("", 9000),
            endpoint,
            watcher=self.watcher,
            max_connections=2,
        )
        self.failed: list[Any] = []
        self.forward.failed = lambda number, peer, outcome: self.failed.append(
            (number, peer, outcome.code)
        )
        self.listening = Deferred.fromCoroutine(self.forward.listen())
        self.control: Session = self.gateway.sessions[0]

    def listens(self) -> None:
        self.control.receiver.event_received("listening", {"host": "127.0.0.1", "port": 9000})
        self.assertEqual(Place("127.0.0.1", 9000), self.successResultOf(self.listening))

    def comes(self, number: int) -> None:
        body = {"id": f"{number:032x}", "host": "127.0.0.1", "port": number}
        self.control.receiver.event_received("connection", body)

    def answered(self, number: int) -> Local:
        """Our side takes the connection."""
        local = Local(peerAddress=PEER)
        local.protocol = self.reactor.tcpClients[number][2].buildProtocol(PEER)
        local.protocol.makeConnection(local)
        return local

    def test_taken_over(self) -> None:
        """A connection is made here first, then taken over by its id."""
        self.assertEqual({"listen": {"host": "localhost", "port": 9000}}, self.control.request)
        self.listens()
        self.comes(7)
        self.assertEqual(1, len(self.gateway.sessions))
        local = self.answered(0)
        session = self.gateway.sessions[1]
        self.assertEqual({"accept": f"{7:032x}"}, session.request)
        session.receiver.session_opened()
        session.receiver.output_received(b"hello", False)
        self.assertEqual(b"hello", local.value())

    def test_nobody_here(self) -> None:
        """If nobody answers here, the device is told to drop it."""
        self.listens()
        self.comes(7)
        self.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(NobodyThere()))
        self.assertEqual([(1, "127.0.0.1:7", "unreachable")], self.failed)
        session = self.gateway.sessions[1]
        self.assertEqual({"accept": f"{7:032x}", "drop": True}, session.request)

    def test_limit(self) -> None:
        """Beyond the limit connections wait on the device."""
        self.listens()
        for number in (1, 2, 3):
            self.comes(number)
        self.assertEqual(2, len(self.reactor.tcpClients))
        local = self.answered(0)
        self.over(local)
        self.assertEqual(3, len(self.reactor.tcpClients))

    def test_nonsense(self) -> None:
        """Events that make no sense are ignored."""
        self.listens()
        for body in ({}, {"id": 7}, {"id": "xyz"}, {"id": "0" * 32, "port": "x"}):
            self.control.receiver.event_received("connection", body)
        self.control.receiver.event_received("listening", {"host": 7, "port": -1})
        self.assertEqual([], self.reactor.tcpClients)

    def test_denied(self) -> None:
        """A device that will not listen is an error."""
        self.control.over(Outcome(status="refused", code="policy", message="no"))
        error = self.failureResultOf(self.listening, RshellError).value
        self.assertEqual("policy", error.code)

    def test_over(self) -> None:
        """When the device listens no more, that is told."""
        self.listens()
        ended = self.forward.ended
        self.control.over(Outcome(status="refused", code="policy", message="no more"))
        self.assertEqual("policy", self.successResultOf(ended).code)

    def test_close(self) -> None:
        """Closing ends the listener, connections and those being made."""
        self.listens()
        self.comes(1)
        local = self.answered(0)
        self.comes(2)
        self.successResultOf(Deferred.fromCoroutine(self.forward.close()))
        self.assertTrue(self.control.aborted)
        self.assertTrue(local.aborted)
        self.assertEqual([], self.failed)
