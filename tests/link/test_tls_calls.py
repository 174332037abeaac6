"""What a wire asks of OpenSSL: the direct calls and pyOpenSSL's own do the same."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.tls_calls import PLAIN_RECORD, DirectCalls, PlainCalls, TlsCalls, calls_for
from tests.link.wires import WirePair

LARGE = 4 * PLAIN_RECORD + 1024


class CallsMixin:
    """The contract."""

    calls: TlsCalls

    def setUp(self) -> None:
        pair = WirePair()
        pair.carry()
        self.client, self.server = (wire.getHandle() for wire in pair.wires)
        self.pair = pair

    def encrypted(self, data: bytes) -> bytes:
        """Return what the client sends for ``data``."""
        sent, out = 0, b""
        while sent < len(data):
            sent += self.calls.encrypt(self.client, data[sent:])
        while True:
            try:
                out += bytes(self.calls.fetch(self.client, LARGE))
            except SSL.WantReadError:
                return out

    def test_bytes(self: Any) -> None:
        """Bytes of any size come out as they went in, in as many records as they need."""
        for size in (1, PLAIN_RECORD, PLAIN_RECORD + 1, LARGE, 40 * PLAIN_RECORD):
            data = bytes(range(251)) * (size // 251 + 1)
            self.calls.put(self.server, self.encrypted(data[:size]))
            got, stopped = self.calls.decrypt(self.server, 1 << 30)
            self.assertEqual(got, data[:size])
            self.assertIsInstance(stopped, SSL.WantReadError)

    def test_no_more_than_asked(self: Any) -> None:
        """Who knows how many records there are does not ask OpenSSL once too often."""
        self.calls.put(self.server, self.encrypted(b"a") + self.encrypted(b"b"))
        self.assertEqual(self.calls.decrypt(self.server, 1), (b"a", None))
        self.assertEqual(self.calls.decrypt(self.server, 1), (b"b", None))

    def test_results_stay(self: Any) -> None:
        """What was decrypted stays as it is when other connections use the same buffer."""
        other = WirePair()
        other.carry()
        self.calls.put(self.server, self.encrypted(b"first" * 1000))
        got, _ = self.calls.decrypt(self.server, 1)
        tls = other.wires[0].getHandle()
        self.calls.encrypt(tls, b"second" * 1000)
        self.calls.fetch(tls, LARGE)
        self.assertEqual(got, b"first" * 1000)

    def test_goodbye(self: Any) -> None:
        """The peer's goodbye is told after what came before it."""
        record = self.encrypted(b"last")
        self.client.shutdown()
        self.calls.put(self.server, record + bytes(self.calls.fetch(self.client, LARGE)))
        got, stopped = self.calls.decrypt(self.server, 1 << 30)
        self.assertEqual(got, b"last")
        self.assertIsInstance(stopped, SSL.ZeroReturnError)

    def test_forged(self: Any) -> None:
        """A record that was tampered with is an error, and so is all that follows it."""
        record = bytearray(self.encrypted(b"x" * 100))
        record[50] ^= 1
        self.pair.wires[0].write(b"good")
        good = self.pair.tcp[0].take()
        self.calls.put(self.server, bytes(record) + good)
        for _ in range(2):
            got, stopped = self.calls.decrypt(self.server, 1 << 30)
            self.assertEqual(got, b"")
            self.assertIsInstance(stopped, SSL.Error)
            self.assertNotIsInstance(stopped, SSL.WantReadError)

    def test_after_the_end(self: Any) -> None:
        """Who has said goodbye can encrypt nothing, and is told so."""
        self.client.shutdown()
        with self.assertRaises(SSL.Error):
            self.calls.encrypt(self.client, b"too late")


class PlainTests(CallsMixin, SynchronousTestCase):
    calls = PlainCalls()


class DirectTests(CallsMixin, SynchronousTestCase):
    calls = DirectCalls()

    def test_one_call(self) -> None:
        """All that a fast link hands over at once is encrypted by one call."""
        data = bytes(4 * PLAIN_RECORD)
        self.assertEqual(self.calls.encrypt(self.client, data), len(data))


class ChoiceTests(SynchronousTestCase):
    def test_this_pyopenssl(self) -> None:
        """With the pyOpenSSL that is installed, calls are direct."""
        context = SSL.Context(SSL.TLS_METHOD)
        self.assertIsInstance(calls_for(SSL.Connection(context, None)), DirectCalls)

    def test_another(self) -> None:
        """A connection that is made otherwise is asked by its own methods."""

        class Other:
            _ssl = object()

        other: Any = Other()
        self.assertIsInstance(calls_for(other), PlainCalls)

    def test_wires(self) -> None:
        """A wire that has to use pyOpenSSL's methods carries the same bytes."""
        pair = WirePair(sockets=True)
        for wire in pair.wires:
            wire._calls = PlainCalls()
        pair.carry()
        pair.wires[0].write(b"u" * LARGE)
        pair.wires[1].write(b"d" * LARGE)
        pair.carry()
        self.assertEqual(pair.inside[1].got, b"u" * LARGE)
        self.assertEqual(pair.inside[0].got, b"d" * LARGE)
        pair.free()
