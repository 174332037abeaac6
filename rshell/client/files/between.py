"""Files on their way from one device to another, through this machine and not onto it.

What arrives is passed on as it is, packed as it is; the digest that the first device took of what
it sent is what the second one checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.client.files.connection import Exchange
from rshell.client.files.device_end import DeviceEnd, Present
from rshell.client.files.frames import (
    ABORT,
    DATA,
    DATA_OUT,
    END,
    HOLE,
    HOLE_OUT,
    REPLY,
    frame,
)
from rshell.client.files.naming import part_name, transfer_id
from rshell.client.files.pending import ANSWER_BYTES, Pending
from rshell.client.files.plan import Step
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import CopyState
from rshell.client.files.upload import LARGE_BYTES, put_fields, wants_another_try

__all__ = ["Relay"]

#: What the second device is behind the first: so that neither waits for the other's round trip.
MAX_AHEAD_BYTES = 4 * 1024 * 1024
_KINDS = {DATA_OUT: DATA, HOLE_OUT: HOLE}


@attrs.define(eq=False)
class _Passing:
    """One file on its way.

    Attributes:
        step: Which.
        start: What is there already.
        digest: Of the whole file, where only a part of it is sent.
        exchange: With the second device, once it began and until that has answered.
        begun: Whether the first device has said what the file is.
        error: What went wrong at either end.
        over: Whether the first device has said its last word.
        told: Whether what became of it was told.
        plain: Bytes of it that count as done.
        sent: Bytes that were passed on.
    """

    step: Step
    start: int = 0
    digest: str = ""
    exchange: Exchange | None = None
    begun: bool = False
    error: FilesError | None = None
    over: bool = False
    told: bool = False
    plain: int = 0
    sent: int = 0


class Relay:
    """Passes files on.

    Args:
        state: Of the copy.
        source: Where they are.
        target: Where they go.
        present: What is there.
        compression: What both devices know, or None.

    Attributes:
        again: Files that were written meanwhile: worth another try.
    """

    def __init__(
        self,
        state: CopyState,
        source: DeviceEnd,
        target: DeviceEnd,
        present: Present,
        compression: str | None,
    ) -> None:
        self.again: list[Step] = []
        self._state = state
        self._source = source
        self._target = target
        self._present = present
        self._compression = compression
        self._pending = Pending(state)
        self._paused = False
        self._draining = False
        self._ahead = 0

    async def run(self, steps: Sequence[Step]) -> None:
        """Pass files on and wait until the second device has them all.

        Raises:
            RshellError: A session ended, or the copy was stopped.
        """
        for step in steps:
            await self._pending.room(step.entry.size)
            passing = _Passing(step)
            if step.entry.size > LARGE_BYTES:
                # Questions to the second device would come between an upload's frames.
                await self._pending.at_most(0)
                await self._take_up(passing)
            self._ask(passing)
        await self._pending.at_most(0)

    def _transfer(self, step: Step) -> str:
        entry = step.entry
        identity = (self._state.source_device, step.source, entry.size, entry.mtime_ns, entry.inode)
        return transfer_id(self._state.target_device or "", step.target, *identity)

    async def _take_up(self, passing: _Passing) -> None:
        """Go on with what an earlier copy left at the second device."""
        step = passing.step
        transfer = self._transfer(step)
        if not self._present.may_have_part(step, part_name(transfer)):
            return
        try:
            part = await self._target.ask("part", path=step.target, transfer=transfer)
            size = part.get("size")
            if type(size) is not int or not 0 < size <= step.entry.size:
                return
            begin = await self._source.ask("digest", path=step.source, length=size)
            whole = await self._source.ask("digest", path=step.source)
        except FilesError:
            if self._source.ended or self._target.ended:
                raise
            return
        if begin.get("digest") == part.get("digest") and whole.get("size") == step.entry.size:
            passing.start = passing.plain = size
            passing.digest = str(whole["digest"])
            self._state.found(step, size)

    # -- the first device ------------------------------------------------------------------------

    def _ask(self, passing: _Passing) -> None:
        step = passing.step
        fields: dict[str, Any] = {"path": step.source}
        if passing.start:
            fields["offset"] = passing.start
        if self._compression is not None:
            fields["compress"] = self._compression
        expected = step.entry.size - passing.start + ANSWER_BYTES
        self._pending.count += 1
        self._pending.expected += expected
        self._state.progress.current = step.source
        exchange = self._source.connection.begin(
            "get", fields, receiver=partial(self._arrived, passing)
        )
        exchange.done.addCallbacks(
            partial(self._ended, passing, expected), partial(self._broke, passing, expected)
        )

    def _arrived(self, passing: _Passing, kind: int, payload: bytes) -> None:
        if passing.error is not None or self._pending.failed:
            return
        try:
            if kind == REPLY:
                self._begin(passing, Entry.decode(msgspec.json.decode(payload).get("entry")))
            elif kind in _KINDS and passing.exchange is not None:
                self._pass_on(passing, kind, payload)
        except FilesError as error:
            self._give_up(passing, error)
        except (msgspec.DecodeError, AttributeError) as error:
            text = f"the device's answer cannot be read: {error}"
            self._give_up(passing, FilesError("protocol", text, passing.step.source))

    def _begin(self, passing: _Passing, entry: Entry) -> None:
        step = passing.step
        if passing.begun:
            raise FilesError("protocol", "the device said twice what the file is", step.source)
        passing.begun = True
        fields = put_fields(step, entry, self._transfer(step))
        if passing.start:
            fields["resume"] = {"from": passing.start}
        exchange = passing.exchange = self._target.connection.begin("put", fields)
        exchange.done.addCallbacks(partial(self._landed, passing), partial(self._refused, passing))

    def _pass_on(self, passing: _Passing, kind: int, payload: bytes) -> None:
        assert passing.exchange is not None
        self._target.connection.send(frame(_KINDS[kind], passing.exchange.id, payload))
        # How much a packed piece stands for is only known at the end.
        plain = int.from_bytes(payload, "big") if kind == HOLE_OUT else len(payload) - 1
        if kind == HOLE_OUT or payload[:1] == b"\0":
            passing.plain += plain
            self._state.progress.bytes_done += plain
        passing.sent += len(payload)
        self._state.progress.bytes_sent += len(payload)
        self._state.limit.charge(len(payload))
        self._ahead += len(payload)
        late = self._ahead > MAX_AHEAD_BYTES or self._state.limit.wait_seconds > 0
        if late and not self._paused:
            self._paused = True
            self._source.connection.pause()
        if not self._draining:
            self._draining = True
            Deferred.fromCoroutine(self._drain()).addErrback(self._pending.fail)

    async def _drain(self) -> None:
        """Let the first device go on when the second has room, and the rate allows it."""
        try:
            await self._state.limit.take(0)
            await self._target.connection.writable()
        finally:
            self._draining = False
            self._ahead = 0
            if self._paused:
                self._paused = False
                self._source.connection.resume()

    def _ended(self, passing: _Passing, expected: int, answer: dict[str, Any]) -> None:
        self._pending.expected -= expected
        torn = answer.get("changed") is True
        if torn and not (self._state.last_try and answer.get("grew") is True):
            if passing.error is None:
                text = "it changed while it was copied"
                self._give_up(passing, FilesError("changed", text, passing.step.source))
        elif passing.error is None and passing.exchange is not None:
            sent = answer.get("size")
            # A wrong one is found out by the second device, as is a wrong digest.
            size = passing.start + (sent if type(sent) is int and sent >= 0 else 0)
            digest = passing.digest or str(answer.get("digest"))
            end = msgspec.json.encode({"digest": digest, "size": size})
            self._target.connection.send(frame(END, passing.exchange.id, end))
        passing.over = True
        self._settle(passing)

    def _broke(self, passing: _Passing, expected: int, failure: Failure) -> None:
        self._pending.expected -= expected
        if self._source.ended or not isinstance(failure.value, FilesError):
            self._pending.fail(failure)
        elif passing.error is None:
            self._give_up(passing, failure.value)
        passing.over = True
        self._settle(passing)

    def _give_up(self, passing: _Passing, error: FilesError) -> None:
        passing.error = error
        if passing.exchange is not None and passing.exchange.failed is None:
            told = {"reason": error.message[:200], "keep": error.code != "changed"}
            data = msgspec.json.encode(told)
            self._target.connection.send(frame(ABORT, passing.exchange.id, data))

    # -- the second device -----------------------------------------------------------------------

    def _landed(self, passing: _Passing, _: dict[str, Any]) -> None:
        passing.exchange = None
        self._settle(passing)

    def _refused(self, passing: _Passing, failure: Failure) -> None:
        passing.exchange = None
        if self._target.ended or not isinstance(failure.value, FilesError):
            self._pending.fail(failure)
        elif passing.error is None:
            passing.error = failure.value
        self._settle(passing)

    def _settle(self, passing: _Passing) -> None:
        """Tell what became of a file once both devices have said their last word."""
        if passing.exchange is not None or not passing.over or passing.told:
            return
        if self._pending.failed:
            return  # the whole copy has ended, and that is what is told
        passing.told = True
        error, step = passing.error, passing.step
        if error is None:
            self._state.progress.bytes_done += step.entry.size - passing.plain
            self._state.finished(step, "copied", sent=passing.sent)
        else:
            self._state.progress.bytes_done -= passing.plain
            if wants_another_try(error):
                self.again.append(step)
            if not wants_another_try(error) or self._state.last_try:
                self._state.failed(step, error, passing.sent)
        self._pending.one_less()
