"""From bytes as they are read to lines, whatever the bytes are."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MAX_LINE_BYTES", "Line", "LineCutter"]

#: What is kept of one line.  Longer ones exist (dumps, a file without any newline) and are cut, so
#: that neither our memory nor a record grows with them.
MAX_LINE_BYTES = 64 * 1024


class Line(NamedTuple):
    """A line, or a piece of one.

    Attributes:
        text: Without its newline.
        end: The offset in the file behind it and its newline.
        cut: Bytes of it that were left out.
        part: Whether its newline has not come yet.
        more: Whether it continues a piece that was given before.
    """

    text: bytes
    end: int
    cut: int = 0
    part: bool = False
    more: bool = False


class LineCutter:
    """Cuts one file's bytes at newlines.

    Args:
        more: Whether what comes first continues a line whose beginning was told before.

    Attributes:
        waiting: Whether there is an unfinished line that was not given as a piece.
        continues: Whether what comes next continues a piece that was given.
    """

    def __init__(self, more: bool = False) -> None:
        self._kept = b""
        self._cut = 0
        self._more = more

    @property
    def waiting(self) -> bool:
        return bool(self._kept or self._cut)

    @property
    def continues(self) -> bool:
        return self._more

    def feed(self, data: bytes, start: int) -> list[Line]:
        """Return the lines that data completes.

        Args:
            data: What follows.
            start: Its offset in the file.
        """
        pieces = data.split(b"\n")
        rest = pieces.pop()
        lines = []
        end = start
        for index, piece in enumerate(pieces):
            end += len(piece) + 1
            if index == 0 or len(piece) > MAX_LINE_BYTES:
                self._keep(piece)
                lines.append(self._taken(end, part=False))
            else:
                lines.append(Line(piece, end))
        self._keep(rest)
        return lines

    def skip(self, data: bytes) -> int:
        """Return how many lines data completes, without looking at them."""
        count = data.count(b"\n")
        if count:
            self._kept, self._cut, self._more = b"", 0, False
            data = data[data.rfind(b"\n") + 1 :]
        self._keep(data)
        return count

    def flush(self, end: int) -> Line | None:
        """Return the unfinished line as it is; what follows continues it."""
        if not self.waiting:
            return None
        return self._taken(end, part=True)

    def _keep(self, data: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._kept)
        self._kept += data[:room]
        self._cut += max(0, len(data) - room)

    def _taken(self, end: int, part: bool) -> Line:
        line = Line(self._kept, end, self._cut, part, self._more)
        self._kept, self._cut, self._more = b"", 0, part
        return line
