r"""What the worker tells: one JSON object a line on standard output, in order.

Kinds (a reader ignores kinds and keys that it does not know):

==========  ======================================================================================
file        ``file`` (a number for what follows), ``path``, ``dev``, ``ino``, ``head``, ``digest``,
            ``pos``, ``mid``: where a file is and how to know it again; told once more when its
            head has grown
(none)      a line: ``line`` (or ``b64`` if it is no UTF-8), ``file`` and ``pos``, the offset behind
            it; or, from the journal, ``entry`` and ``cursor``; ``cut`` bytes left out, ``part``
            without its newline, ``more`` continues a part
dropped     ``count`` lines of ``file`` left out by the rate; ``pos`` or ``cursor``
at          ``pos`` of ``file``: nothing before it need be looked at again
end         ``file`` is not read any more
ready       when following: what was there at the start has been named, at ``time`` by the device's
            clock, and its lines follow
note        ``code`` and ``text`` for a person, ``path``
==========  ======================================================================================

A path that is no UTF-8 is ``path_b64``.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from json import dumps
from json.encoder import encode_basestring

from rshell_agent.workers.tail.cutting import Line

__all__ = ["Records", "path_fields", "text_of"]

#: Written together: a pipe's worth.
FLUSH_BYTES = 64 * 1024


def path_fields(path: bytes) -> dict[str, object]:
    """Return a path as a field of a record."""
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path_b64": b64encode(path).decode("ascii")}


def text_of(path: bytes) -> str:
    """Return a path for a message."""
    return ascii(path.decode("utf-8", "backslashreplace"))[1:-1][:300]


class Records:
    """Writes records to a descriptor, and counts how long it had to wait.

    Args:
        descriptor: A blocking pipe.

    Attributes:
        blocked_seconds: Spent in write(2) since somebody last set it to 0.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self.blocked_seconds = 0.0
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._size = 0

    def line(self, file: int, line: Line) -> None:
        """Tell a line of a file."""
        head = b'{"file":%d,"pos":%d,%b' % (file, line.end, _text(line.text))
        if line.cut or line.part or line.more:
            head += b',"cut":%d,"part":%b,"more":%b' % (
                line.cut,
                b"true" if line.part else b"false",
                b"true" if line.more else b"false",
            )
        self._put(head + b"}\n")

    def entry(self, message: bytes, fields: dict[str, object]) -> None:
        """Tell a line of the journal."""
        rest = dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:]
        self._put(b"{%b,%b\n" % (_text(message), rest.encode("utf-8", "replace")))

    def tell(self, kind: str, **fields: object) -> None:
        """Tell anything else."""
        record = {"kind": kind, **fields}
        self._put(dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")

    def note(self, code: str, text: str, path: bytes | None = None) -> None:
        """Tell a person something; ``code`` is for programs."""
        self.tell("note", code=code, text=text, **(path_fields(path) if path else {}))

    def _put(self, record: bytes) -> None:
        self._waiting.append(record)
        self._size += len(record)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; blocks while nobody reads."""
        if not self._waiting:
            return
        view = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._size = 0
        began = time.monotonic()
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.blocked_seconds += time.monotonic() - began


def _text(text: bytes) -> bytes:
    try:
        return b'"line":' + encode_basestring(text.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        return b'"b64":"%b"' % b64encode(text)
