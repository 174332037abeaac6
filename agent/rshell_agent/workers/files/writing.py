"""``put``: a file arrives, and replaces the old one as a whole or not at all (FT25 to FT33).

The destination is not touched before the part file beside it is complete, checked and synced.
"""

from __future__ import annotations

import os
import stat
import struct
import time

from rshell_agent.workers.confined import Denied, Place
from rshell_agent.workers.crash import crash_point
from rshell_agent.workers.files import parts
from rshell_agent.workers.files.changing import make_parents
from rshell_agent.workers.files.committing import Keys
from rshell_agent.workers.files.compression import unpack
from rshell_agent.workers.files.desk import Desk, Request, faults_at
from rshell_agent.workers.files.entries import entry_of
from rshell_agent.workers.files.faults import Fault, Violation, fault_of
from rshell_agent.workers.files.fields import Fields, parse_map
from rshell_agent.workers.files.frames import ABORT, COPY, DATA, END, HOLE, Frame
from rshell_agent.workers.files.sending import BLOCK_BYTES, Digest
from rshell_agent.workers.files.space import Space

__all__ = ["part", "put", "sweep"]

#: What a power cut may cost at most, and what the kernel may owe the disk.
SYNC_BYTES = 32 << 20
#: On slow links so little is synced as soon as the last time is `SYNC_SECONDS` ago.
SYNC_LEAST_BYTES = 4 << 20
SYNC_SECONDS = 1.0


def put(desk: Desk, request: Request) -> None:
    """Take an upload to its end."""
    path = request.fields.path()
    with faults_at(path):
        if request.fields.flag("mkdirs", False):
            make_parents(desk, path)
        follow = request.fields.flag("follow", True)
        place = desk.confined.at(path, write=True, follow=follow)
        upload = _Upload(desk, request, place)
        try:
            upload.begin()
            upload.receive()
        except BaseException:
            upload.close()
            raise
        desk.group.add(upload)


def part(desk: Desk, request: Request) -> None:
    """Tell what an earlier upload left behind."""
    name = parts.part_name(request.fields.text("transfer", 32))
    with desk.confined.at(request.fields.path(), write=True, follow=True) as place:
        size, digest = parts.read_digest(place.dir_fd, name)
    request.reply({"size": size, "digest": digest} if size else {"size": 0})


def sweep(desk: Desk, request: Request) -> None:
    """Remove old part files from a directory."""
    path = request.fields.path()
    # Through a name in it, because it is the directory that must be writable.
    with desk.confined.at(path + b"/.rshell-sweep", write=True) as place:
        request.reply({"removed": parts.sweep_directory(desk, place.dir_fd)})


