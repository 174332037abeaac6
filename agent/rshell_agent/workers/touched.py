"""What a worker tells the keeper of the files that it touched (docs/keeper.md K54).

One line of JSON for each thing that was done, or that failed, to a pipe that the keeper reads.
It is neither of the operator's streams: the operator cannot see it, fill it or close it.  Lines are
gathered, and written before the answers that they are about.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
from collections.abc import Callable

from rshell_agent.workers.place import Denied

__all__ = ["Touches", "code_of"]

#: Written when so many bytes wait, some ten names: what a SIGKILL may cost.
FLUSH_BYTES = 1024
#: A longer path does not exist; what a client made up is cut, and marked.
MAX_PATH = 4096
#: Of a path in a line, escapes included: two, and what stands beside them, fit one frame.
MAX_TEXT = 5600

_CODES = {
    errno.ENOENT: "not-found",
    errno.EEXIST: "exists",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EFBIG: "too-large",
}


def code_of(error: OSError) -> str:
    """Return the word for an error of the system, or of the device's policy."""
    if isinstance(error, Denied):
        return "policy"
    number = error.errno or 0
    return _CODES.get(number) or errno.errorcode.get(number, "io").lower()


def _named(key: str, path: bytes) -> dict[str, object]:
    """Return a path as it goes into a line: text, or base64 where it is none."""
    told: dict[str, object] = {"cut": True} if len(path) > MAX_PATH else {}
    path = path[:MAX_PATH]
    try:
        text = path.decode()
        if len(path) * 6 <= MAX_TEXT or len(json.dumps(text)) <= MAX_TEXT:
            return {key: text, **told}
    except UnicodeDecodeError:
        pass
    return {key + "_b64": base64.b64encode(path).decode(), **told}


class Touches:
    """Tells; without a descriptor nobody asked, and nothing is done.

    Args:
        descriptor: A pipe that blocks, or None.

    Attributes:
        before_end: Called when the keeper ends this process: the last chance to tell more.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.before_end: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._size = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._descriptor is not None

    def catch_term(self) -> None:
        """Tell what waits even when the keeper ends us: that must not be a way to hide it."""
        if self.wanted:
            signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        try:
            self.before_end()
            self.flush()
        finally:
            os.kill(os.getpid(), number)

    def note(self, op: str, path: bytes, to: bytes | None = None, **more: object) -> None:
        """Note one thing.

        Args:
            op: What was done: one word.
            path: To what; absolute, and without symbolic links where it is known.
            to: The new name, or what a link says.
            more: ``size`` in bytes, ``digest``, ``code`` if it failed, ``count``; None is left out.
        """
        if self._descriptor is None:
            return
        line: dict[str, object] = {"op": op, **_named("path", path)}
        if to is not None:
            line.update(_named("to", to))
        line.update((key, value) for key, value in more.items() if value is not None)
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; a keeper that is busy lets us wait."""
        if self._descriptor is None or not self._waiting:
            return
        waiting, self._waiting, self._size = self._waiting, [], 0
        view = memoryview(b"".join(waiting))
        while view:
            view = view[os.write(self._descriptor, view) :]
