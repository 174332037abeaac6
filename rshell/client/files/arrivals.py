"""What arrives of a device's files, put together and landed, in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import msgspec

from rshell.client.files.compression import unpack
from rshell.client.files.frames import DATA_OUT, END_OUT, HOLE_OUT, REPLY
from rshell.client.files.landing import Folder, Landing
from rshell.client.files.local import LocalFile, local_error
from rshell.client.files.plan import Step
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.signatures import Described

__all__ = ["Arrival", "Assembly", "Outcome", "land"]

#: Files that are synced and renamed together; each holds a descriptor until then.
LOT_FILES = 100
_COPY_BYTES = 1024 * 1024
#: Files of /proc have content and no size; whatever says so may have this much.
MAX_UNSIZED_BYTES = 64 * 1024 * 1024


class Assembly:
    """A file put together from pieces of an old one and pieces that arrive.

    Attributes:
        missing: (offset, length) of what has to be fetched, in order.
        found: Bytes that are here.
        digest: Of the whole.
        size: Of the whole.
    """

    def __init__(
        self, stretches: Sequence[tuple[int, int, int]], old: LocalFile, digest: str, size: int
    ) -> None:
        self.missing = [(at, length) for at, length, place in stretches if place < 0]
        self.found = sum(length for _, length, place in stretches if place >= 0)
        self.digest = digest
        self.size = size
        self._old = old
        self._stretches = list(reversed(stretches))

    @classmethod
    def new(cls, described: Described, places: dict[int, int], old: LocalFile) -> Assembly:
        """Plan it.

        Args:
            described: The new file.
            places: Block number -> where in the old file the same bytes are.
            old: The old file; closed by `close`.
        """
        signature = described.signature
        stretches: list[tuple[int, int, int]] = []
        for number in range(signature.blocks):
            at, length = number * signature.block, signature.length(number)
            place = places.get(number, -1)
            if stretches:
                before, size, begin = stretches[-1]
                follows = place == begin + size if place >= 0 else begin < 0
                if follows and (begin >= 0) == (place >= 0):
                    stretches[-1] = (before, size + length, begin)
                    continue
            stretches.append((at, length, place))
        return cls(stretches, old, described.digest, described.entry.size)

    def data(self, landing: Landing, plain: bytes | memoryview) -> None:
        """Take in what arrived next.

        Raises:
            FilesError: More arrived than was asked for, or the old file changed.
        """
        view = memoryview(plain)
        while view:
            self._copy_old(landing)
            if not self._stretches:
                raise FilesError("digest", "more arrived than was asked for", landing.relative)
            at, length, place = self._stretches.pop()
            taken = view[:length]
            landing.data(taken)
            view = view[len(taken) :]
            if len(taken) < length:
                self._stretches.append((at + len(taken), length - len(taken), place))

    def finish(self, landing: Landing) -> None:
        """Take what is left from the old file, and check the whole.

        Raises:
            FilesError: It is not the file that was described.
        """
        self._copy_old(landing)
        landing.check(self.digest, self.size)

    def _copy_old(self, landing: Landing) -> None:
        while self._stretches and self._stretches[-1][2] >= 0:
            _, length, place = self._stretches.pop()
            while length > 0:
                data = self._old.read(place, min(_COPY_BYTES, length))
                if not data:
                    raise FilesError("changed", "the old file got shorter", landing.relative)
                landing.data(data)
                place += len(data)
                length -= len(data)

    def close(self) -> None:
        """Close the old file."""
        self._old.close()


@attrs.define(eq=False)
class Arrival:
    """One file that was asked for.

    Attributes:
        step: Which.
        part: What its part file is called.
        start: Where the answer begins; what is before is here already.
        landing: Its part file, once there is one.
        assembly: If it is put together.
        lots_left: Answers still to come for an assembly.
        plain: Bytes that count as done.
        sent: Bytes that came over the wire.
        over: Whether it is landed, or failed.
        may_grow: Whether a file that grew while it was sent is good enough.
        remark: What to say of it.
    """

    step: Step
    part: bytes
    start: int = 0
    landing: Landing | None = None
    assembly: Assembly | None = None
    lots_left: int = 0
    plain: int = 0
    sent: int = 0
    over: bool = False
    may_grow: bool = False
    remark: str = ""
    _range: Any = None

    def take_up(self, landing: Landing) -> None:
        """Go on behind what is in a part file."""
        self.landing = landing
        self.start = self.plain = landing.size
        self._range = hashlib.blake2b(digest_size=32)

    def close(self) -> None:
        """Let go of all files; the part stays."""
        if self.landing is not None:
            self.landing.close()
        if self.assembly is not None:
            self.assembly.close()

    def begin(self, folder: Folder, entry: Entry) -> None:
        """Take in what the file is, as the device opened it.

        Raises:
            FilesError: It cannot land; or, code ``changed``, what is here already is the beginning
                of another file than the one that was opened: no digest covers both.
        """
        if self.landing is None:
            target = self.step.target_path
            self.landing = folder.begin(target, entry, self.part, keep=False)
        elif _identity(entry) != _identity(self.landing.entry):
            raise FilesError("changed", "it is another file by now", self.step.source)

    def _begun(self) -> Landing:
        if self.landing is None:
            text = "the device sent content before it said what it is"
            raise FilesError("protocol", text, self.step.source)
        return self.landing

    def data(self, payload: bytes) -> int:
        """Take in a piece; return its bytes."""
        landing = self._begun()
        try:
            plain = unpack(payload)
        except ValueError as error:
            raise FilesError("digest", str(error), self.step.source) from None
        if len(plain) > (landing.entry.size or MAX_UNSIZED_BYTES) - landing.size:
            raise FilesError("digest", "more arrived than the file has", self.step.source)
        if self.assembly is not None:
            self.assembly.data(landing, plain)
        else:
            landing.data(plain)
            if self._range is not None:
                self._range.update(plain)
        return len(plain)

    def hole(self, payload: bytes) -> int:
        """Take in a hole; return its bytes."""
        landing = self._begun()
        length = int.from_bytes(payload, "big")
        if len(payload) != 8 or length > landing.entry.size - landing.size:
            raise FilesError("digest", "a hole larger than the file", self.step.source)
        if self.assembly is not None or self._range is not None:
            left = length
            zeros = bytes(min(left, _COPY_BYTES))
            while left > 0:
                landing.go_on()
                piece = zeros[: min(left, len(zeros))]
                if self.assembly is not None:
                    self.assembly.data(landing, piece)
                else:
                    assert self._range is not None
                    self._range.update(piece)
                left -= len(piece)
        if self.assembly is None:
            landing.hole(length)
        return length

    def end(self, answer: dict[str, Any]) -> bool:
        """Take in the end of an answer; return whether the file is whole, and checked."""
        landing = self._begun()
        if self.assembly is not None:
            self.lots_left -= 1
            if self.lots_left > 0:
                return False
            self.assembly.finish(landing)
        elif answer.get("changed") is True and not (self.may_grow and answer.get("grew") is True):
            raise FilesError("changed", "it changed while it was copied", self.step.source)
        elif self._range is not None:
            size = self.start + int(answer["size"])
            if answer.get("digest") != self._range.hexdigest():
                text = "what arrived is not what was sent; copy it again"
                raise FilesError("digest", text, self.step.source)
            landing.check(landing.digest, size)
        else:
            landing.check(str(answer.get("digest")), int(answer["size"]))
        landing.dress()
        if answer.get("changed") is True:
            self.remark = f"it grew while it was copied: these are its first {landing.size:,} bytes"
        return True


def _identity(entry: Entry) -> tuple[int, int, int]:
    return entry.size, entry.mtime_ns, entry.inode


@attrs.define
class Outcome:
    """What became of a file in one lot.

    Attributes:
        arrival: Which.
        plain: Bytes of it that were written.
        answer: Whether an answer was complete.
        landed: Whether the file is in its place.
        error: Why not.
    """

    arrival: Arrival
    plain: int = 0
    answer: bool = False
    landed: bool = False
    error: FilesError | None = None


def land(folder: Folder, queue: Iterable[tuple[Arrival, int, Any]]) -> list[Outcome]:
    """Write what arrived, and land the files that are whole.

    Args:
        folder: Where.
        queue: Of each frame the file, the kind, and the payload; of the end of an answer END_OUT
            and the answer, or the error.
    """
    outcomes: list[Outcome] = []
    ready: list[Outcome] = []
    for arrival, kind, value in queue:
        outcome = Outcome(arrival, answer=kind == END_OUT)
        outcomes.append(outcome)
        if arrival.over:
            continue
        try:
            if _take(folder, outcome, kind, value):
                arrival.over = True
                ready.append(outcome)
        except FilesError as error:
            _fail(folder, outcome, error)
        except (OSError, ValueError, KeyError, TypeError) as error:
            broken = _as_files_error(error, arrival)
            _fail(folder, outcome, broken)
        if len(ready) >= LOT_FILES:
            _commit(folder, ready)
            ready = []
    _commit(folder, ready)
    return outcomes


def _as_files_error(error: Exception, arrival: Arrival) -> FilesError:
    if isinstance(error, OSError):
        return local_error(error, arrival.step.target)
    text = f"the device's answer cannot be read: {error}"
    return FilesError("protocol", text, arrival.step.source)


def _take(folder: Folder, outcome: Outcome, kind: int, value: Any) -> bool:
    """Take one frame in; return whether the file is whole."""
    arrival = outcome.arrival
    if kind == REPLY:
        entry = Entry.decode(msgspec.json.decode(value)["entry"])
        if arrival.assembly is None:
            arrival.begin(folder, entry)
    elif kind == DATA_OUT:
        outcome.plain = arrival.data(value)
    elif kind == HOLE_OUT:
        outcome.plain = arrival.hole(value)
    elif kind == END_OUT:
        if isinstance(value, FilesError):
            raise value
        return arrival.end(value)
    return False


def _fail(folder: Folder, outcome: Outcome, error: FilesError) -> None:
    arrival = outcome.arrival
    arrival.over = True
    outcome.error = error
    # What has arrived is worth keeping unless it is wrong, or the next try would not know it.
    if arrival.landing is not None and (error.code in ("changed", "digest") or arrival.assembly):
        folder.drop(arrival.landing)
    arrival.close()


def _commit(folder: Folder, ready: Sequence[Outcome]) -> None:
    by_landing = {id(one.arrival.landing): one for one in ready}
    landings = [one.arrival.landing for one in ready if one.arrival.landing is not None]
    for landing, error in folder.commit(landings):
        outcome = by_landing[id(landing)]
        outcome.landed = error is None
        outcome.error = error
        outcome.arrival.close()
