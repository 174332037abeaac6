"""Devices that answer what no worker would: one error, nothing created elsewhere, and no hang."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from rshell.client import RshellError
from rshell.client.files import FilesConnection
from rshell.client.files.frames import (
    DATA_OUT,
    END_OUT,
    ERROR,
    HOLE_OUT,
    NOTE,
    REPLY,
    REQUEST,
    frame,
    map_frame,
)
from rshell.client.outcomes import Outcome
from rshell.client.session import SessionReceiver
from tests.client.files.test_arrivals import CONTENT, end, entry_map
from tests.client.files.test_copying import CopyCase

reactor: Any = global_reactor

HELLO = {"version": 1, "home": "Lw==", "login": "root", "compress": []}
#: Returns the frames that answer a request, by its operation, fields and id.
Script = Callable[[str, dict[str, Any], int], Iterator[bytes]]


class ScriptedSession:
    """A session whose device answers by a script.

    Args:
        receiver: Takes the answers.
        script: Makes them.
    """

    def __init__(self, receiver: SessionReceiver, script: Script) -> None:
        self.ended = False
        self.outcome: Deferred[Outcome] = Deferred()
        self._receiver = receiver
        self._script = script
        self._input = b""
        self._output: list[bytes] = []
        self._pauses = 0

    def write(self, data: bytes) -> None:
        self._input += data
        while len(self._input) >= 9:
            length, kind, number = struct.unpack_from(">IBI", self._input)
            if len(self._input) < 9 + length:
                return
            payload, self._input = self._input[9 : 9 + length], self._input[9 + length :]
            if kind == REQUEST:
                fields = json.loads(payload)
                self._output += self._script(fields.pop("op"), fields, number)
                reactor.callLater(0, self._deliver)

    def _deliver(self) -> None:
        while self._output and not self._pauses and not self.ended:
            self._receiver.output_received(self._output.pop(0), False)

    def write_eof(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.ended:
            self.ended = True
            self.outcome.callback(Outcome(status="ok"))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def pause(self) -> None:
        self._pauses += 1

    def resume(self) -> None:
        self._pauses -= 1
        reactor.callLater(0, self._deliver)


def b64(path: bytes) -> str:
    return base64.b64encode(path).decode()


class HostileCase(CopyCase):
    timeout = 60
    answers: dict[str, Any]

    async def connect(self, device: str) -> FilesConnection:
        """Return a device of this machine's: pump-1 answers by `answers`, pump-2 is honest."""
        if device == "pump-2":
            return await super().connect(device)

        def script(op: str, fields: dict[str, Any], number: int) -> Iterator[bytes]:
            if op == "hello":
                yield map_frame(REPLY, number, HELLO)
                return
            answer = self.answers[op]
            for kind, value in answer(fields) if callable(answer) else answer:
                yield frame(kind, number, value if isinstance(value, bytes) else json_of(value))

        return await FilesConnection.over(
            lambda receiver: ScriptedSession(receiver, script), device
        )

    async def code_of(self, *words: str, **options: Any) -> str:
        """Copy, and return how it failed: the code of the whole, or of its only failure."""
        try:
            report = await self.copying(words[:-1], words[-1], **options).run()
        except RshellError as error:
            return error.code
        finally:
            for connection in self.connections:
                connection.session.write_eof()
            await self.ended()
        if report.ended:
            return report.ended
        self.assertEqual(1, len(report.failures), report)
        return report.failures[0].code


def json_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def honest() -> dict[str, Any]:
    """Return the answers of a device with one file."""
    entry = entry_map()
    return {
        "stat": [(REPLY, {"entry": entry})],
        "walk": [(REPLY, {"entries": [entry_map(kind="dir"), {**entry, "path": b64(b"f")}]})],
        "get": [
            (REPLY, {"entry": entry, "more": True}),
            (DATA_OUT, b"\0" + CONTENT),
            (END_OUT, end()),
        ],
    }


