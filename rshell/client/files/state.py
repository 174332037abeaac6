"""What all parts of one copy share: options, limits, numbers, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred

from rshell.client.errors import RshellError
from rshell.client.files.limit import RateLimit
from rshell.client.files.plan import Problem, Step
from rshell.client.files.progress import CopyReport, FileResult, Observer, Progress
from rshell.client.files.records import Entry, FilesError

__all__ = [
    "CopyOptions",
    "CopyState",
    "CopyStopped",
    "InThread",
    "next_of",
    "same_file_state",
    "stepped",
]

Value = TypeVar("Value")
P = ParamSpec("P")


class InThread(Protocol):
    """Runs something that blocks elsewhere; tests run it at once."""

    def __call__(
        self, function: Callable[P, Value], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[Value]:
        """Return a Deferred of what the function returns or raises."""


class CopyStopped(RshellError):
    """The copy was stopped from outside; code ``cancelled``."""

    def __init__(self) -> None:
        super().__init__("cancelled", "stopped", "run it again to go on where it stopped")


@attrs.frozen
class CopyOptions:
    """How to copy.

    Attributes:
        recursive: Folders with all that is in them.
        login: The account on the device, or on both; None asks for its default.
        bytes_per_second: At most; None is without limit.
        checksum: Files are unchanged if their digests agree; else if size and time do.
        delta: Send only what differs from the file that is there, where that pays.
        compress: ``auto``, ``none``, ``zstd`` or ``zlib``.
        dry_run: Only tell what would be done.
    """

    recursive: bool = False
    login: str | None = None
    bytes_per_second: int | None = None
    checksum: bool = False
    delta: bool = True
    compress: str = "auto"
    dry_run: bool = False


class CopyState:
    """One copy's common knowledge.

    Args:
        clock: Twisted's reactor, or a clock.
        in_thread: See `InThread`.
        options: How to copy.
        source_device: None for this machine.
        target_device: Likewise.
        observer: Told of each file.

    Attributes:
        progress: Where it stands.
        report: How it will have ended.
        stopped: Whether somebody asked it to end.
        last_try: Whether a file that changes while it is copied has failed by that.
    """

    def __init__(
        self,
        clock: Any,
        in_thread: InThread,
        options: CopyOptions,
        source_device: str | None,
        target_device: str | None,
        observer: Observer,
        progress: Progress,
        report: CopyReport,
        limit: RateLimit,
    ) -> None:
        self.clock = clock
        self.in_thread = in_thread
        self.options = options
        self.source_device = source_device
        self.target_device = target_device
        self.progress = progress
        self.report = report
        self.limit = limit
        self.stopped = False
        self.last_try = False
        self._observer = observer

    def check(self) -> None:
        """End here if the copy was stopped.

        Raises:
            CopyStopped: It was.
        """
        if self.stopped:
            raise CopyStopped

    # -- results ---------------------------------------------------------------------------------

    def tell(self, result: FileResult) -> None:
        """Count a result, and tell the observer."""
        self.report.count(result)
        self._observer(result)

    def finished(
        self, step: Step, status: str, *, sent: int = 0, code: str = "", message: str = ""
    ) -> None:
        """Tell that a step is done."""
        if step.kind == "file":
            self.progress.files_done += 1
            if status == "failed":
                self.progress.bytes_total -= step.entry.size
        self.tell(
            FileResult(
                status=status,
                kind=step.kind,
                source_device=self.source_device,
                source=step.source,
                target_device=self.target_device,
                target=step.target,
                size=step.entry.size if step.kind == "file" else 0,
                sent=sent,
                code=code,
                message=message,
            )
        )

    def failed(self, step: Step, error: FilesError, sent: int = 0) -> None:
        """Tell that a step failed."""
        self.finished(step, "failed", sent=sent, code=error.code, message=error.message)

    def found(self, step: Step, size: int) -> None:
        """Count bytes that were at the destination already."""
        self.progress.bytes_done += size
        self.progress.bytes_found += size

    def unchanged(self, step: Step) -> None:
        """Tell that a file was at its destination already."""
        self.found(step, step.entry.size)
        self.finished(step, "unchanged")

    def problem(self, problem: Problem) -> None:
        """Tell that something is not copied."""
        self.tell(
            FileResult(
                status="failed" if problem.failure else "skipped",
                kind="file",
                source_device=self.source_device,
                source=problem.source,
                target_device=self.target_device,
                target=b"",
                code=problem.error.code,
                message=problem.error.message,
            )
        )


async def stepped(state: CopyState, work: Iterator[Value]) -> Value:
    """Run an iterator to its end in a thread, a step at a time, and return its last value.

    Raises:
        CopyStopped: Somebody stopped the copy meanwhile.
    """
    last: list[Value] = []
    while True:
        value = await state.in_thread(next_of, work)
        if not value:
            return last[0]
        last = value
        state.check()


def next_of(work: Iterator[Value]) -> list[Value]:
    """Return the next value, or nothing at the end; StopIteration may not pass a Deferred."""
    for value in work:
        return [value]
    return []


def same_file_state(ours: Entry, theirs: Entry) -> bool:
    """Whether two files are the same by size and time of change."""
    if theirs.kind != "file" or ours.size != theirs.size:
        return False
    if ours.mtime_ns == theirs.mtime_ns:
        return True
    # Some file systems keep whole seconds only.
    second = 1_000_000_000
    whole = theirs.mtime_ns % second == 0 or ours.mtime_ns % second == 0
    return whole and ours.mtime_ns // second == theirs.mtime_ns // second
