"""What the console's objects answer, and how that looks.

A `Call` is something that can be awaited and has not begun.  Typed alone it is awaited by the
prompt, so ``fleet["pump-1"].run("uptime")`` does what it says; in an expression it needs ``await``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

import attrs
import msgspec

from rshell.client import CompletedCommand, Outcome, describe_outcome
from rshell.doors.console.painting import BOLD, DIM, RED, safe_text, table, tint

__all__ = ["Call", "Done", "DoneMany", "Rows", "Shown", "record_text"]

T = TypeVar("T")
#: Devices named in one heading.
MAX_NAMED = 12


class Call(Generic[T]):
    """Something that can be awaited, once or often; each time it is done anew.

    Args:
        what: How it is written.
        start: Does it.
    """

    def __init__(self, what: str, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._what = what
        self._start = start

    def __await__(self) -> Generator[Any, Any, T]:
        return self._start().__await__()

    def __repr__(self) -> str:
        return f"<{safe_text(self._what, 200)}: not begun; await it>"


class Shown:
    """Something with a look of its own at the prompt."""

    @abstractmethod
    def look(self, columns: int) -> str:
        """Return safe text, perhaps with colours, for a terminal of that width; 0 is none."""


class Rows(list[Any], Shown):
    """Records, shown as a table.

    Args:
        records: The records.
        headings: Of the columns.
        cells: Makes a record's cells.
        nothing: What is shown if there are none.
    """

    def __init__(
        self,
        records: Sequence[Any],
        headings: Sequence[str],
        cells: Callable[[Any], Sequence[str]],
        nothing: str = "none",
    ) -> None:
        super().__init__(records)
        self._headings, self._cells, self._nothing = headings, cells, nothing

    def look(self, columns: int) -> str:
        if not self:
            return tint(DIM, self._nothing)
        return table(self._headings, [self._cells(record) for record in self], columns)


def record_text(record: msgspec.Struct) -> str:
    """Return a record's name and what its fields say, one a line; empty ones are left out."""
    said = [(name, getattr(record, name)) for name in record.__struct_fields__]
    said = [(name, value) for name, value in said if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in said), default=0)
    lines = [f"  {name.ljust(width)}  {_short(value)}" for name, value in said]
    return "\n".join([type(record).__name__, *lines])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


@attrs.frozen
class Done(Shown):
    """A command or handler that has ended.

    Attributes:
        device: Where.
        stdout: Its output, decoded; bytes that are no UTF-8 are replaced.
        stderr: Likewise.
        outcome: How it ended.
        raw: All of it, as bytes.
    """

    device: str
    stdout: str
    stderr: str
    outcome: Outcome
    raw: CompletedCommand

    @classmethod
    def new(cls, completed: CompletedCommand) -> Done:
        """Return what is shown of a command."""
        return cls(
            device=completed.device,
            stdout=completed.stdout.decode("utf-8", "replace"),
            stderr=completed.stderr.decode("utf-8", "replace"),
            outcome=completed.outcome,
            raw=completed,
        )

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.outcome.status == "ok"

    @property
    def result(self) -> Any:
        """The handler's answer, if it has one."""
        return self.outcome.result

    def look(self, columns: int) -> str:
        parts = [safe_text(self.stdout.removesuffix("\n"))] if self.stdout else []
        if self.stderr:
            parts.append(tint(RED, safe_text(self.stderr.removesuffix("\n"))))
        if self.outcome.result is not None:
            parts.append(safe_text(repr(self.outcome.result)))
        if self.raw.truncated:
            parts.append(tint(DIM, "… more output was dropped"))
        if not self.ok:
            words = f"{self.device}: {describe_outcome(self.outcome)}"
            parts.append(tint(RED, safe_text(words)))
        # A program's output is what the program makes; a person wants to see that it is over.
        return "\n".join(parts) or (tint(DIM, "done, without output") if columns else "")


class DoneMany(list[Done], Shown):
    """The same command on many devices; what is identical is shown once."""

    @property
    def failed(self) -> list[Done]:
        """Those that did not succeed."""
        return [done for done in self if not done.ok]

    @property
    def ok(self) -> bool:
        """Whether all succeeded."""
        return not self.failed

    def look(self, columns: int) -> str:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for done in self:
            words = "" if done.ok else describe_outcome(done.outcome)
            groups.setdefault((done.stdout, done.stderr, words), []).append(done.device)
        parts = [self._group(*key, names) for key, names in groups.items()]
        failed = len(self.failed)
        total = f"{len(self) - failed} of {len(self)} succeeded"
        return "\n".join([*parts, tint(RED if failed else DIM, total)])

    @staticmethod
    def _group(stdout: str, stderr: str, words: str, names: list[str]) -> str:
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        heading = ", ".join(sorted(names)[:MAX_NAMED]) + more
        parts = [tint(BOLD, safe_text(f"{heading}:"))]
        if stdout:
            parts.append(safe_text(stdout.removesuffix("\n")))
        if stderr:
            parts.append(tint(RED, safe_text(stderr.removesuffix("\n"))))
        if words:
            parts.append(tint(RED, safe_text(words)))
        return "\n".join(parts)