class HostileTests(HostileCase):
    async def test_honest(self) -> None:
        """The script is one that works where nothing is wrong in it."""
        self.answers = honest()
        await self.good("1:f", "f")
        self.assertEqual(CONTENT, (self.here / "f").read_bytes())

    async def test_listings(self) -> None:
        """A listing that cannot be read is an error with a code, and creates nothing."""
        nested = b'{"x":' + b"[" * 200_000
        cases: list[tuple[str, list[tuple[int, Any]]]] = [
            ("protocol", [(NOTE, b"[]")]),
            ("protocol", [(NOTE, {"message": "x", "path": "no base64"})]),
            ("protocol", [(NOTE, nested)]),
            ("protocol", [(REPLY, nested)]),
            ("protocol", [(REPLY, b"\xff")]),
            ("protocol", [(REPLY, {"entries": [{"path": "x"}]})]),
            ("protocol", [(REPLY, {"entries": [entry_map(kind="dir", mtime_ns=2**80)]})]),
            ("protocol", [(REPLY, {"entries": [entry_map(kind="dir", mtime_ns=2**63)]})]),
            ("protocol", [(REPLY, {"entries": "none"})]),
            ("protocol", [(REPLY, {})]),
            ("io", [(REPLY, {"entries": []})]),
            ("bad", [(ERROR, {"code": "bad", "message": ["x"], "path": "no base64"})]),
        ]
        for code, answer in cases:
            self.answers = {**honest(), "walk": answer}
            self.assertEqual(code, await self.code_of("1:d", "d", recursive=True), answer)
            self.assertEqual([], os.listdir(self.here))

    async def test_stat(self) -> None:
        """An answer without what was asked for is an error with a code."""
        for value in ({}, {"entry": None}, {"entry": []}, {"entry": entry_map(mtime_ns=-(2**64))}):
            self.answers = {**honest(), "stat": [(REPLY, value)]}
            self.assertEqual("protocol", await self.code_of("1:f", "f"), value)

    async def test_patterns(self) -> None:
        """What a pattern does not match is not created, whatever the device says it found."""
        (self.here / "d").mkdir()
        for found in (b"d/.profile", b"d/x", b"/etc/a.log", b"..", b"d/..", b"d/a\0.log", b""):
            self.answers = {**honest(), "glob": [(REPLY, {"paths": [b64(found)]})]}
            code = await self.code_of("1:d/*.log", "d", recursive=True)
            self.assertEqual("protocol", code, found)
            self.assertEqual([], os.listdir(self.here / "d"), found)
        for value in ("no base64", 7, None, [], {"x": 1}):
            self.answers = {**honest(), "glob": [(REPLY, {"paths": [value]})]}
            self.assertEqual("protocol", await self.code_of("1:d/*.log", "d"), value)
        self.answers = {**honest(), "glob": [(REPLY, {"paths": [b64(b"d/a.log")]})]}
        await self.good("1:d/*.log", "d")
        self.assertEqual(["a.log"], os.listdir(self.here / "d"))

    async def test_contents(self) -> None:
        """Content that makes no sense fails its file, on the way here and to another device."""
        reply, data, last = honest()["get"]
        cases: list[tuple[str, str, list[tuple[int, Any]]]] = [
            ("protocol", "digest", [reply, data, (END_OUT, {"digest": "x", "size": "many"})]),
            ("protocol", "digest", [reply, data, (END_OUT, {})]),
            ("protocol", "protocol", [reply, (HOLE_OUT, b"short"), last]),
            ("protocol", "protocol", [(REPLY, {"entry": {}, "more": True}), last]),
        ]
        for code, between, answer in cases:
            self.answers = {**honest(), "get": answer}
            self.assertIn(await self.code_of("1:f", "f"), (code, "digest"), answer)
            self.assertIn(await self.code_of("1:f", "2:f"), (between, "bad-request"), answer)
        self.answers = {**honest(), "get": [reply, reply, data, last]}
        self.assertEqual("protocol", await self.code_of("1:f", "2:f"))
        self.assertEqual(set(), {*os.listdir(self.here), *os.listdir(self.two)} - self.parts())

    def parts(self) -> set[str]:
        """Return the names of unfinished files: what arrived is compared again before it counts."""
        return {path.name for path in self.base.rglob(".rshell-*.part")}

    async def test_endless_hole(self) -> None:
        """A copy of zeros without end is stopped at once."""
        entry = entry_map(size=2**62)
        self.answers = {
            **honest(),
            "stat": [(REPLY, {"entry": entry})],
            "get": [
                (REPLY, {"entry": entry, "more": True}),
                (HOLE_OUT, struct.pack(">Q", 2**61)),
                (END_OUT, end()),
            ],
        }
        copying = self.copying(["1:f"], "f")
        reactor.callLater(0.3, copying.stop)
        report = await copying.run()
        self.assertEqual(("cancelled", []), (report.ended, report.failures))
