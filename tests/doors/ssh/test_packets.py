"""Tests of rshell.doors.ssh.packets against conch's own way with packets (RFC 4253 section 6)."""

from __future__ import annotations

import random
import struct
from typing import Any

from twisted.conch.ssh.transport import SSHCiphers, SSHServerTransport
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from rshell.doors.ssh.packets import MAX_PACKET_BYTES, PacketTransport
from rshell.doors.ssh.wire import BadPacket

ALGORITHMS = [
    (b"none", b"none"),
    (b"aes128-ctr", b"hmac-sha2-256"),
    (b"aes256-ctr", b"hmac-sha2-512"),
]
#: Around the blocks and the padding, and what bulk has.
SIZES = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 26, 27, 255, 4096, 32_768, 300_000]


def ciphers(algorithm: bytes, mac: bytes) -> SSHCiphers:
    """Keys that are the same both ways, so that what one sends the other reads."""
    made = SSHCiphers(algorithm, algorithm, mac, mac)
    made.setKeys(b"i" * 64, b"k" * 64, b"i" * 64, b"k" * 64, b"m" * 64, b"m" * 64)
    return made


class _Told:
    """What was dispatched, and why it ended."""

    got: list[tuple[int, bytes]]
    over: list[bytes]

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.got.append((messageNum, payload))

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        self.over.append(desc)


class Ours(_Told, PacketTransport):
    pass


class Conchs(_Told, SSHServerTransport):
    gotVersion = True


def made(kind: Any, keys: SSHCiphers) -> Any:
    transport = kind()
    transport.transport = StringTransport()
    transport.got, transport.over = [], []
    transport.currentEncryptions = keys
    transport.buf = b""
    return transport


class PacketTests(SynchronousTestCase):
    def messages(self) -> list[tuple[int, bytes]]:
        rng = random.Random(7)
        return [(rng.randrange(80, 100), rng.randbytes(size)) for size in SIZES]

    def test_conch_reads_what_we_send(self) -> None:
        """Every size of message arrives whole, by each algorithm."""
        for names in ALGORITHMS:
            ours, conchs = made(Ours, ciphers(*names)), made(Conchs, ciphers(*names))
            for number, payload in self.messages():
                ours.sendPacket(number, payload)
            conchs.dataReceived(ours.transport.value())
            self.assertEqual(conchs.got, self.messages())
            self.assertEqual(conchs.over, [])

    def test_we_read_what_conch_sends(self) -> None:
        """However it is cut: at once, in small reads, and byte by byte."""
        for names in ALGORITHMS:
            conchs = made(Conchs, ciphers(*names))
            for number, payload in self.messages():
                conchs.sendPacket(number, payload)
            data = conchs.transport.value()
            for step in (len(data), 65_536, 1000, 17, 1):
                data = data[: 40_000 if step == 1 else len(data)]
                ours = made(Ours, ciphers(*names))
                for at in range(0, len(data), step):
                    ours.packets_received(data[at : at + step])
                want = self.messages()[: len(ours.got)]
                self.assertEqual(ours.got, want)
                self.assertGreaterEqual(len(want), len(SIZES) - 2 if step == 1 else len(SIZES))
                self.assertEqual(ours.over, [])

    def test_a_bit_is_wrong(self) -> None:
        """A packet that was changed anywhere is not dispatched, and the connection ends."""
        conchs = made(Conchs, ciphers(*ALGORITHMS[1]))
        conchs.sendPacket(94, b"data")
        data = conchs.transport.value()
        for at in range(len(data)):
            ours = made(Ours, ciphers(*ALGORITHMS[1]))
            broken = bytearray(data)
            broken[at] ^= 1
            ours.packets_received(bytes(broken) + bytes(70_000 if at < 4 else 0))
            self.assertEqual(ours.got, [])
            # a length that was changed may promise more than came
            self.assertTrue(ours.over or at < 4, at)

    def test_another_place(self) -> None:
        """A packet that is repeated, or comes before its turn, is not dispatched."""
        for turns in ((0, 0), (1, 0)):
            packets = []
            conchs = made(Conchs, ciphers(b"none", b"hmac-sha2-256"))
            for payload in (b"one", b"two"):
                conchs.sendPacket(94, payload)
                packets.append(conchs.transport.value())
                conchs.transport.clear()
            ours = made(Ours, ciphers(b"none", b"hmac-sha2-256"))
            ours.packets_received(b"".join(packets[turn] for turn in turns))
            self.assertEqual(([b"bad MAC"], turns[0]), (ours.over[:1], 1 - len(ours.got)))

    def test_too_long(self) -> None:
        """A length that no packet has ends the connection before anything is kept for it."""
        ours = made(Ours, ciphers(b"none", b"none"))
        ours.packets_received(struct.pack(">LB", MAX_PACKET_BYTES + 4, 4) + bytes(11))
        self.assertEqual(([], 1), (ours.got, len(ours.over)))

    def test_no_whole_block(self) -> None:
        """Nor does a packet that is no number of blocks."""
        ours = made(Ours, ciphers(b"none", b"none"))
        ours.packets_received(struct.pack(">LB", 13, 4) + bytes(20))
        self.assertEqual(([], 1), (ours.got, len(ours.over)))

    def test_no_message(self) -> None:
        """A packet whose padding is too short, or takes the message's place, is refused."""
        for padding in (0, 3, 11, 12, 255):
            ours = made(Ours, ciphers(b"none", b"none"))
            with self.assertRaises(BadPacket):
                ours.packets_received(struct.pack(">LB", 12, padding) + bytes(11))
            self.assertEqual(ours.got, [])

    def test_while_keys_change(self) -> None:
        """What may not be sent then is kept, as conch keeps it."""
        ours = made(Ours, ciphers(*ALGORITHMS[1]))
        ours._keyExchangeState = ours._KEY_EXCHANGE_REQUESTED
        ours._blockedByKeyExchange = []
        ours.sendPacket(94, b"later")
        self.assertEqual(b"", ours.transport.value())
        self.assertEqual([(94, b"later")], ours._blockedByKeyExchange)

    def test_numbers_begin_again(self) -> None:
        """After 2^32 packets the count begins anew (RFC 4253 section 6.4)."""
        ours, other = (made(Ours, ciphers(*ALGORITHMS[1])) for _ in range(2))
        ours.outgoingPacketSequence = 2**32
        ours.sendPacket(94, b"data")
        other.packets_received(ours.transport.value())
        self.assertEqual([(94, b"data")], other.got)
