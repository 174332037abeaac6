"""What a copy has done so far, and what became of each file."""

from __future__ import annotations

from collections.abc import Callable

import attrs

__all__ = ["CopyReport", "FileResult", "Progress"]


@attrs.frozen
class FileResult:
    """What became of one file, folder or link.

    Attributes:
        status: ``copied``, ``unchanged``, ``failed``, ``skipped`` (and told why), or ``planned``
            in a dry run.
        kind: ``file``, ``dir`` or ``link``.
        source_device: Where it came from; None is this machine.
        source: The path there.
        target_device: Where it went; None is this machine.
        target: The path there; empty if it never had one.
        size: Bytes of its content.
        sent: Bytes of it that went over the wire, packed as they were.
        code: Why not, as a stable word; "" if all is well.
        message: The same for people.
    """

    status: str
    kind: str
    source_device: str | None
    source: bytes
    target_device: str | None
    target: bytes
    size: int = 0
    sent: int = 0
    code: str = ""
    message: str = ""


@attrs.define
class Progress:
    """Numbers of a running copy, to be looked at whenever one likes.

    Attributes:
        files_total: Files that will be looked at; grows until `planned`.
        files_done: How many of them are done, well or not.
        bytes_total: Bytes in them.
        bytes_done: How many of these are at their destination, sent or found there.
        bytes_sent: What went over the wire for them.
        bytes_found: How many of `bytes_done` did not need to be sent.
        current: The file that is being copied.
        planned: Whether the totals are final.
    """

    files_total: int = 0
    files_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_sent: int = 0
    bytes_found: int = 0
    current: bytes = b""
    planned: bool = False


@attrs.define
class CopyReport:
    """How a copy ended.

    Attributes:
        copied: Files that were sent, or put together from what was there.
        unchanged: Files that were at their destination already.
        failed: What could not be copied.
        skipped: What was passed over, such as sockets.
        folders: Folders that were made.
        links: Symbolic links that were made.
        bytes_copied: The content of what was copied.
        bytes_sent: What went over the wire for it.
        seconds: How long it took.
        failures: The first of them.
        ended: Why the whole copy ended early, a stable word; "" if it did not.
        message: The same for people.
    """

    copied: int = 0
    unchanged: int = 0
    failed: int = 0
    skipped: int = 0
    folders: int = 0
    links: int = 0
    bytes_copied: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    failures: list[FileResult] = attrs.field(factory=list)
    ended: str = ""
    message: str = ""

    #: Kept of `failures`; the observer is told all.
    MAX_FAILURES = 100

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is at its destination."""
        return not self.failed and not self.ended

    def count(self, result: FileResult) -> None:
        """Take a result in."""
        self.bytes_sent += result.sent
        if result.status == "failed":
            self.failed += 1
            if len(self.failures) < self.MAX_FAILURES:
                self.failures.append(result)
        elif result.status == "skipped":
            self.skipped += 1
        elif result.kind == "file":
            if result.status == "unchanged":
                self.unchanged += 1
            else:
                self.copied += 1
                self.bytes_copied += result.size
        elif result.status != "unchanged":
            self.folders += result.kind == "dir"
            self.links += result.kind == "link"


#: Told what became of each file, in the reactor's thread.
Observer = Callable[[FileResult], None]
