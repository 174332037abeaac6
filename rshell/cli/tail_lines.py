"""How lines of logs are shown: plain, behind names, or as JSON.  Pure: a function takes bytes.

A log is what somebody wrote into it, so control sequences are made harmless unless raw bytes are
asked for, also when they go into a pipe: what they are read with in the end is a terminal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs

from rshell.access.printable import printable
from rshell.cli.presenting import Write, complaint, encode_json
from rshell.client.outcomes import Outcome
from rshell.client.tails import TailLine, TailNotice
from rshell.handlers.tail import JournalEntry

__all__ = ["JsonTail", "Style", "TextTail", "clean"]


@attrs.frozen
class Style:
    """How text is shown.

    Attributes:
        device: Names the device before each line.
        file: Names the file before each line.
        headers: Tells by a line of its own from which file the following ones are.
        raw: Passes bytes as they are.
        quiet: Says nothing about rotation and the like.
    """

    device: bool = False
    file: bool = False
    headers: bool = False
    raw: bool = False
    quiet: bool = False


#: What is worth saying even if little is to be said: it means that lines may be missing.
_LOUD = frozenset(
    {"dropped", "missed", "unreadable", "not-a-file", "too-many", "policy", "pattern"}
    | {"journal", "cut", "worker"}
)


def clean(data: bytes) -> str:
    """Return a line as text that no terminal acts upon; tabs stay."""
    text = data.removesuffix(b"\r").decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "\t".join(printable(piece, len(piece) + 1) for piece in text.split("\t"))


def _name(path: bytes) -> str:
    return clean(path).replace("\t", " ")


class TextTail:
    """One device's lines as text.

    Args:
        device: Its name.
        style: How to show them.
        write: Takes bytes for stdout or stderr.
    """

    def __init__(self, device: str, style: Style, write: Write) -> None:
        self._device = printable(device)
        self._style = style
        self._write = write
        self._shown: bytes | None = None
        self._within = False

    def line_received(self, line: TailLine) -> None:
        style = self._style
        prefix = self._prefix(line)
        shown = [self._header(line.path)] if style.headers else []
        if self._within and not (line.more and not prefix):
            shown.append(b"\n")
        shown.append(prefix)
        if line.entry is not None:
            shown.append(_entry(line, line.entry, style.raw))
        else:
            shown.append(line.data if style.raw else clean(line.data).encode("utf-8"))
        if line.cut:
            shown.append(f" \u2026[{line.cut:,} bytes cut]".encode())
        self._within = line.part and not prefix
        if not self._within:
            shown.append(b"\n")
        self._write(b"".join(shown), False)

    def _prefix(self, line: TailLine) -> bytes:
        names = [self._device] if self._style.device else []
        if self._style.file and line.path is not None:
            names.append(_name(line.path))
        if not names:
            return b""
        return f"{':'.join(names)}{'+' if line.more else ':'} ".encode()

    def _header(self, path: bytes | None) -> bytes:
        if path is None or path == self._shown:
            return b""
        first, self._shown = self._shown is None, path
        within, self._within = self._within, False
        space = ("" if first else "\n") + ("\n" if within else "")
        return f"{space}==> {_name(path)} <==\n".encode()

    def notice_received(self, notice: TailNotice) -> None:
        if self._style.quiet and notice.code not in _LOUD:
            return
        text = printable(notice.text, 500)
        if notice.path is not None and notice.code == "dropped":
            text = f"{_name(notice.path)}: {text}"
        self._write(f"rshell: {self._device}: {text}\n".encode(), True)

    # -- Presenter -------------------------------------------------------------------------------

    def output(self, data: bytes, stderr: bool) -> None:
        """Lines come as lines."""

    def gap(self, count: int) -> None:
        """A tail has none."""

    def end(self, outcome: Outcome) -> None:
        if self._within:
            self._write(b"\n", False)
        if outcome.status not in ("ok", "exit", "signal"):
            self._write(complaint(self._device, outcome), True)


def _entry(line: TailLine, entry: JournalEntry, raw: bool) -> bytes:
    name = printable(entry.ident or "?", 64)
    process = "" if entry.pid is None else f"[{printable(str(entry.pid), 16)}]"
    head = f"{_moment(entry.time)} {name}{process}: ".encode()
    if raw:
        return head + line.data
    # A message of several lines is one entry: what follows its first line is set in.
    first, *others = line.data.split(b"\n")
    return b"\n    ".join([head + clean(first).encode(), *(clean(o).encode() for o in others)])


def _moment(microseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds // 1000 % 1000:03d}Z"


class JsonTail:
    """One device's lines as JSON, an object a line.

    Args:
        device: Its name.
        write: Takes bytes for stdout or stderr.
    """

    def __init__(self, device: str, write: Write) -> None:
        self._device = device
        self._write = write

    def _put(self, shown: dict[str, Any]) -> None:
        self._write(encode_json({"device": self._device, **shown}) + b"\n", False)

    def line_received(self, line: TailLine) -> None:
        shown: dict[str, Any] = {"stream": "stdout", **_file(line.path)}
        if line.entry is not None:
            entry = line.entry
            shown["time"] = _moment(entry.time)
            for key in ("unit", "ident", "pid", "priority"):
                if (value := getattr(entry, key)) is not None:
                    shown[key] = value
        try:
            shown["data"] = line.data.decode("utf-8")
        except UnicodeDecodeError:
            shown["data_b64"] = line.data
        if line.path is not None:
            shown["pos"] = line.pos
        if line.cut:
            shown["cut_bytes"] = line.cut
        if line.part:
            shown["part"] = True
        if line.more:
            shown["more"] = True
        self._put(shown)

    def notice_received(self, notice: TailNotice) -> None:
        shown: dict[str, Any] = {"event": notice.code, **_file(notice.path)}
        if notice.count:
            shown["count"] = notice.count
        shown["message"] = printable(notice.text, 500)
        self._put(shown)

    # -- Presenter -------------------------------------------------------------------------------

    def output(self, data: bytes, stderr: bool) -> None:
        """Lines come as lines."""

    def gap(self, count: int) -> None:
        """A tail has none."""

    def end(self, outcome: Outcome) -> None:
        shown = {
            name: value
            for name in outcome.__struct_fields__
            if (value := getattr(outcome, name)) is not None
        }
        self._put({"outcome": shown})


def _file(path: bytes | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return {"file": path.decode("utf-8")}
    except UnicodeDecodeError:
        return {"file_b64": path}
