"""What sessions send, as an operator sees it: raw, in prefixed lines, or as JSON lines.

Pure: bytes in, bytes out through a function.  Session bytes are passed on untouched, since they
are the operator's own command's; names and messages are made safe.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from rshell.access.printable import printable
from rshell.client.outcomes import Outcome, describe_of

__all__ = ["JsonPresenter", "PrefixPresenter", "Presenter", "RawPresenter", "Write", "encode_json"]

#: Writes bytes to stdout, or to stderr if the second argument says so.
Write = Callable[[bytes, bool], None]

#: A line longer than this is shown in pieces; nothing longer is ever held back.
MAX_LINE_BYTES = 64 * 1024


#: After the grace: commands wait with their output, like a pipe that nobody reads (rule R7).
HOW_TO_GO_ON = b"rshell: if it still runs: rshell sessions lists it, rshell attach continues it\n"


class Presenter(Protocol):
    """Shows one device's session."""

    def output(self, data: bytes, stderr: bool) -> None:
        """Bytes of the session."""

    def gap(self, count: int) -> None:
        """So many bytes of the session are missing at this place."""

    def end(self, outcome: Outcome) -> None:
        """The session's end; called once, last."""


def encode_json(value: Any) -> bytes:
    """Return one line of JSON without its newline.

    What a terminal would act on, or an eye be misled by, is escaped: JSON itself leaves DEL, C1
    controls and marks that turn the direction of reading as they are.
    """
    encoded = msgspec.json.encode(value)
    text = encoded.decode()
    if text.isprintable():
        return encoded
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


def _result_text(outcome: Outcome) -> bytes:
    """A handler's result as text: strings as they are, anything else as JSON."""
    if outcome.result is None:
        return b""
    if isinstance(outcome.result, str):
        return printable(outcome.result, 10_000).encode("utf-8") + b"\n"
    return msgspec.json.format(encode_json(outcome.result), indent=2) + b"\n"


class RawPresenter:
    """One device: its bytes are ours."""

    def __init__(self, device: str, write: Write, quiet: bool = False) -> None:
        self._device = device
        self._write = write
        self._quiet = quiet

    def output(self, data: bytes, stderr: bool) -> None:
        self._write(data, stderr)

    def gap(self, count: int) -> None:
        self._write(_gap_line(self._device, count), True)

    def end(self, outcome: Outcome) -> None:
        result = _result_text(outcome)
        if result:
            self._write(result, False)
        # The command itself says why it failed; we speak up when it could not.
        if outcome.status not in ("ok", "exit", "signal") and not self._quiet:
            self._write(complaint(self._device, outcome), True)
            if outcome.status == "lost" and outcome.code == "link-lost":
                self._write(HOW_TO_GO_ON, True)


def complaint(device: str, outcome: Outcome) -> bytes:
    """Return the line on stderr about an outcome."""
    return f"rshell: {printable(describe_of(printable(device), outcome), 600)}\n".encode()


def _gap_line(device: str, count: int) -> bytes:
    return f"rshell: {printable(device)}: {count:,} bytes of output are gone\n".encode()


class PrefixPresenter:
    """Several devices: whole lines, each behind its device's name.

    A line longer than `MAX_LINE_BYTES` comes in pieces; each but the first has ``name+ `` in
    front, and each but the last gets a newline of ours.
    """

    def __init__(self, device: str, write: Write) -> None:
        self._device = device
        self._write = write
        name = printable(device)
        self._first = f"{name}: ".encode()
        self._next = f"{name}+ ".encode()
        self._partial: tuple[list[bytes], list[bytes]] = ([], [])
        self._sizes = [0, 0]
        self._continued = [False, False]

    def output(self, data: bytes, stderr: bool) -> None:
        lines = data.split(b"\n")
        rest = lines.pop()
        shown: list[bytes] = []
        for line in lines:
            self._add(line, stderr, shown)
            self._flush_line(stderr, shown)
        self._add(rest, stderr, shown)
        if shown:
            self._write(b"".join(shown), stderr)

    def _add(self, piece: bytes, stderr: bool, shown: list[bytes]) -> None:
        """Append to the line that is being collected; emit pieces of one that grows too long."""
        while self._sizes[stderr] + len(piece) > MAX_LINE_BYTES:
            room = MAX_LINE_BYTES - self._sizes[stderr]
            self._partial[stderr].append(piece[:room])
            piece = piece[room:]
            self._flush_line(stderr, shown)
            self._continued[stderr] = True
        if piece:
            self._partial[stderr].append(piece)
            self._sizes[stderr] += len(piece)

    def _flush_line(self, stderr: bool, shown: list[bytes]) -> None:
        prefix = self._next if self._continued[stderr] else self._first
        shown.extend((prefix, *self._partial[stderr], b"\n"))
        self._partial[stderr].clear()
        self._sizes[stderr] = 0
        self._continued[stderr] = False

    def gap(self, count: int) -> None:
        self._write(_gap_line(self._device, count), True)

    def end(self, outcome: Outcome) -> None:
        for stderr in (False, True):
            shown: list[bytes] = []
            if self._partial[stderr]:
                self._flush_line(stderr, shown)
                self._write(b"".join(shown), stderr)
        result = _result_text(outcome)
        if result:
            self.output(result, False)
        if outcome.status != "ok":
            self._write(complaint(self._device, outcome), True)


class JsonPresenter:
    """``--json``: one object a line, the outcome last.

    Text that is cut inside a UTF-8 character waits for the rest of it; what is no UTF-8 is
    ``data_b64``.
    """

    def __init__(self, device: str, write: Write) -> None:
        self._device = device
        self._write = write
        self._tails = [b"", b""]

    def output(self, data: bytes, stderr: bool) -> None:
        data = self._tails[stderr] + data
        whole = len(data) - _incomplete(data)
        self._tails[stderr] = data[whole:]
        self._show(data[:whole], stderr)

    def _show(self, data: bytes, stderr: bool) -> None:
        if not data:
            return
        shown: dict[str, Any] = {"device": self._device, "stream": "stderr" if stderr else "stdout"}
        try:
            shown["data"] = data.decode("utf-8")
        except UnicodeDecodeError:
            shown["data_b64"] = data
        self._write(encode_json(shown) + b"\n", False)

    def gap(self, count: int) -> None:
        self._write(encode_json({"device": self._device, "gap_bytes": count}) + b"\n", False)

    def end(self, outcome: Outcome) -> None:
        for stderr in (False, True):
            tail, self._tails[stderr] = self._tails[stderr], b""
            self._show(tail, stderr)
        shown = {
            name: value
            for name in outcome.__struct_fields__
            if (value := getattr(outcome, name)) is not None
        }
        self._write(encode_json({"device": self._device, "outcome": shown}) + b"\n", False)


def _incomplete(data: bytes) -> int:
    """Return how many bytes at the end begin a UTF-8 character that is not complete."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    # Three bytes before the end is the earliest that an unfinished character can begin.
    for start in range(max(0, len(data) - 3), len(data)):
        if data[start] >= 0xC0:
            decoder.reset()
            try:
                if not decoder.decode(data[start:]):
                    return len(data) - start
            except UnicodeDecodeError:
                pass
    return 0
