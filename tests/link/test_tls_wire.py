"""TLS under a link: every cut of its bytes, every end, and who is asked for more when."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    ISystemHandle,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from rshell.link.dialling import LinkEndpoint
from rshell.link.read_size import LARGE, SMALL
from rshell.link.sockets import tcp_socket_of, wrap_tls
from tests.functional.processes import require
from tests.identity.dev_fleet import client_tls, fleet, gateway_tls
from tests.link.wires import Inside, MemoryTcp, Producer, WirePair

REACTOR: Any = reactor  # trial's own; the product never imports one
RECORD = 16_384


class WireCase(SynchronousTestCase):
    def pair(self, *, sockets: bool = False, shaken: bool = True) -> WirePair:
        """Return two wires whose handshake is complete."""
        pair = WirePair(sockets=sockets)
        self.addCleanup(pair.free)
        if shaken:
            pair.carry()
            self.assertEqual([inside.shaken for inside in pair.inside], [1, 1])
        return pair

    def lost(self, inside: Inside) -> BaseException:
        """Return why a side's connection is over; it heard so once."""
        (reason,) = inside.lost
        value: BaseException = reason.value
        return value


class BytesTests(WireCase):
    @given(
        st.lists(st.binary(min_size=1, max_size=40_000), max_size=4),
        st.lists(st.binary(min_size=1, max_size=300), max_size=4),
        st.integers(200, 40_000),
        st.booleans(),
    )
    def test_any_cut(self, down: list[bytes], up: list[bytes], size: int, sockets: bool) -> None:
        """Whatever the writes, and however TCP cuts them, the same bytes arrive in order."""
        pair = WirePair(sockets=sockets)
        try:

            def cut(data: bytes) -> list[bytes]:
                return [data[start : start + size] for start in range(0, len(data), size)]

            pair.carry(cut)
            for data in up:
                pair.wires[0].write(data)
            for data in down:
                pair.wires[1].writeSequence([data[:7], data[7:]])
            pair.carry(cut)
            self.assertEqual(pair.inside[1].got, b"".join(up))
            self.assertEqual(pair.inside[0].got, b"".join(down))
        finally:
            pair.free()

    def test_byte_by_byte(self) -> None:
        """The handshake and what follows survive a TCP that delivers single bytes."""
        pair = self.pair(shaken=False)
        pair.wires[0].write(b"written before the handshake")
        pair.carry(lambda data: [data[at : at + 1] for at in range(len(data))])
        self.assertEqual(pair.inside[1].got, b"written before the handshake")

    def test_joined(self) -> None:
        """What one read brings is delivered in one call, however many records it holds."""
        pair = self.pair()
        for letter in (b"a", b"b", b"c"):
            pair.wires[0].write(letter * RECORD)
        pair.carry()
        self.assertEqual((len(pair.inside[1].got), pair.inside[1].calls), (3 * RECORD, 1))

    def test_interfaces(self) -> None:
        """It is a transport, a consumer and a producer, and tells TCP's addresses."""
        pair = self.pair()
        for interface in (ITransport, IConsumer, IPushProducer, ISystemHandle):
            self.assertTrue(verifyObject(interface, pair.wires[0]))
        self.assertEqual((pair.wires[0].getPeer(), pair.wires[0].getHost()), ("peer", "host"))
        pair.wires[0].pauseProducing()
        self.assertFalse(pair.tcp[0].reading)
        pair.wires[0].resumeProducing()
        self.assertTrue(pair.tcp[0].reading)
        self.assertEqual(tcp_socket_of(pair.wires[0]), (pair.tcp[0], None))


