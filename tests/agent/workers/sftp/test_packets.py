"""Packets: greetings, order, sizes, what makes no sense, and any bytes at all."""

from __future__ import annotations

import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.extensions import VERSIONS
from rshell_agent.workers.sftp.serving import Broken
from rshell_agent.workers.sftp.wire import string, u32, u64
from tests.agent.workers.sftp.client import SftpCase, SftpClient

#: Every request that has fields, with fields that are right.
REQUESTS = {
    wire.OPEN: string(b"x") + u32(1) + u32(0),
    wire.CLOSE: string(b"1"),
    wire.READ: string(b"1") + u64(0) + u32(10),
    wire.WRITE: string(b"1") + u64(0) + string(b"data"),
    wire.LSTAT: string(b"x"),
    wire.FSTAT: string(b"1"),
    wire.SETSTAT: string(b"x") + u32(4) + u32(0o600),
    wire.FSETSTAT: string(b"1") + u32(4) + u32(0o600),
    wire.OPENDIR: string(b"x"),
    wire.READDIR: string(b"1"),
    wire.REMOVE: string(b"x"),
    wire.MKDIR: string(b"x") + u32(0),
    wire.RMDIR: string(b"x"),
    wire.REALPATH: string(b"x"),
    wire.STAT: string(b"x"),
    wire.RENAME: string(b"x") + string(b"y"),
    wire.READLINK: string(b"x"),
    wire.SYMLINK: string(b"x") + string(b"y"),
    wire.EXTENDED: string(b"statvfs@openssh.com") + string(b"x"),
}


