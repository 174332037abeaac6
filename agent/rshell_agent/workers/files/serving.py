"""The loop: one request after the other, in the order of arrival (docs/files.md FT2, FT5, FT8)."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.files import (
    changing,
    matching,
    reading,
    removing,
    signing,
    walking,
    writing,
)
from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.faults import Fault, Violation, fault_of
from rshell_agent.workers.files.fields import Fields, parse_map
from rshell_agent.workers.files.frames import REQUEST, Frame, Input, Output

__all__ = ["OPERATIONS", "VERSION", "Server", "serve"]

VERSION = 1
#: The exit status for a client that broke the protocol.
BROKEN = 2

OPERATIONS: dict[str, Callable[[Desk, Request], None]] = {
    "hello": walking.hello,
    "stat": walking.stat,
    "walk": walking.walk,
    "glob": matching.glob,
    "statvfs": walking.statvfs,
    "get": reading.get,
    "get_ranges": reading.get_ranges,
    "digest": signing.digest,
    "signature": signing.signature,
    "put": writing.put,
    "part": writing.part,
    "sweep": writing.sweep,
    "mkdir": changing.mkdir,
    "symlink": changing.symlink,
    "setmeta": changing.setmeta,
    "rename": changing.rename,
    "remove": removing.remove,
}


class Server:
    """Answers requests until the input ends."""

    def __init__(self, desk: Desk, output: Output) -> None:
        self._desk = desk
        self._output = output
        self._last = 0
        self._failed = 0
        self._now: Request | None = None
        desk.input.before_wait = self._settle
        desk.confined.touches.before_end = self._break_off

    def _settle(self) -> None:
        """Do and say all that is owed."""
        self._desk.group.commit()
        self._output.flush()

    def _break_off(self) -> None:
        """Tell what is under way: a file that was read in part was read."""
        if self._now is not None:
            self._desk.touched(self._now, "unfinished")

    def run(self) -> None:
        """Serve.

        Raises:
            Violation: The client broke the protocol; what was answered before has been sent.
        """
        try:
            while (frame := self._desk.input.next()) is not None:
                if frame.kind == REQUEST:
                    self._request(frame)
                elif frame.id != self._failed or not frame.id:
                    raise Violation(f"a frame of type {frame.kind} outside of an upload")
        finally:
            self._settle()

    def _request(self, frame: Frame) -> None:
        if frame.id <= self._last:
            raise Violation(f"request {frame.id} after request {self._last}")
        self._last = frame.id
        request = self._now = Request(frame.id, Fields({}), self._output)
        path: bytes | None = None
        try:
            request.fields = parse_map(frame.payload)
            name = request.op = request.fields.text("op", 32)
            operation = OPERATIONS.get(name)
            if operation is None:
                raise Fault("bad-request", f"there is no operation {name!a}")
            if request.fields.has("path"):
                path = request.fields.path()
            if operation is not writing.put:
                self._desk.group.commit()
            operation(self._desk, request)
            if operation is not writing.put:  # which may still wait to be committed
                self._desk.touched(request)
        except Fault as fault:
            self._fail(request, fault, path)
        except OSError as error:
            self._fail(request, fault_of(error), path)
        except (RecursionError, MemoryError, OverflowError, ValueError) as error:
            # What a limit of ours should have caught: still no reason to end the session.
            self._fail(request, Fault("io", f"{type(error).__name__}: {error}"[:200]), path)
        self._now = None

    def _fail(self, request: Request, fault: Fault, path: bytes | None) -> None:
        self._desk.group.commit()  # answers keep their order
        request.fail(fault, path)
        self._desk.touched(request, fault.code)
        self._failed = request.id


def serve(
    argument: dict[str, object], confined: Confined, input: int, output: int, errors: int
) -> int:
    """Serve one session on three descriptors; see `rshell_agent.workers.files.run`."""
    if argument.get("version") != VERSION:
        os.write(errors, b"files: this device speaks version 1 of the files protocol\n")
        return BROKEN
    out = Output.to(output, confined.touches.flush)
    confined.touches.catch_term()
    poll = select.poll()
    poll.register(input, select.POLLIN)
    reader = Input(lambda size: os.read(input, size), lambda: bool(poll.poll(0)))
    desk = Desk(confined, reader)
    try:
        Server(desk, out).run()
    except Violation as violation:
        os.write(errors, f"files: {violation}\n".encode("utf-8", "backslashreplace"))
        return BROKEN
    return 0
