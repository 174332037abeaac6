"""What every request is served with: the file system as policy shows it, and the way back."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.files.committing import Group
from rshell_agent.workers.files.entries import Names
from rshell_agent.workers.files.faults import Fault, fault_of
from rshell_agent.workers.files.fields import Fields, b64
from rshell_agent.workers.files.frames import ERROR, NOTE, REPLY, Input, Map, Output
from rshell_agent.workers.touched import Touches

__all__ = ["Desk", "Request", "closing", "faults_at"]

#: Directories that were swept in this session; a tree of more is swept in part again.
MAX_SWEPT = 10_000
#: Operations that change something or give content away, by what the audit log calls them.
TOUCHING = {
    "get": "get",
    "get_ranges": "get",
    "signature": "signature",  # it has the first bytes of each block
    "put": "put",
    "mkdir": "mkdir",
    "symlink": "symlink",
    "setmeta": "setmeta",
    "rename": "rename",
    "remove": "remove",
}


class Request:
    """One request and the way to answer it.

    Attributes:
        id: Its number.
        fields: What it says.
        op: Which operation.
    """

    def __init__(self, number: int, fields: Fields, output: Output) -> None:
        self.id = number
        self.fields = fields
        self.op = ""
        self._output = output
        self._at: bytes | None = None
        self._to: bytes | None = None
        self._told: Map = {}

    def tell(self, at: bytes | None = None, to: bytes | None = None, **more: object) -> None:
        """Say what was touched, for the audit log: where it really is, and what of it is known."""
        self._at, self._to = at or self._at, to or self._to
        self._told.update(more)

    def touched(self, touches: Touches, absolute: Callable[[bytes], bytes], code: str = "") -> None:
        """Note that it was done, or why it was not."""
        op = TOUCHING.get(self.op)
        if op is None or not touches.wanted:
            return
        path = self._at
        if path is None:
            try:
                path = absolute(self.fields.path("from" if self.op == "rename" else "path"))
            except Fault:
                return  # a request that names nothing touches nothing
        more = {**self._told, "code": code} if code else self._told
        touches.note(op, path, self._to, **more)

    def unchanged(self) -> None:
        """Say that nothing was touched after all."""
        self.op = ""

    def reply(self, value: Map) -> None:
        """Answer, and be done."""
        self._output.send_map(REPLY, self.id, value)

    def more(self, value: Map) -> None:
        """Answer a part."""
        self._output.send_map(REPLY, self.id, {**value, "more": True})

    def send(self, kind: int, *parts: bytes | memoryview) -> None:
        """Send a frame that is no map."""
        self._output.send(kind, self.id, *parts)

    def flush(self) -> None:
        """Have all that was sent on its way now."""
        self._output.flush()

    def send_map(self, kind: int, value: Map) -> None:
        """Send another frame with a map."""
        self._output.send_map(kind, self.id, value)

    def note(self, message: str, path: bytes) -> None:
        """Say that something was passed over."""
        self._output.send_map(NOTE, self.id, {"message": message, "path": b64(path)})

    def fail(self, fault: Fault, path: bytes | None) -> None:
        """Answer that it cannot be done."""
        about = fault.path if fault.path is not None else path
        answer: Map = {"code": fault.code, "errno": fault.number, "message": fault.message}
        self._output.send_map(ERROR, self.id, {**answer, "path": b64(about or b"")})


class Desk:
    """Everything that lasts for the session.

    Args:
        confined: The file system.
        input: Where an upload's frames come from.

    Attributes:
        names: Of users and groups.
        group: Uploads that wait to be committed.
        swept: Directories whose old part files were looked for.
    """

    def __init__(self, confined: Confined, input: Input) -> None:
        self.confined = confined
        self.input = input
        self.names = Names()
        self.group = Group()
        self.swept: set[tuple[int, int]] = set()

    def touched(self, request: Request, code: str = "") -> None:
        """Note what a request did, or the code with which it failed."""
        request.touched(self.confined.touches, self.confined.absolute, code)

    @property
    def login(self) -> str:
        """Whom we run as."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def faults_at(path: bytes) -> Iterator[None]:
    """Let errors of the system say that they are about `path`."""
    try:
        yield
    except OSError as error:
        raise fault_of(error, path) from None