class PacketTests(SftpCase):
    def fresh(self) -> SftpClient:
        confined = Confined([str(self.root)], [str(self.root)], home=os.fsencode(self.root))
        self.addCleanup(confined.close)
        client = SftpClient(confined)
        self.addCleanup(client.end)
        return client

    def assert_broken(self, client: SftpClient, text: str) -> None:
        ended = client.end()
        self.assertIsInstance(ended, Broken)
        self.assertIn(text, str(ended))

    def test_greeting(self) -> None:
        """The server speaks version 3 to whatever version asks, and names its extensions."""
        for version in (0, 3, 6):
            found = self.fresh().greet(version)
            self.assertEqual(b"1", found[b"posix-rename@openssh.com"])
            self.assertEqual(b"2", found[b"statvfs@openssh.com"])
            self.assertEqual(11, len(found))

    def test_no_greeting(self) -> None:
        """A request before the greeting ends the session, and so does a second greeting."""
        client = self.fresh()
        client.send(wire.STAT, string(b"x"))
        self.assert_broken(client, "does not begin with an SFTP greeting")
        client = self.fresh()
        client.raw(b"GET / HTTP/1.0\r\n\r\n")
        self.assert_broken(client, "does not begin with an SFTP greeting")
        client = self.fresh()
        client.greet()
        client.raw(u32(5) + bytes([wire.INIT]) + u32(3))
        self.assert_broken(client, "second greeting")

    def test_lengths(self) -> None:
        """A packet of a length that none can have ends the session with one line."""
        for size in (0, 1, 4, wire.MAX_PACKET + 1, 2**31, 2**32 - 1):
            client = self.fresh()
            client.greet()
            client.raw(u32(size) + bytes(8))
            self.assert_broken(client, f"a packet of {size:,} bytes")

    def test_largest(self) -> None:
        """The largest packet is read whole, at whatever place of the buffer it begins."""
        handle = self.client.handle(b"big", wire.OPEN_WRITE | wire.OPEN_CREATE)
        data = os.urandom(wire.MAX_PACKET - 21 - len(handle) + 4)
        for turn in range(6):
            self.assert_ok(self.client.ask(wire.WRITE, handle, u64(0), string(data)))
            for _ in range(turn):
                self.client.ask(wire.STAT, string(b"x" * turn))
        self.assertEqual(data, (self.root / "big").read_bytes())

    def test_cut(self) -> None:
        """Input that ends inside of a packet ends the session with one line."""
        client = self.fresh()
        client.greet()
        client.raw(u32(100) + b"abc")
        self.assert_broken(client, "inside of a packet")

    def test_answers_before_the_end(self) -> None:
        """What was asked properly is answered even if nonsense follows at once."""
        client = self.fresh()
        client.greet()
        body = string(b".")
        asked = wire.head(wire.STAT, 7, len(body)) + body
        client.raw(asked + u32(0))
        self.assertEqual((wire.ATTRS, 7), ((found := client.answer()).kind, found.number))
        self.assert_broken(client, "0 bytes")

    def test_short(self) -> None:
        """A request cut at any byte of its fields is a bad message, and the next one is served."""
        for kind, body in REQUESTS.items():
            for size in range(len(body)):
                with self.subTest(kind=kind, size=size):
                    answer = self.client.ask(kind, body[:size])
                    self.assertNotEqual(wire.OK, answer.code)
                    if kind != wire.EXTENDED:
                        self.assert_code(wire.BAD_MESSAGE, answer)
        self.assertEqual([], os.listdir(self.root))

    def test_longer(self) -> None:
        """What follows the last field is ignored, as other servers do."""
        self.assertEqual(wire.ATTRS, self.client.ask(wire.STAT, string(b"."), b"more").kind)

    def test_unknown(self) -> None:
        """Requests of unknown type or name are answered as not supported."""
        for kind in (0, 21, 22, 99, wire.STATUS, wire.NAME, wire.EXTENDED_REPLY, 255):
            self.assert_code(wire.OP_UNSUPPORTED, self.client.ask(kind, string(b"x")))
        answer = self.client.extended(b"text-seek\x1b[2J")
        self.assert_code(wire.OP_UNSUPPORTED, answer)
        self.assertEqual("no extension text-seek\\x1b[2J", answer.message)

    def test_attributes(self) -> None:
        """Attributes with unknown fields or too many pairs are a bad message."""
        for body in (u32(0x10), u32(0x80000000) + u32(2**32 - 1), u32(1) + u64(2**63)):
            self.assert_code(wire.BAD_MESSAGE, self.client.on(wire.SETSTAT, b"x", body))
        extended = u32(0x80000000) + u32(1) + string(b"acl@x") + string(b"data")
        self.assert_ok(self.client.on(wire.MKDIR, b"x", extended))

    def test_ids(self) -> None:
        """Each answer bears the id of its request, in the order of asking."""
        body = string(b".")
        numbers = [5, 0, 2**32 - 1, 5]
        packets = [wire.head(wire.STAT, number, len(body)) + body for number in numbers]
        self.client.raw(b"".join(packets))
        self.assertEqual(numbers, [self.client.answer().number for _ in numbers])

    def test_byte_by_byte(self) -> None:
        """Packets that come one byte at a time mean the same."""
        body = string(b".")
        for byte in wire.head(wire.LSTAT, 9, len(body)) + body:
            self.client.raw(bytes([byte]))
        self.assertEqual(wire.ATTRS, self.client.answer().kind)

    def test_many_small(self) -> None:
        """Thousands of requests in one piece are all answered, in order."""
        body = string(b".")
        packets = [wire.head(wire.STAT, n, len(body)) + body for n in range(2000)]
        self.client.raw(b"".join(packets))
        self.assertEqual(list(range(2000)), [self.client.answer().number for _ in packets])

    def test_only_announced(self) -> None:
        """Every extension that is announced is served."""
        fields = wire.Fields(memoryview(VERSIONS))
        while fields.left:
            name = fields.string()
            fields.string()
            self.assertNotEqual(wire.OP_UNSUPPORTED, _code(self.client.extended(name)))

    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=8))
    def test_any_fields(self, requests: list[tuple[int, bytes]]) -> None:
        """Requests with any content are answered one by one, or end the session in words."""
        self._survives([struct.pack(">IBI", len(b) + 5, k, 1) + b for k, b in requests])

    @given(st.lists(st.tuples(st.sampled_from(sorted(REQUESTS)), st.data()), max_size=6))
    def test_changed_fields(self, requests: list[tuple[int, st.DataObject]]) -> None:
        """Requests that are right but for some bytes are answered one by one."""
        packets = []
        for kind, data in requests:
            body = bytearray(REQUESTS[kind])
            for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
                body[at] = data.draw(st.integers(0, 255))
            packets.append(struct.pack(">IBI", len(body) + 5, kind, 1) + bytes(body))
        self._survives(packets)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes end the session in words at the worst."""
        self._survives([data])

    def _survives(self, packets: list[bytes]) -> None:
        with Confined([str(self.root)], [str(self.root)], home=os.fsencode(self.root)) as confined:
            client = SftpClient(confined)
            client.greet()
            client.raw(b"".join(packets))
            ended = client.end()
        self.assertIsInstance(ended, Broken | None)


def _code(answer: object) -> int | None:
    return getattr(answer, "code", None) if getattr(answer, "kind", 0) == wire.STATUS else None
