"""What ``rshell cp`` shows: a bar at a terminal, one line of summary, or JSON lines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, Protocol

from rshell.access.printable import printable
from rshell.cli.away import notice_for
from rshell.cli.fanout import Outputs
from rshell.cli.presenting import encode_json
from rshell.client import Away, RshellError
from rshell.client.files.copying import Copy
from rshell.client.files.progress import CopyReport, FileResult, Progress
from rshell.client.files.records import ADVICE

__all__ = ["CopyView", "JsonView", "TextView", "describe_size", "summary", "view_for"]

#: How often the bar is drawn: smooth for an eye, nothing for a processor.
TICK_SECONDS = 0.2


class CopyView(Protocol):
    """Shows a copy."""

    def begin(self, copying: Copy) -> None:
        """Show this one from now on."""

    def file_done(self, result: FileResult) -> None:
        """A file, folder or link is done, well or not."""

    async def end(self, report: CopyReport) -> None:
        """Show how it ended."""

    async def failed(self, error: RshellError) -> bool:
        """It could not be done at all; whether that was shown."""

    def close(self) -> None:
        """Take back what is not to stay."""

    def status(self, own: int) -> int:
        """Return the exit status: ``own``, unless our output was lost."""


def view_for(
    reactor: Any, devices: Sequence[str], json: bool, quiet: bool, dry_run: bool
) -> CopyView:
    """Return the view that the options and our streams call for."""
    outputs = Outputs(reactor)
    if json:
        return JsonView(outputs, devices)
    bar = not quiet and not dry_run and os.isatty(2)
    return TextView(reactor, outputs, quiet=quiet, dry_run=dry_run, bar=bar)


def describe_size(size: float) -> str:
    """Return bytes for people: ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def summary(report: CopyReport) -> str:
    """Return how a copy ended, in one line."""
    rate = report.bytes_copied / report.seconds if report.seconds > 0 else 0.0
    told = [
        f"{_files(report.copied)} copied, {describe_size(report.bytes_copied)} in "
        f"{report.seconds:.1f} s ({describe_size(rate)}/s)"
    ]
    if report.bytes_sent < 0.95 * report.bytes_copied:
        told.append(f"{describe_size(report.bytes_sent)} over the wire")
    if report.unchanged:
        told.append(f"{_files(report.unchanged)} unchanged")
    if report.skipped:
        told.append(f"{report.skipped:,} passed over")
    if report.failed:
        told.append(f"{report.failed:,} failed")
    return "; ".join(told)


def _place(device: str | None, path: bytes) -> str:
    text = printable(os.fsdecode(path), 500)
    return text if device is None else f"{printable(device, 64)}:{text}"


class TextView:
    """For people.

    Args:
        reactor: The clock.
        outputs: Our streams.
        quiet: Only errors.
        dry_run: Say what would be done.
        bar: Whether stderr is a terminal that gets a progress bar.
    """

    def __init__(
        self, reactor: Any, outputs: Outputs, *, quiet: bool, dry_run: bool, bar: bool
    ) -> None:
        self._reactor = reactor
        self._outputs = outputs
        self._quiet = quiet
        self._dry_run = dry_run
        self._bar = Bar(reactor, self._write) if bar else None
        self._notice = notice_for(reactor, self._write)
        self._advised = False

    def _write(self, data: bytes) -> None:
        self._outputs.write(data, True)

    def begin(self, copying: Copy) -> None:
        self._outputs.changed = lambda: copying.stop() if self._outputs.failed else None
        copying.link_changed = self._link_changed
        if self._bar is not None:
            self._bar.begin(copying.progress)

    def _link_changed(self, device: str, away: Away | None) -> None:
        if self._bar is not None:
            self._bar.away = "" if away is None else f"{printable(device, 64)}: link lost, retrying"
        else:
            self._notice.changed(device, away)

    def file_done(self, result: FileResult) -> None:
        source = _place(result.source_device, result.source)
        if result.status == "planned":
            place = _place(result.target_device, result.target)
            self._outputs.write(f"{source} -> {place}\n".encode(), False)
        elif result.message:
            place = f" -> {_place(result.target_device, result.target)}" if result.target else ""
            self._say(f"{source}{place}: {result.message}{self._advice(result.code)}")

    def _advice(self, code: str) -> str:
        """Return what to do about a device's policy, once; other codes may be of this machine."""
        if code != "policy" or self._advised:
            return ""
        self._advised = True
        return f" ({ADVICE[code]})"

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self._write(f"rshell: {text}\n".encode())

    async def end(self, report: CopyReport) -> None:
        self.close()
        if report.ended == "cancelled":
            self._say("stopped; run the same command again to go on from there")
        elif report.ended:
            self._say(f"{report.message}; run the same command again to go on from there")
        if self._dry_run:
            text = f"would copy {_files(report.copied)}"
            if report.unchanged:
                text += f"; {_files(report.unchanged)} unchanged"
        else:
            text = summary(report)
        if not self._quiet:
            self._outputs.write(f"{text}\n".encode(), False)
        await self._outputs.drained()

    async def failed(self, error: RshellError) -> bool:
        self.close()
        await self._outputs.drained()
        return False

    def close(self) -> None:
        self._notice.stop()
        if self._bar is not None:
            self._bar.close()

    def status(self, own: int) -> int:
        return self._outputs.status(own)


