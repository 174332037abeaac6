"""Copy: from sources to a destination, with everything between looking up and telling how it went.

::

    look up -> plan -> what is there -> folders, links -> files -> files again -> modes, times
    *_end.py   plan.py   survey                           upload, download, between

Files that changed while they were copied get one more try at the end.  What it is not: it opens no
second way to a device; each end is one session of the handler ``files``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.threads import deferToThreadPool

from rshell.client.absence import Away
from rshell.client.client import Client
from rshell.client.errors import RshellError
from rshell.client.files.between import Relay
from rshell.client.files.compression import negotiate
from rshell.client.files.connection import FilesConnection
from rshell.client.files.device_end import DeviceEnd, Present
from rshell.client.files.download import Download
from rshell.client.files.landing import MODE_MASK
from rshell.client.files.limit import RateLimit
from rshell.client.files.local_end import LocalEnd
from rshell.client.files.plan import (
    Found,
    PlaceLike,
    Plan,
    Problem,
    Step,
    Target,
    plan_copies,
)
from rshell.client.files.progress import CopyReport, FileResult, Observer, Progress
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import (
    CopyOptions,
    CopyState,
    CopyStopped,
    InThread,
    same_file_state,
)
from rshell.client.files.upload import Upload

__all__ = ["Copy", "copy"]

#: A device has so long to end a session that is not needed any more.  All is copied by then: longer
#: than a round trip over a bad link need not be waited.
_CLOSE_SECONDS = 5.0
#: Opens a connection to a device.
Connect = Callable[[str], Any]


def _ignore(_: FileResult) -> None:
    """Nobody watches."""


async def copy(
    client: Client,
    sources: Sequence[PlaceLike],
    target: PlaceLike,
    options: CopyOptions | None = None,
    *,
    observer: Observer = _ignore,
) -> CopyReport:
    """Copy files to a device, from one, or from one to another, by the rules of cp(1).

    Args:
        client: Connected.
        sources: What to copy; on a device, patterns are expanded.
        target: Where to.
        options: How.
        observer: Told what became of each file.

    Returns:
        What was done and what was not; files that fail do not end the others.

    Raises:
        RshellError: Nothing could be done: the destination does not do, or no link.
    """
    return await Copy.new(client, sources, target, options or CopyOptions(), observer).run()


class Copy:
    """One copy; `new` makes it, `run` does it.

    Args:
        clock: Twisted's reactor, or a clock.
        in_thread: Runs what blocks.
        connect: Opens a connection to a device.
        sources: What to copy.
        target: Where to.
        options: How.
        observer: Told what became of each file.

    Attributes:
        progress: Where it stands.
        report: How it will have ended.
        link_changed: Called with a device and `Away` when the way to it breaks and comes back.
    """

    def __init__(
        self,
        clock: Any,
        in_thread: InThread,
        connect: Connect,
        sources: Sequence[PlaceLike],
        target: PlaceLike,
        options: CopyOptions,
        observer: Observer = _ignore,
    ) -> None:
        self.progress = Progress()
        self.report = CopyReport()
        self.link_changed: Callable[[str, Away | None], None] | None = None
        self._clock = clock
        self._in_thread = in_thread
        self._connect = connect
        self._sources = sources
        self._target = target
        self._options = options
        self._observer = observer
        self._limit = RateLimit(clock, options.bytes_per_second)
        self._connections: list[FilesConnection] = []
        self._state: CopyState | None = None
        self._stopped = False
        self._taken: set[bytes] = set()

    @classmethod
    def new(
        cls,
        client: Client,
        sources: Sequence[PlaceLike],
        target: PlaceLike,
        options: CopyOptions,
        observer: Observer = _ignore,
    ) -> Copy:
        """Return a copy that uses a client's link and its reactor's threads."""
        reactor = client.reactor
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        connect = partial(FilesConnection.open, client, login=options.login)
        return cls(reactor, in_thread, connect, sources, target, options, observer)

    def stop(self) -> None:
        """End it soon; what is half done is kept, and found by the next copy."""
        self._stopped = True
        if self._state is not None:
            self._state.stopped = True
        for connection in self._connections:
            connection.abort()

    async def run(self) -> CopyReport:
        """Do it, and return what was done.

        Raises:
            RshellError: Nothing could be done.
        """
        started = self._clock.seconds()
        groups = self._groups()
        try:
            target_end, target = await self._look_at_target()
            for device, paths in groups.items():
                try:
                    await self._copy_group(device, paths, target_end, target)
                except RshellError as error:
                    if len(groups) == 1 or not self._spares_others(error, target_end):
                        raise
                    self._failed_as_a_whole(error, paths)
        except RshellError as error:
            done = self.report.copied + self.report.unchanged + self.progress.bytes_done
            if not self._stopped and not done:
                raise
            self.report.ended = "cancelled" if self._stopped else error.code
            self.report.message = error.message
        finally:
            await self._close()
        self.progress.planned = True
        self.report.seconds = self._clock.seconds() - started
        return self.report

    async def _close(self) -> None:
        """Let the devices end their sessions: one that is merely left would wait for us there."""
        for connection in self._connections:
            if connection.error is None:
                closed = Deferred.fromCoroutine(connection.close())
                with suppress(TimeoutError):
                    await closed.addTimeout(_CLOSE_SECONDS, self._clock)
                if connection.error is None:
                    connection.abort()

    def _spares_others(self, error: RshellError, target: FilesConnection | None) -> bool:
        """Whether what ended the copy from one device is no reason to end it from another."""
        if self._stopped or (target is not None and target.error is not None):
            return False
        return not isinstance(error, FilesError) or error.path != self._target.path

    def _failed_as_a_whole(self, error: RshellError, paths: Sequence[bytes]) -> None:
        assert self._state is not None
        for path in paths:
            problem = FilesError(error.code, error.message, path, error.hint)
            self._state.problem(Problem(path, problem))

    def _groups(self) -> dict[str | None, list[bytes]]:
        groups: dict[str | None, list[bytes]] = {}
        for source in self._sources:
            if source.device is None and self._target.device is None:
                raise RshellError(
                    "bad-request",
                    "one side of a copy is on a device",
                    "write DEVICE:PATH; for files of this machine there is cp",
                )
            groups.setdefault(source.device, []).append(source.path)
        if not groups:
            raise RshellError("bad-request", "there is nothing to copy", "")
        return groups

    # -- the ends --------------------------------------------------------------------------------

    def _new_state(self, source_device: str | None) -> CopyState:
        state = self._state = CopyState(
            self._clock,
            self._in_thread,
            self._options,
            source_device,
            self._target.device,
            self._observer,
            self.progress,
            self.report,
            self._limit,
        )
        state.stopped = self._stopped
        return state

    async def _connected(self, device: str) -> FilesConnection:
        if self._stopped:
            raise CopyStopped
        connection: FilesConnection = await self._connect(device)
        self._connections.append(connection)
        if self.link_changed is not None:
            connection.session.link_changed = partial(self.link_changed, device)
        return connection

    async def _look_at_target(self) -> tuple[FilesConnection | None, Target]:
        place = self._target
        state = self._new_state(None)
        if place.device is None:
            return None, await LocalEnd(state).target(place.path)
        connection = await self._connected(place.device)
        return connection, await DeviceEnd(state, connection).target(place.path)

    async def _copy_group(
        self,
        device: str | None,
        paths: Sequence[bytes],
        target_connection: FilesConnection | None,
        target: Target,
    ) -> None:
        state = self._new_state(device)
        target_end = None if target_connection is None else DeviceEnd(state, target_connection)
        if device is None:
            assert target_end is not None
            local = LocalEnd(state)
            try:
                plan = await self._plan(state, local, paths, target)
                await self._copy_up(state, local, target_end, plan, target)
            finally:
                local.close()
            return
        source_end = DeviceEnd(state, await self._connected(device))
        plan = await self._plan(state, source_end, paths, target)
        if target_end is None:
            await self._copy_down(state, source_end, plan, target)
        else:
            await self._copy_between(state, source_end, target_end, plan, target)

    async def _plan(
        self,
        state: CopyState,
        end: LocalEnd | DeviceEnd,
        paths: Sequence[bytes],
        target: Target,
    ) -> Plan:
        """Look sources up and plan; what is not there does not keep the others."""
        found: list[Found] = []
        many = len(self._sources) > 1
        for path in paths:
            try:
                here = await end.find(path, recursive=self._options.recursive)
            except FilesError as error:
                if isinstance(end, DeviceEnd) and end.ended:
                    raise
                state.problem(Problem(path, error))
                continue
            many = many or len(here) > 1
            found += here
        plan = plan_copies(
            found, target, recursive=self._options.recursive, many=many, taken=self._taken
        )
        for problem in plan.problems:
            state.problem(problem)
        files = [step for step in plan.steps if step.kind == "file"]
        self.progress.files_total += len(files)
        self.progress.bytes_total += sum(step.entry.size for step in files)
        return plan

    # -- the three ways --------------------------------------------------------------------------

    async def _copy_up(
        self, state: CopyState, local: LocalEnd, device: DeviceEnd, plan: Plan, target: Target
    ) -> None:
        present = await device.survey(plan.steps, target)
        files, undressed = await self._changed_files(
            state, plan, present.entries, local.source_digests, device.target_digests, 0o7777
        )
        if self._only_told(state, plan, files):
            return
        await self._make_on_device(device, plan, present)
        wanted = negotiate(self._options.compress, device.connection.compress)
        upload = Upload(state, local, device, present, wanted)
        await self._twice(state, upload, files)
        await device.dress(_dressed(plan, undressed))

    async def _copy_down(
        self, state: CopyState, device: DeviceEnd, plan: Plan, target: Target
    ) -> None:
        local = LocalEnd(state)
        try:
            if not plan.steps:
                return
            await local.settle(plan.steps[0].target_root)
            present = await local.survey(plan.steps)
            files, undressed = await self._changed_files(
                state, plan, present, device.source_digests, local.target_digests, MODE_MASK
            )
            if self._only_told(state, plan, files):
                return
            await local.make([step for step in plan.steps if step.kind != "file"])
            wanted = negotiate(self._options.compress, device.connection.compress)
            download = Download(state, device, local, present, wanted)
            await self._twice(state, download, files)
            await local.dress(_dressed(plan, undressed))
        finally:
            local.close()

    async def _copy_between(
        self, state: CopyState, source: DeviceEnd, device: DeviceEnd, plan: Plan, target: Target
    ) -> None:
        present = await device.survey(plan.steps, target)
        files, undressed = await self._changed_files(
            state, plan, present.entries, source.source_digests, device.target_digests, 0o7777
        )
        if self._only_told(state, plan, files):
            return
        await self._make_on_device(device, plan, present)
        both = [name for name in source.connection.compress if name in device.connection.compress]
        compress = self._options.compress
        wanted = both[0] if both and compress == "auto" else compress
        relay = Relay(state, source, device, present, wanted if wanted in both else None)
        await self._twice(state, relay, files)
        await device.dress(_dressed(plan, undressed))

    @staticmethod
    async def _make_on_device(device: DeviceEnd, plan: Plan, present: Present) -> None:
        await device.make_folders([step for step in plan.steps if step.kind == "dir"], present)
        await device.make_links([step for step in plan.steps if step.kind == "link"], present)

    @staticmethod
    async def _twice(
        state: CopyState, transfer: Upload | Download | Relay, files: Sequence[Step]
    ) -> None:
        """Transfer files, and those that changed meanwhile once more."""
        await transfer.run(files)
        again, transfer.again = transfer.again, []
        if again:
            state.last_try = True
            await transfer.run(again)

    async def _changed_files(
        self,
        state: CopyState,
        plan: Plan,
        present: dict[bytes, Entry],
        source_digests: Callable[[Sequence[Step]], Any],
        target_digests: Callable[[Sequence[Step]], Any],
        mode_mask: int,
    ) -> tuple[list[Step], list[Step]]:
        """Return the files to send, and of those that need not be the ones to set modes of."""
        files = [step for step in plan.steps if step.kind == "file"]
        same: set[bytes] = set()
        if self._options.checksum:
            alike = [step for step in files if _alike(step, present.get(step.target))]
            ours = await source_digests(alike)
            theirs = await target_digests(alike)
            for step, one, other in zip(alike, ours, theirs, strict=True):
                if one is not None and one == other:
                    same.add(step.target)
        else:
            for step in files:
                there = present.get(step.target)
                if there is not None and same_file_state(step.entry, there):
                    same.add(step.target)
        undressed: list[Step] = []
        for step in files:
            if step.target in same:
                there = present[step.target]
                entry = step.entry
                if (there.mode ^ entry.mode) & mode_mask or not same_file_state(entry, there):
                    undressed.append(step)
                state.unchanged(step)
        return [step for step in files if step.target not in same], undressed

    def _only_told(self, state: CopyState, plan: Plan, files: Sequence[Step]) -> bool:
        self.progress.planned = True
        if not self._options.dry_run:
            return False
        for step in files:
            state.finished(step, "planned")
        for step in plan.steps:
            if step.kind != "file":
                state.finished(step, "planned")
        return True


def _alike(step: Step, there: Entry | None) -> bool:
    return there is not None and there.kind == "file" and there.size == step.entry.size


def _dressed(plan: Plan, undressed: Sequence[Step]) -> list[Step]:
    """Return whose modes and times are set at last: folders, after all that is in them."""
    return [*[step for step in plan.steps if step.kind == "dir"], *undressed]
