"""Files of a device on their way to this machine.

Requests are sent ahead of their answers, within a budget of expected bytes.  What arrives is
handed in lots to a thread that unpacks, hashes, writes and lands it; while that lags behind, the
connection is paused, so memory stays flat.  For a large file two things may be worth a round trip:
to go on where an earlier copy stopped, and to fetch only what the old file here does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.client.files.arrivals import Arrival, Assembly, Outcome, land
from rshell.client.files.delta import Signature, matches, worth_a_delta
from rshell.client.files.device_end import DeviceEnd
from rshell.client.files.frames import DATA_OUT, END_OUT
from rshell.client.files.landing import Landing
from rshell.client.files.local import LocalFile
from rshell.client.files.local_end import LocalEnd
from rshell.client.files.naming import part_name, transfer_id
from rshell.client.files.pending import ANSWER_BYTES, Pending
from rshell.client.files.plan import Step
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.signatures import Described, fetch_signature
from rshell.client.files.state import CopyState, stepped
from rshell.client.files.upload import LARGE_BYTES, wants_another_try

__all__ = ["Download"]

#: What arrived and is not written yet; above, the connection is paused.
HIGH_BYTES = 4 * 1024 * 1024
LOW_BYTES = 1024 * 1024
#: Content of files is handed to the thread in lots, because a hop there and back costs as much as
#: to hash 256 KiB; what is less waits for so long at most, and never behind the end of a file.
LOT_BYTES = 1024 * 1024
LOT_SECONDS = 0.05
#: As the protocol has it.
MAX_RANGES = 2000
#: A device that describes a file in common with ours for less than this is not worth the ranges.
MIN_SHARE = 0.05


class Download:
    """Fetches files.

    Args:
        state: Of the copy.
        device: Where they are.
        local: Where they go; settled.
        present: What is there, by whole paths.
        compression: ``zstd``, ``zlib`` or None.

    Attributes:
        again: Files that were written meanwhile: worth another try.
    """

    def __init__(
        self,
        state: CopyState,
        device: DeviceEnd,
        local: LocalEnd,
        present: dict[bytes, Entry],
        compression: str | None,
    ) -> None:
        self.again: list[Step] = []
        self._state = state
        self._device = device
        self._connection = device.connection
        self._local = local
        self._present = present
        self._compression = compression
        self._pending = Pending(state)
        self._queue: list[tuple[Arrival, int, Any]] = []
        self._queued = 0
        #: Of the queue, what is not with the thread yet; and whether it is not to wait any longer.
        self._held = 0
        self._due = False
        self._over = False
        self._lot_timer: Any = None
        self._landing = False
        self._paused = False
        self._waiting_for_rate: Any = None
        self._open: dict[Arrival, None] = {}
        self._rest: Deferred[None] | None = None

    async def run(self, steps: Sequence[Step]) -> None:
        """Fetch files and wait until all have landed.

        Raises:
            RshellError: The session ended, or the copy was stopped.
        """
        try:
            for step in steps:
                await self._pending.room(step.entry.size)
                if step.entry.size > LARGE_BYTES and await self._fetch_large(step):
                    continue
                self._ask(Arrival(step, self._part(step)))
            await self._pending.at_most(0)
        finally:
            if self._waiting_for_rate is not None:
                self._waiting_for_rate.cancel()
                self._waiting_for_rate = None
            self._over = True
            self._stop_waiting()
            if self._paused:
                # The next requests, of a second try, want their answers.
                self._paused = False
                self._connection.resume()
            for arrival in self._open:
                # What is queued is dropped; a thread finishes what it is at.
                arrival.over = True
            await self._at_rest()
            for arrival in self._open:
                arrival.close()

    # -- asking ----------------------------------------------------------------------------------

    def _part(self, step: Step) -> bytes:
        entry = step.entry
        identity = (step.source, entry.size, entry.mtime_ns, entry.inode, entry.dev)
        return part_name(transfer_id(self._state.source_device or "", step.target, *identity))

    def _ask(self, arrival: Arrival) -> None:
        step = arrival.step
        fields: dict[str, Any] = {"path": step.source}
        if arrival.start:
            fields["offset"] = arrival.start
        if self._compression is not None:
            fields["compress"] = self._compression
        self._state.progress.current = step.source
        self._send("get", fields, arrival, step.entry.size - arrival.start)

    def _send(self, op: str, fields: dict[str, Any], arrival: Arrival, expected: int) -> None:
        expected += ANSWER_BYTES
        self._pending.count += 1
        self._pending.expected += expected
        self._open[arrival] = None
        arrival.may_grow = self._state.last_try
        receiver = partial(self._arrived, arrival)
        exchange = self._connection.begin(op, fields, receiver=receiver)
        exchange.done.addCallbacks(
            partial(self._ended, arrival, expected), partial(self._refused, arrival, expected)
        )

    # -- large files -----------------------------------------------------------------------------

    async def _fetch_large(self, step: Step) -> bool:
        """Fetch a file by what is here of it already; False if that is nothing."""
        arrival = Arrival(step, self._part(step))
        try:
            if await self._take_up(arrival):
                self._state.found(step, arrival.start)
                self._ask(arrival)
                return True
            old = self._present.get(step.target)
            if not self._state.options.delta or old is None or old.kind != "file":
                return False
            if not worth_a_delta(step.entry.size, old.size):
                return False
            return await self._fetch_difference(arrival)
        except FilesError as error:
            if self._device.ended:
                raise
            arrival.close()
            self._failed(arrival, error)
            return True

    async def _take_up(self, arrival: Arrival) -> bool:
        """Go on with what an earlier copy left here, if it is the file's beginning."""
        folder, step = self._local.folder, arrival.step
        path = step.target_path
        size = await self._state.in_thread(folder.part_size, path, arrival.part)
        if not 0 < size <= step.entry.size:
            return False
        landing = await self._state.in_thread(
            partial(folder.begin, path, step.entry, arrival.part, keep=True)
        )
        try:
            ours = await stepped(self._state, folder.hash_part(landing, size))
            theirs = await self._device.ask("digest", path=step.source, length=landing.size)
            entry = step.entry
            same = (theirs.get("inode"), theirs.get("mtime_ns")) == (entry.inode, entry.mtime_ns)
            if same and theirs.get("digest") == ours:
                arrival.take_up(landing)
                return True
        except BaseException:
            landing.close()
            raise
        landing.close()
        return False

    async def _fetch_difference(self, arrival: Arrival) -> bool:
        step = arrival.step
        described = await fetch_signature(self._state, self._device, step.source, step.entry.size)
        if described is None:
            return False
        old = await self._state.in_thread(self._open_old, step)
        if old is None:
            return False
        assembly: Assembly | None = None
        try:
            places = await stepped(self._state, _places(old, described.signature))
            assembly = Assembly.new(described, places, old)
            if assembly.found < MIN_SHARE * described.entry.size:
                return False
            arrival.assembly = assembly
            landing: Landing = await self._state.in_thread(
                partial(
                    self._local.folder.begin,
                    step.target_path,
                    described.entry,
                    arrival.part,
                    keep=False,
                )
            )
            arrival.landing = landing
        finally:
            if arrival.landing is None:
                arrival.assembly = None
                old.close()
        self._ask_ranges(arrival, described, assembly)
        return True

    def _open_old(self, step: Step) -> LocalFile | None:
        try:
            folder, name = self._local.folder.open_file(step.target_path)
            return LocalFile(folder, name, step.target_path)
        except (OSError, FilesError):
            return None

    def _ask_ranges(self, arrival: Arrival, described: Described, assembly: Assembly) -> None:
        self._state.found(arrival.step, assembly.found)
        entry = described.entry
        missing = assembly.missing
        fields: dict[str, Any] = {
            "path": arrival.step.source,
            "size": entry.size,
            "mtime_ns": entry.mtime_ns,
            "inode": entry.inode,
        }
        if self._compression is not None:
            fields["compress"] = self._compression
        lots = [missing[at : at + MAX_RANGES] for at in range(0, len(missing), MAX_RANGES)]
        arrival.lots_left = len(lots)
        for lot in lots:
            expected = sum(length for _, length in lot)
            ranges = [[offset, length] for offset, length in lot]
            self._send("get_ranges", {**fields, "ranges": ranges}, arrival, expected)
        if not lots:
            self._pending.count += 1
            self._enqueue((arrival, END_OUT, {}), 0)

    # -- arriving --------------------------------------------------------------------------------

    def _arrived(self, arrival: Arrival, kind: int, payload: bytes) -> None:
        self._state.progress.bytes_sent += len(payload)
        arrival.sent += len(payload)
        self._state.limit.charge(len(payload))
        self._enqueue((arrival, kind, payload), len(payload))

    def _ended(self, arrival: Arrival, expected: int, answer: dict[str, Any]) -> None:
        self._pending.expected -= expected
        self._enqueue((arrival, END_OUT, answer), 0)

    def _refused(self, arrival: Arrival, expected: int, failure: Failure) -> None:
        self._pending.expected -= expected
        if self._device.ended or not isinstance(failure.value, FilesError):
            self._pending.fail(failure)
            self._pending.one_less()
        else:
            self._enqueue((arrival, END_OUT, failure.value), 0)

    def _enqueue(self, item: tuple[Arrival, int, Any], size: int) -> None:
        self._queue.append(item)
        self._queued += size
        self._held += size
        full = self._held >= LOT_BYTES
        self._due = self._due or full or item[1] != DATA_OUT or self._over
        self._regulate()
        if not self._landing:
            self._land_or_wait()

    def _land_or_wait(self) -> None:
        if self._due:
            self._stop_waiting()
            self._landing = True
            Deferred.fromCoroutine(self._land_all()).addErrback(self._broke)
        elif self._queue and self._lot_timer is None:
            self._lot_timer = self._state.clock.callLater(LOT_SECONDS, self._waited)

    def _stop_waiting(self) -> None:
        timer, self._lot_timer = self._lot_timer, None
        if timer is not None:
            timer.cancel()

    def _waited(self) -> None:
        self._lot_timer = None
        self._due = True
        self._land_or_wait()

    def _broke(self, failure: Failure) -> None:
        self._landing = False
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.callback(None)
        self._pending.fail(failure)

    async def _land_all(self) -> None:
        while self._due and not self._state.stopped:
            queue, self._queue = self._queue, []
            self._held, self._due = 0, False
            size = sum(len(value) for _, _, value in queue if isinstance(value, bytes))
            outcomes = await self._state.in_thread(land, self._local.folder, queue)
            self._queued -= size
            self._regulate()
            for outcome in outcomes:
                self._landed(outcome)
        self._landing = False
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.callback(None)
        elif not self._state.stopped:
            self._land_or_wait()

    async def _at_rest(self) -> None:
        """Wait until no thread is at work on what arrived."""
        if self._landing:
            self._rest = Deferred()
            await self._rest

    def _regulate(self) -> None:
        """Pause or resume the connection, by what is not written yet and by the rate."""
        wait = self._state.limit.wait_seconds
        if wait > 0 and self._waiting_for_rate is None:
            self._waiting_for_rate = self._state.clock.callLater(wait, self._rate_again)
        full = self._queued > (LOW_BYTES if self._paused else HIGH_BYTES)
        pause = full or self._waiting_for_rate is not None
        if pause and not self._paused:
            self._paused = True
            self._connection.pause()
        elif self._paused and not pause:
            self._paused = False
            self._connection.resume()

    def _rate_again(self) -> None:
        self._waiting_for_rate = None
        self._regulate()

    def _landed(self, outcome: Outcome) -> None:
        """Take in what became of a part of a file, or of all of it."""
        progress = self._state.progress
        progress.bytes_done += outcome.plain
        arrival = outcome.arrival
        arrival.plain += outcome.plain
        if outcome.answer:
            self._pending.one_less()
        if outcome.error is not None:
            self._open.pop(arrival, None)
            if not self._state.stopped or outcome.error.code != "cancelled":
                self._failed(arrival, outcome.error)
        elif outcome.landed:
            self._open.pop(arrival, None)
            self._state.finished(arrival.step, "copied", sent=arrival.sent, message=arrival.remark)

    def _failed(self, arrival: Arrival, error: FilesError) -> None:
        self._state.progress.bytes_done -= arrival.plain
        if wants_another_try(error):
            self.again.append(arrival.step)
        if not wants_another_try(error) or self._state.last_try:
            self._state.failed(arrival.step, error, arrival.sent)


def _places(old: LocalFile, signature: Signature) -> Any:
    """Search our old file; yields nothing now and then, and last where each block is."""
    places: dict[int, int] = {}
    for count, (offset, number) in enumerate(matches(old.read, old.entry.size, signature), 1):
        places.setdefault(number, offset)
        if count % 1024 == 0:
            yield {}
    yield places