class Bar:
    """The progress of a copy in one line of a terminal.

    Drawn by rich as text and written by us: its own live display would take a thread, and the
    terminal from the lines between.

    Attributes:
        away: What to say instead of the rate, if the link is gone.
    """

    def __init__(self, reactor: Any, write: Any) -> None:
        self.away = ""
        self._reactor = reactor
        self._write = write
        self._progress: Progress | None = None
        self._timer: Any = None
        self._drawn = False
        self._seen: list[tuple[float, int]] = []

    def begin(self, progress: Progress) -> None:
        """Draw this from now on."""
        self._progress = progress
        self._timer = self._reactor.callLater(TICK_SECONDS, self._tick)

    def close(self) -> None:
        """Draw no more, and take back what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.clear()

    def clear(self) -> None:
        """Take the line back; the next tick draws it again."""
        if self._drawn:
            self._drawn = False
            self._write(b"\r\x1b[K")

    def _tick(self) -> None:
        self._timer = self._reactor.callLater(TICK_SECONDS, self._tick)
        if self._progress is not None:
            width = shutil.get_terminal_size().columns
            self._drawn = True
            self._write(b"\r" + self.line(self._progress, width).encode() + b"\x1b[K")

    def line(self, progress: Progress, width: int) -> str:
        """Return the line, with its colours, for a terminal so many columns wide."""
        from rich.console import Console
        from rich.progress_bar import ProgressBar

        left, right = self._texts(progress)
        room = width - len(left) - len(right) - 3
        if room < 8:
            return f"{left} {right}"[: max(0, width - 1)]
        total = progress.bytes_total or 1
        bar = ProgressBar(total=total, completed=min(progress.bytes_done, total), width=room)
        console = Console(width=width, force_terminal=True, color_system="standard")
        with console.capture() as capture:
            console.print(bar, end="")
        return f"{left} {capture.get()} {right}"

    def _texts(self, progress: Progress) -> tuple[str, str]:
        name = printable(os.fsdecode(progress.current.rpartition(b"/")[2]), 24)
        if not progress.planned:
            return "looking", f"{_files(progress.files_total)}"
        share = progress.bytes_done / progress.bytes_total if progress.bytes_total else 1.0
        left = f"{progress.files_done:,}/{progress.files_total:,} {name} {share:4.0%}"
        if self.away:
            return left, self.away
        rate = self._rate(progress)
        todo = progress.bytes_total - progress.bytes_done
        eta = f"{_duration(todo / rate)} left" if rate > 0 else ""
        return left, f"{describe_size(rate)}/s {eta}".rstrip()

    def _rate(self, progress: Progress) -> float:
        """Return bytes a second over the last seconds, without what was there already."""
        now = self._reactor.seconds()
        self._seen.append((now, progress.bytes_done - progress.bytes_found))
        del self._seen[:-25]
        (then, before), (_, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (now - then)) if now > then else 0.0


def _duration(seconds: float) -> str:
    whole = int(min(seconds, 359_999))
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"


class JsonView:
    """For programs: an object for each file, and an outcome for each device."""

    def __init__(self, outputs: Outputs, devices: Sequence[str]) -> None:
        self._outputs = outputs
        self._counts = {device: CopyReport() for device in devices}

    def _show(self, value: dict[str, Any]) -> None:
        self._outputs.write(encode_json(value) + b"\n", False)

    def begin(self, copying: Copy) -> None:
        self._outputs.changed = lambda: copying.stop() if self._outputs.failed else None

    def file_done(self, result: FileResult) -> None:
        device = result.target_device or result.source_device
        shown: dict[str, Any] = {"device": device, "status": result.status, "kind": result.kind}
        for name, where, path in (
            ("source", result.source_device, result.source),
            ("target", result.target_device, result.target),
        ):
            if path:
                self._show_path(shown, name, where, path)
        shown |= {"bytes": result.size, "sent": result.sent}
        if result.code:
            shown["code"] = result.code
        if result.message:
            shown["message"] = result.message
        for involved in {result.target_device, result.source_device} - {None}:
            if involved in self._counts:
                self._counts[involved].count(result)
        self._show(shown)

    @staticmethod
    def _show_path(shown: dict[str, Any], name: str, device: str | None, path: bytes) -> None:
        if device is not None:
            shown[f"{name}_device"] = device
        try:
            shown[name] = path.decode("utf-8")
        except UnicodeDecodeError:
            shown[f"{name}_b64"] = path

    async def end(self, report: CopyReport) -> None:
        for device, counts in self._counts.items():
            status, code, message = "ok", report.ended, report.message
            if report.ended:
                status = "lost" if report.ended in ("link-lost", "lost") else "error"
            elif counts.failed:
                status, code = "error", "failed"
                message = f"{counts.failed:,} could not be copied"
            outcome: dict[str, Any] = {"status": status}
            if code:
                outcome |= {"code": code, "message": message}
            outcome |= {
                "copied": counts.copied,
                "unchanged": counts.unchanged,
                "failed": counts.failed,
                "skipped": counts.skipped,
                "bytes": counts.bytes_copied,
                "sent": counts.bytes_sent,
            }
            self._show({"device": device, "outcome": outcome})
        await self._outputs.drained()

    async def failed(self, error: RshellError) -> bool:
        status = {"offline": "offline", "link-lost": "lost", "lost": "lost", "policy": "refused"}
        for device in self._counts:
            outcome = {
                "status": status.get(error.code, "error"),
                "code": error.code,
                "message": error.message,
            }
            self._show({"device": device, "outcome": outcome})
        await self._outputs.drained()
        return True

    def close(self) -> None:
        """Nothing is drawn."""

    def status(self, own: int) -> int:
        return self._outputs.status(own)
