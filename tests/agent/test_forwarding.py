"""Unit tests of the handler ``forward``: policy, names, connections and half-closes."""

from __future__ import annotations

import os
import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as LateError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from rshell.interfaces import ICommandHandler
from rshell_agent.handlers.forward import ForwardHandler
from rshell_agent.keeper.targets import MAX_SOCKET_PATH
from rshell_agent.policy import PolicyReport
from tests.agent.forward_fakes import ForwardCase


class TargetTests(ForwardCase):
    """Where connections may go."""

    def test_interface(self) -> None:
        """It is a handler."""
        verifyObject(ICommandHandler, ForwardHandler())

    def test_bad_requests(self) -> None:
        """What makes no sense is refused before anything happens."""
        for request in (
            {},
            {"host": "localhost"},
            {"port": 80},
            {"host": "", "port": 80},
            {"host": "localhost", "port": 0},
            {"host": "localhost", "port": 65536},
            {"host": "localhost", "port": "80"},
            {"host": "localhost", "port": 80, "path": "/x"},
            {"path": "x"},
            {"path": "/" + "x" * MAX_SOCKET_PATH},
            {"path": "/a/../b"},
            {"host": "2130706433", "port": 80},
            {"host": "a b", "port": 80},
            {"accept": "00"},
            {"accept": "0" * 32, "check": True},
            {"drop": True, "path": "/x"},
            {"listen": {}},
            {"listen": {"port": 1, "path": "/x"}},
            {"listen": {"port": 70000}},
            {"listen": {"port": 1, "host": "a b"}},
            {"unknown": 1},
        ):
            call = self.harness.call(request)
            assert call.refused is not None, request
            self.assertEqual("bad-request", call.refused[0], request)
        self.assertEqual([], self.reactor.tcpClients)

    def test_localhost(self) -> None:
        """The device's own name is its own addresses, whatever a resolver would say."""
        for name in ("localhost", "LOCALHOST.", "x.localhost"):
            call = self.call(host=name, port=80)
            self.assertEqual("127.0.0.1", self.reactor.tcpClients[-1][0])
            self.fails(Refused())
            self.assertEqual("::1", self.reactor.tcpClients[-1][0])
            self.fails(Refused())
            self.assertEqual("refused-connection", self.code(call))
        self.assertEqual([], self.asked)

    def test_denied(self) -> None:
        """What policy does not allow is said in words, and nothing is connected or resolved."""
        for host in ("10.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "::"):
            call = self.call(host=host, port=80)
            self.assertEqual("policy", self.code(call))
        call = self.call(host="metadata.example", port=80)
        self.assertEqual("policy", self.code(call))
        assert call.outcome is not None
        assert call.outcome.message is not None
        self.assertIn("does not allow forwarding to metadata.example:80", call.outcome.message)
        self.assertEqual("policy", self.code(self.call(path="/run/docker.sock")))
        self.assertEqual([], self.reactor.tcpClients)
        self.assertEqual([], self.reactor.unixClients)
        self.assertEqual([], self.asked)

    def test_policy_unusable(self) -> None:
        """A policy that cannot be used, or holds what is no rule, allows nothing and says so."""
        self.policy.current = PolicyReport(error="line 3 is wrong")
        call = self.call(host="localhost", port=80)
        self.assertEqual("policy", self.code(call))
        self.allow("localhost")
        call = self.call(host="localhost", port=80)
        self.assertEqual("policy", self.code(call))
        assert call.outcome is not None
        assert call.outcome.message is not None
        self.assertIn("forward: 'localhost'", call.outcome.message)

    def test_rebinding(self) -> None:
        """A name is looked up once: what it is when asked again changes nothing."""
        self.allow("web.example:80")
        self.answers["web.example"] = [["192.0.2.1"], ["127.0.0.1"]]
        call = self.call(host="web.example", port=80)
        self.assertEqual(["192.0.2.1"], [client[0] for client in self.reactor.tcpClients])
        self.connected(call, IPv4Address("TCP", "192.0.2.1", 80))
        self.assertEqual(("connected", {"host": "192.0.2.1", "port": 80}), call.events[0])
        self.assertEqual(["web.example"], self.asked)
        # the second time it leads into the device
        again = self.call(host="web.example", port=80)
        self.assertEqual("policy", self.code(again))
        self.assertEqual(1, len(self.reactor.tcpClients))

    def test_every_address(self) -> None:
        """Of several addresses only those that policy allows are tried, in order."""
        self.allow("*:80")
        self.answers["web.example"] = [["169.254.169.254", "192.0.2.1", "::", "2001:db8::1"]]
        call = self.call(host="web.example", port=80)
        self.fails(Refused())
        self.fails(LateError())
        self.assertEqual("timeout", self.code(call))
        tried = [client[0] for client in self.reactor.tcpClients]
        self.assertEqual(["192.0.2.1", "2001:db8::1"], tried)

    def test_somebody_else(self) -> None:
        """If the peer is not the address that was asked, the connection is broken."""
        call = self.call(host="127.0.0.1", port=80)
        socket = self.connected(call, IPv4Address("TCP", "10.0.0.1", 80))
        self.assertTrue(socket.aborted)
        self.assertEqual("unreachable", self.code(call))

    def test_mapped(self) -> None:
        """An address in IPv6's clothes is connected to as what it is."""
        self.call(host="::ffff:127.0.0.1", port=80)
        self.assertEqual("127.0.0.1", self.reactor.tcpClients[-1][0])

    def test_zone(self) -> None:
        """A link-local address that policy names is connected to with its zone."""
        self.allow("[fe80::/10]:80")
        call = self.call(host="fe80::1%eth0", port=80)
        self.assertEqual("fe80::1%eth0", self.reactor.tcpClients[-1][0])
        self.connected(call, IPv6Address("TCP", "fe80::1", 80))
        self.assertEqual([("connected", {"host": "fe80::1", "port": 80})], call.events)

    def test_unknown_name(self) -> None:
        """A name that is not found is told so; one without usable answer likewise."""
        self.allow("*:80")
        self.assertEqual("not-found", self.code(self.call(host="nowhere.example", port=80)))
        self.answers["odd.example"] = [["garbage"]]
        self.assertEqual("not-found", self.code(self.call(host="odd.example", port=80)))

    def test_failures(self) -> None:
        """Why nothing came about is a code of its own."""
        for error, code in (
            (Refused(), "refused-connection"),
            (LateError(), "timeout"),
            (ConnectError(113, "No route to host"), "unreachable"),
            (ConnectError(110, ""), "timeout"),
            (ConnectError(-2, "Name or service not known"), "unreachable"),  # no such interface
        ):
            call = self.call(host="127.0.0.1", port=80)
            self.fails(error)
            self.assertEqual(code, self.code(call))

    def test_check(self) -> None:
        """A check says whether a connection would be made, and makes none."""
        call = self.call(host="localhost", port=80, check=True)
        assert call.outcome is not None
        self.assertEqual({"addresses": ["127.0.0.1", "::1"]}, call.outcome.result)
        self.assertEqual("policy", self.code(self.call(host="10.0.0.1", port=80, check=True)))
        self.assertEqual([], self.reactor.tcpClients)

    def test_cancelled(self) -> None:
        """Giving up while it connects ends the attempt."""
        call = self.call(host="127.0.0.1", port=80)
        call.cancel()
        self.harness.advance(1)
        self.assertEqual("cancelled", self.code(call))


class SocketPathTests(ForwardCase):
    """Unix sockets as targets."""

    def test_pattern_follows_no_link(self) -> None:
        """A pattern allows the sockets of one folder, not what a link in it leads to."""
        folder = os.path.realpath(self.mktemp())
        os.mkdir(folder)
        directory = os.open(folder, os.O_RDONLY)
        self.addCleanup(os.close, directory)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/real.sock")  # 108 bytes hold no mktemp()
        os.symlink("real.sock", f"{folder}/link.sock")
        with open(f"{folder}/file.sock", "w"):
            pass
        if len(folder) > 90:
            folder = self._short(folder)
        self.allow(f"unix:{folder}/*.sock")
        self.call(path=f"{folder}/real.sock")
        self.assertEqual(f"{folder}/real.sock", self.reactor.unixClients[-1][0])
        for name, code in (("link", "policy"), ("file", "policy"), ("none", "not-found")):
            self.assertEqual(code, self.code(self.call(path=f"{folder}/{name}.sock")), name)
        self.assertEqual(1, len(self.reactor.unixClients))

    def _short(self, folder: str) -> str:
        import tempfile  # only where trial's own folder has a long name

        place = tempfile.mkdtemp(prefix="rsh-")
        link = f"{place}/d"
        os.symlink(folder, link)
        self.addCleanup(os.rmdir, place)
        self.addCleanup(os.unlink, link)
        return link

    def test_carries(self) -> None:
        """A socket's connection is like any other."""
        self.allow("unix:/run/x.sock")
        call = self.call(path="/run/x.sock")
        factory = self.reactor.unixClients[-1][1]
        protocol = factory.buildProtocol(UNIXAddress("/run/x.sock"))
        transport = StringTransport(peerAddress=UNIXAddress("/run/x.sock"))
        protocol.makeConnection(transport)
        self.harness.pump()
        self.assertEqual([("connected", {"path": "/run/x.sock"})], call.events)
        call.write(b"hello")
        self.assertEqual(b"hello", transport.value())


class ConnectionTests(ForwardCase):
    """Bytes, half-closes and ends."""

    def setUp(self) -> None:
        super().setUp()
        self.talk = self.call(host="127.0.0.1", port=80)
        self.socket = self.connected(self.talk)

    def from_target(self, data: bytes) -> None:
        self.socket.protocol.dataReceived(data)
        self.harness.pump()

    def target_ends(self) -> None:
        self.socket.protocol.readConnectionLost()
        self.harness.pump()

    def lost(self, reason: Exception) -> None:
        self.socket.protocol.connectionLost(Failure(reason))
        self.harness.pump()

    def test_both_ways(self) -> None:
        """Bytes pass both ways, and the outcome counts them."""
        self.talk.write(b"hello")
        self.from_target(b"answer")
        self.assertEqual(b"hello", self.socket.value())
        self.assertEqual(b"answer", self.talk.stdout)
        self.talk.write_eof()
        self.target_ends()
        self.assertTrue(self.socket.disconnecting)
        self.assertIsNone(self.talk.outcome)
        self.lost(ConnectionDone())
        assert self.talk.outcome is not None
        self.assertEqual("ok", self.talk.outcome.status)
        self.assertEqual({"received": 6, "sent": 5}, self.talk.outcome.result)

    def test_operator_ends_first(self) -> None:
        """The end of the operator's bytes is the target's, and the answer still comes."""
        self.talk.write(b"question")
        self.talk.write_eof()
        self.assertTrue(self.socket.half_closed)
        self.assertFalse(self.socket.disconnecting)
        self.from_target(b"the answer")
        self.assertEqual(b"the answer", self.talk.stdout)
        self.assertIsNone(self.talk.outcome)

    def test_target_ends_first(self) -> None:
        """The end of the target's bytes is told, and the operator may go on."""
        self.from_target(b"banner")
        self.target_ends()
        self.assertFalse(self.socket.disconnecting)
        self.talk.write(b"more")
        self.assertEqual(b"more", self.socket.value())
        self.assertIsNone(self.talk.outcome)

    def test_reset(self) -> None:
        """A target that breaks the connection is told apart from one that ends it."""
        self.from_target(b"half of")
        self.lost(ConnectionLost())
        self.assertEqual(b"half of", self.talk.stdout)
        self.assertEqual("reset", self.code(self.talk))

    def test_reset_after_half(self) -> None:
        """An end of one direction does not make a break of the other one good."""
        self.target_ends()
        self.lost(ConnectionLost())
        self.assertEqual("reset", self.code(self.talk))

    def test_given_up(self) -> None:
        """An operator who goes resets the target's connection."""
        self.talk.hang_up()
        self.harness.advance(1)
        self.assertTrue(self.socket.aborted)

    def test_nobody_comes_back(self) -> None:
        """After a minute without a link the target's connection is reset."""
        self.talk.cut_link()
        self.harness.advance(59)
        self.assertFalse(self.socket.aborted)
        self.harness.advance(2)
        self.assertTrue(self.socket.aborted)

    def test_slow_operator(self) -> None:
        """While the operator does not read, the target is not read."""
        self.talk.pause()
        for _ in range(20):
            if self.socket.producerState != "producing":
                break
            self.from_target(bytes(65536))
        self.assertEqual("paused", self.socket.producerState)
        self.talk.resume()
        self.assertEqual("producing", self.socket.producerState)

    def test_slow_target(self) -> None:
        """While the target does not read, the operator stalls at the window."""
        assert self.socket.producer is not None
        self.socket.producer.pauseProducing()
        self.talk.write(bytes(2_000_000))
        self.assertEqual(0, len(self.socket.value()))
        self.socket.producer.resumeProducing()
        self.harness.pump()
        self.assertEqual(2_000_000, len(self.socket.value()))