class EndTests(WireCase):
    def test_goodbye(self) -> None:
        """A goodbye is answered; both sides end cleanly, and what was written before arrives."""
        pair = self.pair()
        pair.wires[0].write(b"last")
        pair.wires[0].loseConnection()
        pair.wires[0].write(b"too late")
        pair.carry()
        self.assertEqual([tcp.closing for tcp in pair.tcp], ["lost", "lost"])
        pair.close()
        self.assertEqual(pair.inside[1].got, b"last")
        for inside in pair.inside:
            self.assertIsInstance(self.lost(inside), ConnectionDone)
        self.assertIsNone(pair.wires[0].getHandle())

    def test_half_closed(self) -> None:
        """After our goodbye the peer's bytes are still delivered."""
        pair = self.pair()
        pair.wires[1].write(b"on its way")
        pair.wires[0].loseConnection()
        pair.carry()
        self.assertEqual(pair.inside[0].got, b"on its way")

    def test_goodbye_waits_for_the_producer(self) -> None:
        """With a producer the goodbye follows its last bytes."""
        pair = self.pair(sockets=True)
        pair.wires[0].registerProducer(Producer(), True)
        pair.wires[0].loseConnection()
        self.assertEqual(pair.tcp[0].take(), b"")
        pair.wires[0].write(b"more")
        pair.wires[0].unregisterProducer()
        pair.carry()
        self.assertEqual(pair.inside[1].got, b"more")
        self.assertEqual(pair.tcp[1].closing, "lost")

    def test_peer_leaves_a_producer(self) -> None:
        """The peer's goodbye closes TCP also while a producer is registered, which is stopped."""
        for sockets in (False, True):
            pair = self.pair(sockets=sockets)
            producer = Producer()
            pair.wires[0].registerProducer(producer, True)
            pair.wires[1].loseConnection()
            pair.carry()
            self.assertEqual((pair.tcp[0].closing, pair.tcp[0].producer), ("lost", None))
            self.assertEqual(producer.told, ["stop"])
            pair.wires[0].write(b"nobody hears this")
            pair.wires[0].unregisterProducer()

    def test_cut(self) -> None:
        """TCP that ends without the goodbye of TLS is told from a clean end."""
        pair = self.pair()
        pair.wires[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(self.lost(pair.inside[0]), ConnectionLost)

    def test_cut_in_the_handshake(self) -> None:
        """So is one that ends in the middle of the handshake, at any byte."""
        flight = self.pair(shaken=False).tcp[0].take()
        for at in range(0, len(flight), 97):
            pair = self.pair(shaken=False)
            pair.wires[1].dataReceived(flight[:at] or b"\x16")
            pair.wires[1].connectionLost(Failure(ConnectionDone()))
            self.assertIsInstance(self.lost(pair.inside[1]), (ConnectionLost, SSL.Error))
            self.assertEqual(pair.inside[1].shaken, 0)

    @given(st.binary(min_size=6, max_size=200))
    def test_garbage_at_first(self, garbage: bytes) -> None:
        """Bytes that are no TLS end the connection with OpenSSL's reason, or wait for more."""
        pair = WirePair()
        pair.wires[1].dataReceived(b"G" + garbage)
        pair.wires[1].connectionLost(Failure(ConnectionDone()))
        self.assertEqual(pair.inside[1].got, b"")
        self.assertIsInstance(self.lost(pair.inside[1]), (ConnectionLost, SSL.Error))

    @given(st.data())
    def test_flipped(self, data: st.DataObject) -> None:
        """One wrong bit after the handshake ends the connection; nothing wrong is delivered."""
        pair = WirePair()
        pair.carry()
        pair.wires[0].write(b"x" * 100)
        sent = bytearray(pair.tcp[0].take())
        at = data.draw(st.integers(5, len(sent) - 1))
        sent[at] ^= 1 << data.draw(st.integers(0, 7))
        pair.wires[1].dataReceived(bytes(sent))
        self.assertEqual((pair.inside[1].got, pair.tcp[1].closing), (b"", "lost"))
        pair.wires[1].dataReceived(b"more of it")
        pair.close()
        self.assertIsInstance(self.lost(pair.inside[1]), SSL.Error)

    def test_abort(self) -> None:
        """An abort sends nothing more, not even a goodbye, and nothing more is delivered."""
        for sockets in (False, True):
            pair = self.pair(sockets=sockets)
            pair.wires[1].write(b"on its way")
            pair.wires[0].abortConnection()
            pair.wires[0].write(b"never")
            pair.wires[0].dataReceived(pair.tcp[1].take())
            self.assertEqual((pair.tcp[0].take(), pair.tcp[0].closing), (b"", "aborted"))
            pair.wires[0].connectionLost(Failure(ConnectionAborted()))
            self.assertEqual(pair.inside[0].got, b"")
            self.assertIsInstance(self.lost(pair.inside[0]), ConnectionAborted)

    def test_abort_while_delivering(self) -> None:
        """Who aborts on what it hears hears nothing else."""
        pair = self.pair()
        pair.inside[1].on_data = lambda data: pair.wires[1].abortConnection()
        pair.wires[0].write(b"one")
        pair.wires[0].loseConnection()
        pair.carry()
        self.assertEqual((pair.inside[1].got, pair.tcp[1].closing), (b"one", "aborted"))

    def test_abort_at_the_handshake(self) -> None:
        """Who aborts on seeing who the peer is hears nothing of what came with it."""
        pair = self.pair(shaken=False)
        pair.inside[1].on_handshake = pair.wires[1].abortConnection
        pair.wires[0].write(b"with the last of the handshake")
        pair.carry()
        self.assertEqual([inside.shaken for inside in pair.inside], [1, 1])
        self.assertEqual((pair.inside[1].got, pair.tcp[1].closing), (b"", "aborted"))

    def test_closed_before_the_handshake(self) -> None:
        """Without a handshake there is nobody to say goodbye to."""
        pair = self.pair(shaken=False)
        pair.tcp[1].take()
        pair.wires[1].loseConnection()
        self.assertEqual((pair.tcp[1].take(), pair.tcp[1].closing), (b"", "aborted"))

    def test_too_much_before_the_handshake(self) -> None:
        """What is written before the handshake is complete is bounded."""
        pair = self.pair(shaken=False)
        for _ in range(17):
            pair.wires[0].write(bytes(64 * 1024))
        self.assertEqual(pair.tcp[0].closing, "aborted")

    def test_refused(self) -> None:
        """A client that does not trust the server ends with its own reason, and tells why."""
        pair = self.pair(shaken=False)
        creator: Any = gateway_tls("device-1")
        factory = wrap_tls(creator, client=False, factory=Factory.forProtocol(Inside))
        server: Any = factory.buildProtocol(None)
        tcp = MemoryTcp()
        server.makeConnection(tcp)
        server.dataReceived(pair.tcp[0].take())
        pair.wires[0].dataReceived(tcp.take())
        self.assertEqual(pair.tcp[0].closing, "lost")
        self.assertTrue(pair.tcp[0].take().startswith(b"\x15"), "an alert")
        pair.wires[0].connectionLost(Failure(ConnectionDone()))
        self.assertIn("not meant for", str(self.lost(pair.inside[0])))


class QueueTests(WireCase):
    """With a socket: what goes to the kernel, and who is asked for more."""

    def test_direct(self) -> None:
        """Each write is one send, at once; nobody waits in the transport."""
        pair = self.pair(sockets=True)
        sock = pair.tcp[0].sock
        assert sock is not None
        sock.sends = 0
        pair.wires[0].write(b"key")
        pair.wires[0].write(bytes(4 * RECORD))
        self.assertEqual((sock.sends, pair.tcp[0].queue, pair.tcp[0].asked), (2, b"", False))

    @given(st.lists(st.integers(0, 30_000), min_size=1, max_size=8))
    def test_slow_kernel(self, rooms: list[int]) -> None:
        """A kernel that takes pieces gets the same bytes, and the producer waits meanwhile."""
        pair = WirePair(sockets=True)
        pair.carry()
        tcp, sock, producer = pair.tcp[0], pair.tcp[0].sock, Producer()
        assert sock is not None
        pair.wires[0].registerProducer(producer, True)
        payload = bytes(range(256)) * 160
        sock.room = rooms[0]
        pair.wires[0].write(payload)
        self.assertEqual(producer.told, ["pause"])
        pair.wires[0].write(b"the last words go behind")
        for room in [*rooms[1:], 1 << 20]:
            sock.room = room
            tcp.ready()
        self.assertEqual(producer.told, ["pause", "resume"])
        sent, sock.taken = sock.taken, b""
        pair.wires[1].dataReceived(sent)
        self.assertEqual(pair.inside[1].got, payload + b"the last words go behind")
        pair.free()

    def test_unsent(self) -> None:
        """While the kernel has something unsent the producer waits until it wants more."""
        pair = self.pair(sockets=True)
        tcp, producer = pair.tcp[0], Producer()
        unsent = [1]
        pair.factories[0].unsent = lambda sock: unsent[0]
        pair.wires[0].registerProducer(producer, True)
        pair.wires[0].write(bytes(RECORD))
        self.assertEqual((producer.told, tcp.asked, tcp.queue), (["pause"], True, b""))
        unsent[0] = 0
        tcp.ready()
        pair.wires[0].write(bytes(RECORD))
        self.assertEqual((producer.told, tcp.asked), (["pause", "resume"], False))

    def test_small_writes(self) -> None:
        """Of keys the kernel is asked now and then; while it has them unsent, each time."""
        pair = self.pair(sockets=True)
        tcp, producer = pair.tcp[0], Producer()
        unsent, asked = [0], [0]

        def ask(sock: socket.socket) -> int:
            asked[0] += 1
            return unsent[0]

        pair.factories[0].unsent = ask
        pair.wires[0].registerProducer(producer, True)
        pair.wires[0].write(bytes(2000))
        self.assertEqual(asked, [1])
        for _ in range(100):
            pair.wires[0].write(b"k")
        self.assertEqual((asked, producer.told), ([3], []))
        unsent[0] = 1
        while not producer.told:
            pair.wires[0].write(b"k")
        self.assertEqual((asked, producer.told), ([4], ["pause"]))
        tcp.ready()
        pair.wires[0].write(b"k")
        self.assertEqual((asked, producer.told), ([5], ["pause", "resume", "pause"]))

    def test_read_size(self) -> None:
        """A link that is silent reads little at once, until more comes or goes."""
        pair = self.pair(sockets=True)
        wire, tcp = pair.wires[1], pair.tcp[1]
        wire.write(b"tickets of the handshake go with this")
        pair.carry()
        for more in (lambda: pair.wires[0].write(bytes(600)), lambda: wire.write(bytes(600))):
            wire.idle()
            self.assertEqual(tcp.bufferSize, SMALL)
            pair.wires[0].write(b"a heartbeat")
            pair.carry()
            self.assertEqual(tcp.bufferSize, SMALL)
            more()
            pair.carry()
            self.assertEqual(tcp.bufferSize, LARGE)

    def test_broken(self) -> None:
        """A broken socket is the transport's to tell."""
        pair = self.pair(sockets=True)
        sock = pair.tcp[0].sock
        assert sock is not None
        sock.broken = True
        pair.wires[0].write(b"x")
        self.assertTrue(pair.tcp[0].queue)

    def test_late_producer(self) -> None:
        """Who registers while bytes are queued does not overtake them."""
        pair = self.pair(sockets=True)
        tcp, sock = pair.tcp[0], pair.tcp[0].sock
        assert sock is not None
        sock.room = 10
        pair.wires[0].write(b"first")
        sock.room = 1 << 20
        pair.wires[0].registerProducer(Producer(), True)
        pair.wires[0].write(b"second")
        tcp.ready()
        pair.wires[0].write(b"third")
        sent, sock.taken = sock.taken, b""
        pair.wires[1].dataReceived(sent)
        self.assertEqual((pair.inside[1].got, tcp.queue), (b"firstsecondthird", b""))

    def test_abort_while_paused(self) -> None:
        """An abort drops what waits; a producer that waited is told the end."""
        pair = self.pair(sockets=True)
        tcp, sock, producer = pair.tcp[0], pair.tcp[0].sock, Producer()
        assert sock is not None
        pair.wires[0].registerProducer(producer, True)
        sock.room = 100
        pair.wires[0].write(bytes(RECORD))
        pair.wires[0].abortConnection()
        self.assertEqual(tcp.queue, b"")
        tcp.producer.stopProducing()
        pair.wires[0].connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(producer.told, ["pause", "stop"])
        late = Producer()
        pair.wires[0].registerProducer(late, True)
        self.assertEqual(late.told, ["stop"])

    def test_one_producer(self) -> None:
        """There is one producer, and it pushes."""
        pair = self.pair()
        with self.assertRaises(RuntimeError):
            pair.wires[0].registerProducer(Producer(), False)
        pair.wires[0].registerProducer(Producer(), True)
        with self.assertRaises(RuntimeError):
            pair.wires[0].registerProducer(Producer(), True)


class _Source(Inside):
    """Sends a payload as a producer, then says goodbye."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        self.payload = payload
        self.size = len(payload)
        self.paused = False
        self.gone: Deferred[None] = Deferred()

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        transport: Any = self.transport
        while self.payload and not self.paused:
            data, self.payload = self.payload[:RECORD], self.payload[RECORD:]
            transport.write(data)
        if not self.payload:
            transport.unregisterProducer()
            self._leave()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self._leave()

    def _leave(self) -> None:
        """Say goodbye when all is sent and all has come: the first goodbye ends both ways."""
        transport: Any = self.transport
        if not self.payload and len(self.got) == self.size:
            transport.loseConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        self.gone.callback(None)


class SocketTests(TestCase):
    """Real sockets."""

    timeout = 30

    async def test_both_ways(self) -> None:
        """Two megabytes each way at once, each by a producer, then a clean end."""
        payload = bytes(range(256)) * 8192
        ends = [_Source(payload), _Source(payload)]
        made = iter(ends)
        server = wrap_tls(gateway_tls(), client=False, factory=_factory(lambda: next(made)))
        port = REACTOR.listenTCP(0, server, interface="127.0.0.1")
        client = wrap_tls(client_tls(), client=True, factory=_factory(lambda: ends[1]))
        made = iter(ends[:1])
        try:
            await LinkEndpoint(REACTOR, "127.0.0.1", port.getHost().port).connect(client)
            for end in ends:
                await end.gone
        finally:
            await port.stopListening()
        for end in ends:
            self.assertEqual(end.got, payload)
            self.assertIsInstance(end.lost[0].value, ConnectionDone)

    async def test_openssl(self) -> None:
        """OpenSSL's own client: bytes, a KeyUpdate that asks for ours, and its goodbye."""
        program = require("openssl")
        end = Inside()
        gone: Deferred[None] = Deferred()
        end.connectionLost = lambda reason: gone.callback(None)  # type: ignore[method-assign,assignment]  # the test waits for it
        end.on_data = lambda data: end.transport.write(b"<" + data + b">")  # type: ignore[union-attr]  # connected
        server = wrap_tls(gateway_tls(), client=False, factory=_factory(lambda: end))
        port = REACTOR.listenTCP(0, server, interface="127.0.0.1")
        try:
            said = await deferToThread(_client, program, port.getHost().port)
            await gone
        finally:
            await port.stopListening()
        self.assertEqual(end.got, b"before\nafter\n")
        self.assertIn(b"<before\n>", said)
        self.assertIn(b"<after\n>", said)


def _factory(build: Any) -> Factory:
    factory = Factory.forProtocol(Protocol)
    factory.buildProtocol = lambda addr: build()  # type: ignore[method-assign]  # shorter than a class
    factory.noisy = False
    return factory


def _client(program: str, port: int) -> bytes:
    """Run ``openssl s_client``, which sends a KeyUpdate for a line ``K``; return what it heard."""
    leaf = fleet().leaves["device-1"]
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key"), Path(folder, "certificate")
        key.write_bytes(leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        certificate.write_bytes(leaf.chain[0].public_bytes(Encoding.PEM))
        command = [program, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
        command += ["-alpn", "rshell/1", "-cert", str(certificate), "-key", str(key)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = b""
        for line, answer in (
            (b"before\n", b"<before"),
            (b"K\n", b"KEYUPDATE"),
            (b"after\n", b"<after"),
            (b"Q\n", b""),
        ):
            process.stdin.write(line)
            process.stdin.flush()
            while answer and answer not in said:
                heard = process.stdout.readline()
                if not heard:
                    raise AssertionError(said.decode("latin-1"))
                said += heard
        said += process.stdout.read()
        process.stdin.close()
        process.stdout.close()
        process.wait()
        return said


class MemoryTests(WireCase):
    def queues(self, pair: WirePair, side: int) -> tuple[Any, Any]:
        """Return OpenSSL's queues of a side, to know them again."""
        tls: Any = pair.wires[side].getHandle()
        return tls._into_ssl, tls._from_ssl

    def test_given_back(self) -> None:
        """Who is idle has new queues once, and again after it moved a lot; nothing is lost."""
        pair = self.pair()
        wire = pair.wires[1]
        first = self.queues(pair, 1)
        wire.idle()
        self.assertEqual(self.queues(pair, 1), first)  # tickets wait in one
        wire.write(b"hello")
        wire.idle()
        second = self.queues(pair, 1)
        self.assertNotEqual(first, second)
        wire.idle()
        self.assertEqual(self.queues(pair, 1), second)
        for size in (100, 100_000):
            pair.wires[0].write(b"a" * size)
            wire.write(b"b" * size)
            pair.carry()
        wire.idle()
        self.assertNotEqual(self.queues(pair, 1), second)
        wire.write(b"end")
        pair.wires[0].write(b"end")
        pair.carry()
        self.assertEqual(pair.inside[0].got, b"hello" + b"b" * 100_100 + b"end")
        self.assertEqual(pair.inside[1].got, b"a" * 100_100 + b"end")

    def test_half_a_record(self) -> None:
        """Nothing that waits is thrown away: a record cut anywhere arrives."""
        for cut in (1, 4, 5, 900, 4_999):
            pair = self.pair()
            pair.wires[1].write(b"hello")
            pair.wires[0].write(b"x" * 5_000)
            record = pair.tcp[0].take()
            pair.wires[1].dataReceived(record[:cut])
            pair.wires[1].idle()
            pair.wires[1].dataReceived(record[cut:])
            pair.wires[1].idle()
            self.assertEqual(pair.inside[1].got, b"x" * 5_000)

    def test_after_the_end(self) -> None:
        """A connection that is over, or has not begun, gives nothing back and does not fail."""
        pair = self.pair(shaken=False)
        pair.wires[1].idle()
        pair.carry()
        pair.wires[1].loseConnection()
        pair.carry()
        pair.wires[1].idle()
        pair.close()
        pair.wires[1].idle()
        self.assertEqual(len(pair.inside[1].lost), 1)


class TicketTests(WireCase):
    def test_no_packet_of_their_own(self) -> None:
        """What a server says after the handshake goes with its first words."""
        pair = self.pair(sockets=True)
        sock = pair.tcp[1].sock
        assert sock is not None
        sent = sock.sends
        self.assertEqual(sent, 1)
        pair.wires[1].write(b"welcome")
        self.assertEqual(sock.sends, 2)
        pair.carry()
        self.assertEqual(pair.inside[0].got, b"welcome")
