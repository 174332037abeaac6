"""Unit tests of the handler ``forward``: the device listens for an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from rshell.testing import HandlerCall
from rshell_agent.listening import MAX_LISTENERS, MAX_PENDING, PENDING_SECONDS
from rshell_agent.policy import FRESH_SECONDS, PolicyReport
from tests.agent.forward_fakes import ForwardCase, Port, Socket


@attrs.define
class Listener:
    """A listener that was asked for."""

    call: HandlerCall
    port: Port
    factory: Any

    def comes(self, host: str = "127.0.0.1", port: int = 5000) -> Socket:
        """Somebody connects."""
        peer = IPv4Address("TCP", host, port)
        socket = Socket(peer)
        socket.protocol = self.factory.buildProtocol(peer)
        socket.protocol.makeConnection(socket)
        return socket


class ListeningTests(ForwardCase):
    """Connections that come to the device."""

    def setUp(self) -> None:
        super().setUp()
        self.allow(back=["localhost:8000-8002"])
        self.taken: set[int] = set()
        self.bound: list[tuple[str, int]] = []
        self.reactor.listenTCP = self._listen

    def _listen(self, port: int, factory: Any, backlog: int, interface: str) -> Any:
        if port in self.taken:
            raise OSError(98, "Address already in use")
        self.bound.append((interface, port))
        listening: Any = Port()
        listening.getHost = lambda: IPv4Address("TCP", interface, port)
        listening.factory = factory
        self.newest = listening
        return listening

    def listen(self, port: int = 8000, **options: Any) -> Listener:
        call = self.harness.call({"listen": {"port": port}}, **options)
        return Listener(call, self.newest, self.newest.factory)

    def ids(self, call: HandlerCall) -> list[str]:
        return [body["id"] for kind, body in call.events if kind == "connection"]

    def test_default(self) -> None:
        """Without a rule that names it a device listens nowhere."""
        self.allow("localhost:*", "*:*")
        call = self.harness.call({"listen": {"port": 8000}})
        self.assertEqual("policy", self.code(call))
        self.assertEqual([], self.bound)

    def test_places(self) -> None:
        """Only the addresses and ports of the policy; 0 is the first one that is free."""
        for place in (
            {"port": 9000},
            {"host": "*", "port": 8000},
            {"host": "10.0.0.1", "port": 8000},
        ):
            self.assertEqual("policy", self.code(self.harness.call({"listen": place})))
        self.taken = {8000}
        listener = self.listen(0)
        self.assertEqual([("127.0.0.1", 8001)], self.bound)
        self.assertEqual([("listening", {"host": "127.0.0.1", "port": 8001})], listener.call.events)
        self.taken = {8000, 8001, 8002}
        self.assertEqual("in-use", self.code(self.harness.call({"listen": {"port": 8000}})))
        self.assertEqual("in-use", self.code(self.harness.call({"listen": {"port": 0}})))

    def test_taken_over(self) -> None:
        """A connection waits unread, is announced, and goes on by its id."""
        listener = self.listen()
        socket = listener.comes("127.0.0.1", 5001)
        self.harness.pump()
        self.assertEqual("paused", socket.producerState)
        kind, body = listener.call.events[-1]
        self.assertEqual("connection", kind)
        self.assertEqual(("127.0.0.1", 5001), (body["host"], body["port"]))
        talk = self.harness.call({"accept": body["id"]})
        self.assertEqual("producing", socket.producerState)
        socket.protocol.dataReceived(b"hello")
        talk.write(b"answer")
        self.assertEqual(b"hello", talk.stdout)
        self.assertEqual(b"answer", socket.value())
        # once only
        self.assertEqual("not-found", self.code(self.harness.call({"accept": body["id"]})))
        self.reactor.advance(PENDING_SECONDS * 2)
        self.assertFalse(socket.aborted)

    def test_somebody_elses(self) -> None:
        """Nobody takes over what came for another operator, or what never came."""
        listener = self.listen()
        socket = listener.comes()
        self.harness.pump()
        (id,) = self.ids(listener.call)
        stolen = self.harness.call({"accept": id}, operator="eve")
        self.assertEqual("not-found", self.code(stolen))
        self.assertEqual("not-found", self.code(self.harness.call({"accept": "0" * 32})))
        self.assertFalse(socket.aborted)

    def test_nobody_asks(self) -> None:
        """What nobody asks for within 30 s is reset; what is declined, at once."""
        listener = self.listen()
        waiting, declined = listener.comes(), listener.comes()
        self.harness.pump()
        dropped = self.harness.call({"accept": self.ids(listener.call)[1], "drop": True})
        assert dropped.outcome is not None
        self.assertEqual("ok", dropped.outcome.status)
        self.assertTrue(declined.aborted)
        self.reactor.advance(PENDING_SECONDS - 0.1)
        self.assertFalse(waiting.aborted)
        self.reactor.advance(0.2)
        self.assertTrue(waiting.aborted)

    def test_many_wait(self) -> None:
        """At 256 that wait nothing more is accepted, until some have gone."""
        listener = self.listen()
        for number in range(MAX_PENDING):
            self.assertTrue(listener.port.reading, number)
            listener.comes()
        self.assertFalse(listener.port.reading)
        self.reactor.advance(PENDING_SECONDS)
        self.assertTrue(listener.port.reading)

    def test_peer_goes(self) -> None:
        """A connection that ends while it waits is forgotten."""
        listener = self.listen()
        socket = listener.comes()
        self.harness.pump()
        socket.protocol.connectionLost(Failure(ConnectionLost()))
        (id,) = self.ids(listener.call)
        self.assertEqual("not-found", self.code(self.harness.call({"accept": id})))

    def test_peers_come_and_go(self) -> None:
        """Connections that end at once do not pile up announcements that nobody hears."""
        listener = self.listen()
        came = 0
        for _ in range(120):  # as long as an operator's link may be away
            while listener.port.reading:
                listener.comes().protocol.connectionLost(Failure(ConnectionLost()))
                came += 1
            self.reactor.advance(0.5)
        self.assertLess(came, 3 * MAX_PENDING + 1)
        self.assertIsNone(listener.call.outcome)
        self.harness.pump()
        for id in self.ids(listener.call)[-MAX_PENDING:]:
            self.harness.call({"accept": id, "drop": True})
        self.assertTrue(listener.port.reading)

    def test_policy_changes(self) -> None:
        """A listener that policy no longer allows ends within moments; its connections go on."""
        listener = self.listen()
        taken, waiting = listener.comes(), listener.comes()
        self.harness.pump()
        talk = self.harness.call({"accept": self.ids(listener.call)[0]})
        self.reactor.advance(FRESH_SECONDS)
        self.harness.pump()
        self.assertTrue(listener.port.open)
        self.allow(back=["localhost:9000"])
        self.reactor.advance(FRESH_SECONDS)
        self.harness.pump()
        self.assertFalse(listener.port.open)
        self.assertEqual("policy", self.code(listener.call))
        self.assertTrue(waiting.aborted)
        self.assertFalse(taken.aborted)
        self.assertIsNone(talk.outcome)

    def test_handler_forbidden(self) -> None:
        """A listener ends when policy forbids the handler itself, or cannot be read."""
        for current in (
            attrs.evolve(self.policy.current, handlers=frozenset()),
            PolicyReport(error="gone"),
        ):
            self.allow(back=["localhost:8000"])
            listener = self.listen()
            self.policy.current = current
            self.reactor.advance(FRESH_SECONDS)
            self.harness.pump()
            self.assertFalse(listener.port.open)
            self.assertEqual("policy", self.code(listener.call))

    def test_session_ends(self) -> None:
        """A listener ends with its session, also when nobody comes back to it."""
        leaves: list[Callable[[Listener], None]] = [
            lambda listener: listener.call.hang_up(),
            lambda listener: listener.call.cut_link(),
        ]
        for leave in leaves:
            listener = self.listen()
            waiting = listener.comes()
            leave(listener)
            self.harness.advance(61)
            self.assertFalse(listener.port.open)
            self.assertTrue(waiting.aborted)

    def test_so_many(self) -> None:
        """A device listens at 32 places at most."""
        for _ in range(MAX_LISTENERS):
            self.listen()
        call = self.harness.call({"listen": {"port": 8000}})
        self.assertEqual("overload", self.code(call))