class _Upload:
    """One upload, from its REQUEST to its END.

    Args:
        desk: The session's.
        request: ``put``.
        place: The destination.
    """

    def __init__(self, desk: Desk, request: Request, place: Place) -> None:
        self.fault: Fault | None = None
        self.size = 0
        self._desk = desk
        self._request = request
        self._place = place
        self._folder = (0, 0)
        self._part = parts.Part(place.dir_fd, b"")
        self._digest = Digest()
        self._old: os.stat_result | None = None
        self._basis = -1
        self._position = 0
        self._written = 0
        self._unsynced = 0
        self._synced_at = time.monotonic()

    # -- before the first byte -------------------------------------------------------------------

    def begin(self) -> None:
        """Check everything that can be known now, and make the part file.

        Raises:
            Fault: The upload cannot be done; nothing was touched.
        """
        fields, place = self._request.fields, self._place
        self.size = fields.integer("size")
        self._part.name = parts.part_name(fields.text("transfer", 32))
        info = os.stat(b".", dir_fd=place.dir_fd)
        self._folder = info.st_dev, info.st_ino
        self._desk.group.make_way(self.keys, self.size)
        if place.name in (b"", b".", b".."):
            raise Fault("is-a-directory", "is a directory")
        if self.size > (self._desk.confined.max_file_size or self.size):
            most = self._desk.confined.max_file_size
            raise Fault("too-large", f"the device's policy allows {most:,} bytes a file")
        self._look_at_destination(fields)
        resume = fields.inner("resume")
        start = resume.integer("from", most=self.size) if resume else 0
        Space.at(place.dir_fd).demand(max(0, fields.integer("data", self.size) - start))
        self._open_basis(fields)
        if self._folder not in self._desk.swept:
            parts.sweep_directory(self._desk, place.dir_fd)
        if start:
            self._part.resume(start, self._digest)
        else:
            self._part.create()
        self._position = start

    def _look_at_destination(self, fields: Fields) -> None:
        try:
            old = self._place.stat()
        except FileNotFoundError:
            return
        if fields.text("expect", 16, "any") == "absent":
            raise Fault("exists", "exists already")
        if stat.S_ISDIR(old.st_mode):
            raise Fault("is-a-directory", "is a directory")
        if stat.S_ISREG(old.st_mode):
            self._old = old
        elif not stat.S_ISLNK(old.st_mode):
            raise Fault("not-a-file", "not a regular file")

    def _open_basis(self, fields: Fields) -> None:
        basis = fields.inner("basis")
        if basis is None:
            return
        expected = (basis.integer("size"), basis.time_ns(), basis.integer("inode"))
        if self._old is None:
            raise Fault("changed", "the file that this builds on is gone")
        if not self._place.rights.read:
            raise Denied(self._place.path)
        self._basis = self._place.open(os.O_RDONLY)
        info = os.fstat(self._basis)
        if (info.st_size, info.st_mtime_ns, info.st_ino) != expected:
            raise Fault("changed", "the file that this builds on is another by now")

    # -- the content -----------------------------------------------------------------------------

    def receive(self) -> None:
        """Take DATA, HOLE and COPY until END, and commit.

        Raises:
            Fault: It failed, or the client gave up.
            Violation: Another frame came in between, or the end of the input.
        """
        keep = False
        try:
            while (frame := self._next()).kind not in (END, ABORT):
                self._take(frame)
            fields = parse_map(frame.payload)
            if frame.kind == ABORT:
                keep = fields.flag("keep", False)
                raise Fault("aborted", fields.text("reason", 200, "given up by the client"))
            self._finish(fields)
        except (Fault, OSError) as error:
            if not keep:
                self._part.remove()
            raise fault_of(error) if isinstance(error, OSError) else error from None

    def _next(self) -> Frame:
        frame = self._desk.input.next()
        if frame is None:
            raise Violation("the input ends within an upload")
        if frame.id != self._request.id or frame.kind not in (DATA, HOLE, COPY, END, ABORT):
            raise Violation(f"a frame of type {frame.kind} within an upload")
        return frame

    def _take(self, frame: Frame) -> None:
        if frame.kind == DATA:
            self._write(unpack(frame.payload))
        elif frame.kind == HOLE:
            (length,) = _unpack(">Q", frame.payload)
            self._advance(length)
            self._digest.hole(length)
        else:
            offset, length = _unpack(">QQ", frame.payload)
            if self._basis < 0:
                raise Fault("bad-request", "COPY without a basis")
            self._copy(offset, length)

    def _advance(self, length: int) -> int:
        """Move on by so many bytes; return where they begin."""
        position = self._position
        if length > self.size - position:
            raise Fault("bad-request", "more bytes than were announced")
        self._position += length
        return position

    def _write(self, data: bytes | memoryview) -> None:
        position = self._advance(len(data))
        self._digest.data(data)
        done = 0
        while done < len(data):
            done += os.pwrite(self._part.fd, memoryview(data)[done:], position + done)
        self._written += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_LEAST_BYTES:
            self._sync()

    def _sync(self) -> None:
        now = time.monotonic()
        if self._unsynced >= SYNC_BYTES or now - self._synced_at >= SYNC_SECONDS:
            Space.at(self._part.fd).demand(0)
            os.fdatasync(self._part.fd)
            crash_point("put.synced")
            self._unsynced, self._synced_at = 0, now

    def _copy(self, offset: int, length: int) -> None:
        while length:
            data = os.pread(self._basis, min(BLOCK_BYTES, length), offset)
            if not data:
                raise Fault("changed", "the file that this builds on has become shorter")
            self._write(data)
            offset += len(data)
            length -= len(data)

    # -- the end ---------------------------------------------------------------------------------

    def _finish(self, fields: Fields) -> None:
        crash_point("put.written")
        digest, size = fields.text("digest", 64), fields.integer("size")
        if size != self.size or self._position != size:
            raise Fault("digest", f"{self._position:,} bytes came instead of {self.size:,}")
        if digest != self._digest.hexdigest():
            raise Fault("digest", "what came is not what was sent")
        os.ftruncate(self._part.fd, self.size)
        self._dress()

    def _dress(self) -> None:
        """Give the part file its owner, mode and time."""
        fields, fd = self._request.fields, self._part.fd
        root = os.geteuid() == 0
        if fields.flag("owner", False):
            uid, gid = fields.optional("uid", 2**32 - 2), fields.optional("gid", 2**32 - 2)
            os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
        elif self._old is not None and root:
            os.fchown(fd, self._old.st_uid, self._old.st_gid)
        mode = fields.optional("mode", 0o7777)
        if mode is None:
            mode = stat.S_IMODE(self._old.st_mode) if self._old else 0o666 & ~_umask()
        # After the owner: changing that takes bits away.
        os.fchmod(fd, self._desk.confined.mode(mode))
        mtime = fields.time_ns()
        if mtime is not None:
            os.utime(fd, ns=(time.time_ns(), mtime))

    # -- Committable -----------------------------------------------------------------------------

    @property
    def fd(self) -> int:
        return self._part.fd

    @property
    def part_name(self) -> bytes:
        return self._part.name

    @property
    def keys(self) -> Keys:
        return frozenset((*self._folder, name) for name in (self._part.name, self._place.name))

    def rename(self) -> None:
        crash_point("put.fsync")
        self._part.commit(self._place.name)

    def sync_folder(self, synced: set[tuple[int, int]]) -> None:
        if self._folder not in synced:
            self._place.sync_folder()
            synced.add(self._folder)

    def answer(self) -> None:
        if self.fault is not None:
            self._part.remove()
            self._request.fail(self.fault, self._request.fields.path())
            self._desk.touched(self._request, self.fault.code)
            return
        crash_point("put.dirsync")
        entry = entry_of(os.fstat(self._part.fd), self._desk.names)
        self._request.reply({"entry": entry, "written": self._written})
        digest = self._digest.hexdigest()
        self._request.tell(self._place.path, size=self.size, digest=digest)
        self._desk.touched(self._request)

    def close(self) -> None:
        """Let go of the files."""
        self._part.close()
        self._place.close()
        if self._basis >= 0:
            os.close(self._basis)
            self._basis = -1


def _unpack(form: str, payload: bytes) -> tuple[int, ...]:
    if len(payload) != struct.calcsize(form):
        raise Fault("bad-request", "HOLE or COPY of the wrong length")
    return struct.unpack(form, payload)


def _umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
