"""Garbage: one ERROR or a clean end with a reason, never a traceback (docs/files.md FT5 to FT9)."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rshell_agent.workers.files.faults import Violation
from rshell_agent.workers.files.frames import Input, Output
from rshell_agent.workers.files.serving import OPERATIONS
from tests.agent.workers.files.driver import (
    ABORT,
    COPY,
    DATA,
    END,
    HOLE,
    REQUEST,
    TRANSFER,
    Child,
    FilesCase,
    frame,
    map_frame,
    put_frames,
    request_frame,
)

FIELDS = (
    *("path", "pattern", "target", "from", "to", "transfer", "compress"),
    *("offset", "length", "size", "mode", "mtime_ns", "block"),
    *("basis", "resume", "ranges", "recursive"),
)
HELLO = request_frame(1, "hello", {})


class MalformedTests(FilesCase):
    def violates(self, data: bytes, what: str) -> None:
        with self.assertRaises(Violation) as caught:
            self.serve(data)
        self.assertIn(what, str(caught.exception))

    def test_framing(self) -> None:
        """Whatever breaks the framing ends the session, and says what it was (FT9)."""
        for data, what in (
            (frame(99, 1), "unknown type 99"),
            (frame(16, 1, b"{}"), "unknown type 16"),
            (frame(0, 0), "unknown type 0"),
            (struct.pack(">IBI", 2**32 - 1, DATA, 1), "4,294,967,295 bytes"),
            (struct.pack(">IBI", 70_000, REQUEST, 1), "70,000 bytes"),
            (HELLO[:5], "ends within a frame"),
            (HELLO[:-1], "ends within a frame"),
            (HELLO + HELLO, "after request 1"),
            (request_frame(0, "hello", {}), "request 0"),
            (frame(DATA, 1, b"\0x"), "outside of an upload"),
            (HELLO + frame(DATA, 1, b"\0x"), "outside of an upload"),
            (HELLO + map_frame(END, 1, {}), "outside of an upload"),
            (frame(DATA, 0, b"\0x"), "outside of an upload"),
            (b"GET / HTTP/1.1\r\n\r\n", "unknown type"),
            (b"\n" * 100, "unknown type"),
        ):
            self.violates(data, what)

    def test_answered_before(self) -> None:
        """What was asked properly before the violation is answered."""
        self.violates(HELLO + frame(99, 1), "unknown type")
        self.assertIn(b'"version":1', self.written)

    def test_requests(self) -> None:
        """What is wrong in a request is its own error; the next one is served (FT5)."""
        for payload in (
            b"",
            b"\xff\xfe",
            b"[]",
            b"null",
            b"{",
            b'{"op":"hello"',
            b'{"op":5}',
            b'{"op":"nothing"}',
            b'{"op":"__class__"}',
            b'{"op":"' + b"x" * 1000 + b'"}',
            b'{"op":"stat"}',
            b'{"op":"walk","path":"Lw==","recursive":"yes"}',
            b'{"op":"get","path":"Lw==","offset":1e3}',
            b'{"op":"get","path":"Lw==","offset":' + b"9" * 4000 + b"}",
            b"[" * 60_000,
            b'{"a":' * 10_000,
        ):
            answers = self.serve(frame(REQUEST, 1, payload) + request_frame(2, "hello", {}))
            self.assertEqual("bad-request", answers[1].code, payload[:50])
            self.assertEqual("", answers[2].code)

    def test_swallowed(self) -> None:
        """Frames of a request that failed are swallowed, whatever it was (FT8)."""
        rest = frame(DATA, 1, b"\7") + frame(HOLE, 1, b"") + frame(COPY, 1) + frame(ABORT, 1)
        answers = self.serve(request_frame(1, "nothing", {}) + rest + request_frame(2, "hello", {}))
        self.assertEqual(("bad-request", ""), (answers[1].code, answers[2].code))

    def test_any_types(self) -> None:
        """Fields of any type in any operation never end the session."""
        values: list[Any] = [None, -1, 2**70, 1.5, "x", [[]], {"a": 1}]
        fine = {"path": "eA==", "transfer": TRANSFER, "size": 0, "pattern": "eA==", "block": 512}
        for op in OPERATIONS:
            for name in FIELDS:
                for value in values:
                    data = json.dumps({"op": op, **fine, name: value}).encode()
                    end = frame(ABORT, 1, b"{}") if op == "put" else b""
                    answers = self.serve(frame(REQUEST, 1, data) + end)
                    self.assertIn(1, answers, (op, name, value))


class FuzzTests(FilesCase):
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(data=st.binary(max_size=400), size=st.integers(1, 50))
    def test_any_bytes(self, data: bytes, size: int) -> None:
        """Any bytes in any pieces end cleanly or as a violation."""
        self.feed(data, size)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        frames=st.lists(
            st.builds(
                frame,
                st.sampled_from([REQUEST, DATA, HOLE, COPY, END, ABORT]),
                st.integers(0, 3),
                st.binary(max_size=40)
                | st.sampled_from([b"{}", b'{"op":"hello"}', b"\0abc", bytes(8), bytes(16)]),
            ),
            max_size=8,
        ),
        start=st.sampled_from([b"", HELLO, put_frames(1, b"f", b"abc")[:-80]]),
        size=st.integers(1, 300),
    )
    def test_any_frames(self, frames: list[bytes], start: bytes, size: int) -> None:
        """Proper frames in any order end cleanly or as a violation."""
        self.feed(start + b"".join(frames), size)

    def feed(self, data: bytes, size: int) -> None:
        pieces = iter([data[i : i + size] for i in range(0, len(data), size)])
        try:
            self.serve_from(lambda: next(pieces, b""))
        except Violation as violation:
            self.assertTrue(str(violation).isprintable())

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        sent=st.lists(st.tuples(st.sampled_from([REQUEST, DATA, END]), st.binary(max_size=300))),
        size=st.integers(1, 64),
    )
    def test_round_trip(self, sent: list[tuple[int, bytes]], size: int) -> None:
        """Frames come out as they went in, however they are cut."""
        data = b"".join(frame(kind, n, payload) for n, (kind, payload) in enumerate(sent))
        pieces = iter([data[i : i + size] for i in range(0, len(data), size)])
        reader = Input(lambda _: next(pieces, b""))
        got = []
        while (found := reader.next()) is not None:
            got.append((found.kind, found.payload))
        self.assertEqual(sent, got)


class OutputTests(FilesCase):
    def test_partial_writes(self) -> None:
        """Output that is taken a few bytes at a time arrives whole."""
        written = bytearray()

        def write(buffers: list[bytes | memoryview]) -> int:
            data = b"".join(buffers)[:7]
            written.extend(data)
            return len(data)

        output = Output(write)
        for number in range(2000):
            output.send(17, number, b"\0", b"x" * (number % 50))
        output.flush()
        expected = b"".join(frame(17, n, b"\0" + b"x" * (n % 50)) for n in range(2000))
        self.assertEqual(expected, bytes(written))


class ProcessTests(FilesCase):
    def test_exit(self) -> None:
        """The worker ends with 0 after a clean end, and with 2 and one line after a violation."""
        self.assertEqual((0, b"", b""), Child(self.home).finish())
        status, output, errors = Child(self.home).finish(HELLO)
        self.assertEqual((0, b""), (status, errors))
        self.assertIn(b'"version":1', output)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", HELLO[:4], os.urandom(16) + b"\xff"):
            status, _, errors = Child(self.home).finish(garbage)
            self.assertEqual((2, 1), (status, errors.count(b"\n")), errors)
            self.assertTrue(errors.startswith(b"files: "), errors)

    def test_version(self) -> None:
        """Another version of the protocol is refused (FT1)."""
        from rshell_agent.workers.confined import Confined
        from rshell_agent.workers.files.serving import serve

        reading, writing = os.pipe()
        try:
            for argument in ({}, {"version": 2}, {"version": "1"}):
                status = serve(argument, Confined(["/"], ["/"]), 0, writing, writing)
                self.assertEqual(2, status)
                self.assertIn(b"version 1", os.read(reading, 1000))
        finally:
            os.close(reading)
            os.close(writing)
