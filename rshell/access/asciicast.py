"""asciicast v2: a terminal session as text lines, and a strict reader of such text.

Pure: bytes and times in, lines out, and back.  The format is that of asciinema
(https://docs.asciinema.org/manual/asciicast/v2/): a JSON header, then one JSON array an event,
``[seconds, code, text]``, with the codes ``o`` output, ``i`` input, ``r`` resize and ``m`` marker.
Text is UTF-8; bytes that are not become U+FFFD, and a character that is cut is held until its rest
has come.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs
import msgspec

__all__ = [
    "BadCast",
    "CastEvent",
    "CastHeader",
    "TextPieces",
    "event_line",
    "header_line",
    "parse_event",
    "parse_header",
    "read_cast",
]

#: No event that we write is longer: it is what one flush of a recording may hold, escaped.
MAX_LINE: Final = 8 * 1024 * 1024
_SIZE = re.compile(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", re.ASCII)
_CODES: Final = frozenset("oirm")
_ENCODER = msgspec.json.Encoder()


class BadCast(ValueError):
    """This is no asciicast v2; the text is one line and names the line."""


@attrs.frozen(kw_only=True)
class CastHeader:
    """The first line.

    Attributes:
        columns, rows: of the terminal, in character cells.
        timestamp: when it began, seconds since 1970 UTC.
        title: for people.
        term: the terminal's type.
    """

    columns: int
    rows: int
    timestamp: int
    title: str = ""
    term: str = ""


@attrs.frozen
class CastEvent:
    """One event: seconds since the beginning, code, text."""

    seconds: float
    code: str
    text: str


class TextPieces:
    """Decodes bytes that are cut anywhere; what is not UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """Return the text that is complete."""
        return self._decoder.decode(data)

    def end(self) -> str:
        """Return what stands for a character that was never completed."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def header_line(header: CastHeader) -> bytes:
    """Return the first line of a recording."""
    fields: dict[str, Any] = {
        "version": 2,
        "width": header.columns,
        "height": header.rows,
        "timestamp": header.timestamp,
    }
    if header.title:
        fields["title"] = header.title
    if header.term:
        fields["env"] = {"TERM": header.term}
    return _ENCODER.encode(fields) + b"\n"


def event_line(milliseconds: int, code: str, text: str) -> bytes:
    """Return the line of one event."""
    seconds, rest = divmod(milliseconds, 1000)
    return b"[%d.%03d, " % (seconds, rest) + _ENCODER.encode([code, text])[1:-1] + b"]\n"


def parse_header(line: bytes) -> CastHeader:
    """Read the first line.

    Raises:
        BadCast: It is none.
    """
    fields = _decoded(line, 1)
    if not isinstance(fields, dict) or fields.get("version") != 2:
        raise BadCast("line 1: no header of asciicast version 2")
    for name in ("width", "height"):
        if not _is_int(fields.get(name)) or not 0 < fields[name] < 10_000:
            raise BadCast(f"line 1: {name} is no number of cells")
    timestamp = fields.get("timestamp", 0)
    if not _is_int(timestamp):
        raise BadCast("line 1: timestamp is no whole number")
    environment, title = fields.get("env", {}), fields.get("title", "")
    if not isinstance(environment, dict) or not isinstance(title, str):
        raise BadCast("line 1: env is no map, or title no text")
    return CastHeader(
        columns=fields["width"],
        rows=fields["height"],
        timestamp=timestamp,
        title=title,
        term=str(environment.get("TERM", "")),
    )


def parse_event(line: bytes, number: int) -> CastEvent:
    """Read a line that is not the first.

    Raises:
        BadCast: It is no event.
    """
    event = _decoded(line, number)
    if not isinstance(event, list) or len(event) != 3:
        raise BadCast(f"line {number}: no event of three parts")
    seconds, code, text = event
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise BadCast(f"line {number}: the time is no number of seconds")
    if code not in _CODES or not isinstance(text, str):
        raise BadCast(f"line {number}: an unknown code, or no text")
    if code == "r" and not _SIZE.fullmatch(text):
        raise BadCast(f"line {number}: {text[:32]!r} is no COLUMNSxROWS")
    return CastEvent(float(seconds), code, text)


def read_cast(data: bytes) -> tuple[CastHeader, Iterator[CastEvent]]:
    """Read a whole recording, strictly: times never fall, every line ends.

    Raises:
        BadCast: It is none; of an event when it is reached.
    """
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise BadCast(f"line {len(lines) + 1}: does not end")
    if not lines:
        raise BadCast("line 1: nothing is there")
    return parse_header(lines[0]), _events(lines[1:])


def _events(lines: list[bytes]) -> Iterator[CastEvent]:
    before = 0.0
    for number, line in enumerate(lines, 2):
        event = parse_event(line, number)
        if event.seconds < before:
            raise BadCast(f"line {number}: time goes back")
        before = event.seconds
        yield event


def _decoded(line: bytes, number: int) -> Any:
    if len(line) > MAX_LINE:
        raise BadCast(f"line {number}: too long")
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadCast(f"line {number}: no JSON") from None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
