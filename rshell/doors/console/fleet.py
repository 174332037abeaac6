"""Fleet and Selection: all devices, and those that a selector picks.

A selection runs a command with a table that is repainted while it runs; then what is identical is
shown once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError

from rshell.client import Client, CompletedCommand, Outcome, Session, describe_outcome
from rshell.client import Device as DeviceRow
from rshell.client.commands import Collected, RunMany
from rshell.client.errors import SelectedNothing
from rshell.doors.console.device import MAX_OUTPUT_BYTES, Device, Workbench, command_of
from rshell.doors.console.painting import DIM, table, tint
from rshell.doors.console.results import Call, Done, DoneMany, Rows
from rshell.doors.console.signatures import request_of
from rshell.link.clock import WheelTimer

__all__ = ["Fleet", "Selection"]

#: Commands of one selection that run at once.
CONCURRENCY = 50
#: What is kept of each of many outputs.
MAX_EACH_BYTES = MAX_OUTPUT_BYTES // 16
#: Between two paintings of the table: more is not seen, and costs a slow terminal.
PAINT_SECONDS = 0.25


def _device_cells(row: DeviceRow) -> Sequence[str]:
    labels = " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()))
    return (row.name, row.state, labels, row.address or "", row.last_seen or "")


class Fleet:
    """All devices: ``fleet["pump-1"]``, ``fleet.select("site=berlin")``, ``fleet.devices()``."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench

    def __repr__(self) -> str:
        return "<fleet>"

    def __getitem__(self, name: str) -> Device:
        if not isinstance(name, str):
            raise TypeError('a device is named by text: fleet["pump-1"]')
        return Device(self._workbench, name)

    def select(self, selector: str) -> Selection:
        """Return the devices that a selector picks: ``pump-*``, ``site=berlin,tier!=test``."""
        return Selection(self._workbench, selector)

    def devices(self, selector: str = "") -> Call[Rows]:
        """List devices."""

        async def work() -> Rows:
            found = await self._workbench.client.devices(selector)
            headings = ("DEVICE", "STATE", "LABELS", "ADDRESS", "LAST SEEN")
            return Rows(found, headings, _device_cells, "no devices")

        return Call("devices", work)

    def default_call(self) -> Call[Rows]:
        """Return what is shown for ``fleet`` alone."""
        return self.devices()

    async def device_names(self) -> list[str]:
        """Return the names of all devices, for completion."""
        return [row.name for row in await self._workbench.client.devices()]


class Selection:
    """The devices that a selector picks, each time anew."""

    def __init__(self, workbench: Workbench, selector: str) -> None:
        self._workbench = workbench
        self._selector = selector

    def __repr__(self) -> str:
        return f"<devices {self._selector!r}>"

    def default_call(self) -> Call[Rows]:
        """Return what is shown for the selection alone."""
        return Fleet(self._workbench).devices(self._selector)

    def devices(self) -> Call[Rows]:
        """List them."""
        return self.default_call()

    def run(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        login: str | None = None,
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
    ) -> Call[DoneMany]:
        """Run a command on all of them, so many at once."""
        request = command_of(command, timeout)
        start = partial(_start, self._workbench.client, "exec", request, login, None)
        work = partial(self._on_all, start, concurrency)
        return Call(f"run {command!r} on {self._selector}", work)

    def call(
        self,
        handler: str,
        *arguments: Any,
        login: str | None = None,
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
        **named: Any,
    ) -> Call[DoneMany]:
        """Call a handler, also a plug-in's, on all of them, so many at once."""

        async def work() -> DoneMany:
            rows = await self._rows()
            first = next((row for row in rows if row.live), rows[0])
            found = await Device(self._workbench, first.name)._handler(handler)
            request = request_of(found, arguments, named)
            start = partial(_start, self._workbench.client, found.name, request, login, timeout)
            return await self._on_all(start, concurrency)

        return Call(f"{handler} on {self._selector}", work)

    async def _rows(self) -> list[DeviceRow]:
        rows = [r for r in await self._workbench.client.devices(self._selector) if not r.revoked]
        if not rows:
            raise SelectedNothing(self._selector)
        return rows

    async def _on_all(
        self, begin: Callable[[str], tuple[Session, Collected]], concurrency: int
    ) -> DoneMany:
        rows = await self._rows()
        view = _LiveTable(self._workbench, [row.name for row in rows])
        done = DoneMany()
        for row in rows:
            if not row.live:
                done.append(view.ended(Done.new(_absent(row))))

        def start(device: str) -> tuple[Session, Collected]:
            view.begun(device)
            return begin(device)

        running = RunMany([row.name for row in rows if row.live], start, max(1, concurrency))
        view.start()
        try:
            async for completed in running:
                done.append(view.ended(Done.new(completed)))
        except CancelledError:
            running.cancel()
            raise
        finally:
            view.stop()
        return done


def _start(
    client: Client,
    handler: str,
    request: dict[str, Any],
    login: str | None,
    timeout: float | None,
    device: str,
) -> tuple[Session, Collected]:
    collected = Collected(MAX_EACH_BYTES)
    session = client.open(device, handler, request, collected, login=login, timeout=timeout)
    session.write_eof()
    return session, collected


def _absent(row: DeviceRow) -> CompletedCommand:
    seen = f"last seen {row.last_seen}" if row.last_seen else "never seen"
    outcome = Outcome(status="offline", code="offline", message=f"{row.name} is offline: {seen}")
    return CompletedCommand(row.name, b"", b"", outcome)


class _LiveTable:
    """Where each device stands, painted while it changes.

    The devices that run come first, then those that ended last: of 5,000 a screen shows those that
    somebody waits for.
    """

    def __init__(self, workbench: Workbench, names: list[str]) -> None:
        self._screen = workbench.screen
        self._wheel = workbench.wheel
        self._total = len(names)
        self._running: dict[str, None] = {}
        self._ended: list[Done] = []
        self._timer: WheelTimer | None = None

    def begun(self, device: str) -> None:
        self._running[device] = None

    def ended(self, done: Done) -> Done:
        self._running.pop(done.device, None)
        self._ended.append(done)
        return done

    def start(self) -> None:
        self._paint()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._screen.unpaint()

    def _paint(self) -> None:
        room = max(3, self._screen.rows - 4)
        rows = [(name, "running", "") for name in list(self._running)[:room]]
        for done in reversed(self._ended[-room:]):
            last = done.stdout.rstrip("\n").rpartition("\n")[2]
            rows.append((done.device, describe_outcome(done.outcome), last))
        text = table(("DEVICE", "STATE", "LAST LINE"), rows[:room], self._screen.columns)
        failed = sum(not done.ok for done in self._ended)
        total = f"{len(self._ended)} of {self._total} done, {failed} failed; Ctrl-C ends the rest"
        self._screen.repaint(f"{text}\n{tint(DIM, total)}")
        self._timer = self._wheel.call_later(PAINT_SECONDS, self._paint)
