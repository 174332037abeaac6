"""Files that arrive on this machine: whole or not at all.

Each grows as a part file beside its destination, is checked against the digest of what was sent,
synced, and renamed over what was there; a crash at any moment leaves the old file or the new one.
Many small files are synced and renamed as a batch, because a sync each would take longer than
their way here.  A part that a killed copy left is taken up again where it ends.

It blocks, so it runs in threads.  Where things land is a `Descent`: nothing a device says leads
out of the folder that the operator named.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator

import attrs

from rshell.client.files.crash import crash_point
from rshell.client.files.local import Descent, local_error
from rshell.client.files.naming import PART_NAME, join
from rshell.client.files.records import Entry, FilesError

__all__ = ["Folder", "Landing"]

#: Parts that are older belong to copies that nobody goes on with (as on devices).
PART_SECONDS = 24 * 3600
#: Set-id and sticky bits of a device's files mean nothing good here.
MODE_MASK = 0o777
#: Above this many files at once, one sync of the file system is cheaper than one of each.
SYNC_ALL = 8
_READ_BYTES = 1024 * 1024
_ZEROS = bytes(_READ_BYTES)


def _never() -> bool:
    return False


@attrs.define
class Landing:
    """One file on its way in.

    Attributes:
        relative: Where it belongs, below the folder's root.
        entry: What it was said to be.
        size: Bytes so far.
        stopped: Whether the copy was; asked where one frame may mean hours of work.
    """

    relative: bytes
    entry: Entry
    _descriptor: int
    _part: bytes
    stopped: Callable[[], bool] = _never
    size: int = 0
    _hash: hashlib.blake2b = attrs.field(factory=lambda: hashlib.blake2b(digest_size=32))
    _holes: bool = False

    @property
    def digest(self) -> str:
        """Of all there is so far."""
        return self._hash.hexdigest()

    @property
    def present(self) -> int:
        """Bytes that its part file has, an earlier copy's among them."""
        return os.fstat(self._descriptor).st_size

    @property
    def device(self) -> int:
        """Number of the file system that it is on."""
        return os.fstat(self._descriptor).st_dev

    @property
    def part(self) -> bytes:
        """What it is called until it is whole."""
        return self._part

    def data(self, plain: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: They cannot be written.
        """
        view = memoryview(plain)
        self._hash.update(view)
        while view:
            written = os.pwrite(self._descriptor, view, self.size)
            self.size += written
            view = view[written:]

    def go_on(self) -> None:
        """End here if the copy was stopped.

        Raises:
            FilesError: Code ``cancelled``.
        """
        if self.stopped():
            raise FilesError("cancelled", "stopped", self.relative)

    def hole(self, length: int) -> None:
        """Append zeros that take no room.

        Raises:
            FilesError: Code ``cancelled``: the copy was stopped meanwhile.
        """
        self.size += length
        self._holes = True
        while length > 0:
            self.go_on()
            self._hash.update(_ZEROS[: min(length, len(_ZEROS))])
            length -= len(_ZEROS)

    def check(self, digest: str, size: int) -> None:
        """Make sure that it is what was sent.

        Raises:
            FilesError: Code ``digest``.
            OSError: It cannot be written.
        """
        if (digest, size) != (self.digest, self.size):
            text = "what arrived is not what was sent; copy it again"
            raise FilesError("digest", text, self.relative)
        if self._holes:
            os.ftruncate(self._descriptor, self.size)

    def dress(self, keep_times: bool = True) -> None:
        """Set mode and times."""
        os.fchmod(self._descriptor, self.entry.mode & MODE_MASK)
        if keep_times:
            os.utime(self._descriptor, ns=(time.time_ns(), self.entry.mtime_ns))

    def sync(self) -> None:
        """Wait until it is on the disk."""
        os.fsync(self._descriptor)

    def sync_file_system(self) -> bool:
        """Wait until all of its file system is on the disk; False if that cannot be asked for."""
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            return False
        if syncfs(self._descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return True

    def close(self) -> None:
        """Let go; the part stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Folder:
    """Where things land.

    Args:
        root: The folder that the operator named; it is there.
        stopped: Whether the copy was; called in threads.

    Raises:
        OSError: It is no folder.
    """

    def __init__(self, root: bytes, stopped: Callable[[], bool] = _never) -> None:
        self._descent = Descent(root)
        self._stopped = stopped
        self._root = root
        self._swept: set[bytes] = set()

    def close(self) -> None:
        """Close its descriptors."""
        self._descent.close()

    def entry(self, relative: bytes) -> Entry | None:
        """Return what is there; None if nothing.

        Raises:
            FilesError: It cannot be looked at, for instance since a folder above is a link.
        """
        try:
            return self._descent.entry(relative)
        except OSError as error:
            raise local_error(error, self.path(relative)) from None

    def path(self, relative: bytes) -> bytes:
        """Return the whole path, for people."""
        return join(self._root, relative)

    def open_file(self, relative: bytes) -> tuple[int, bytes]:
        """Return the folder's descriptor (until the next call) and the name, for `LocalFile`."""
        return self._descent.parent(relative)

    # -- files -----------------------------------------------------------------------------------

    def begin(self, relative: bytes, entry: Entry, part: bytes, *, keep: bool) -> Landing:
        """Make, or take up, the part file of a file that will arrive.

        Args:
            relative: Where it will be.
            entry: What it is said to be.
            part: The part's name.
            keep: Whether to go on with a part that is there: its bytes count (see
                `hash_part`); else it begins anew.

        Raises:
            FilesError: It cannot land there.
        """
        try:
            folder, name = self._descent.parent(relative)
            self._check_place(folder, name, relative)
            self._sweep(folder, relative)
            descriptor = self._open_part(folder, part, relative)
        except OSError as error:
            raise local_error(error, self.path(relative)) from None
        landing = Landing(relative, entry, descriptor, part, self._stopped)
        try:
            if not keep and landing.present:
                os.ftruncate(descriptor, 0)
            status = os.fstatvfs(descriptor)
            # What has no blocks is one hole, or so small or new that it is in none yet.
            needed = min(entry.size, entry.blocks * 512) - landing.present
            if needed > status.f_bavail * status.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.drop(landing) if not landing.present else landing.close()
            raise local_error(error, self.path(relative)) from None
        return landing

    def _check_place(self, folder: int, name: bytes, relative: bytes) -> None:
        """Refuse to replace what is no file; a link is replaced, and not followed."""
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise FilesError("is-a-directory", "a folder is in its place", self.path(relative))
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise FilesError("not-a-file", "it is no regular file", self.path(relative))

    def _open_part(self, folder: int, part: bytes, relative: bytes) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(part, flags, 0o600, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            # Somebody else's, or a second name of another file: not ours to write into.
            strange = status.st_uid != os.geteuid() or status.st_nlink != 1
            if not stat.S_ISREG(status.st_mode) or strange:
                text = f"{os.fsdecode(part)} is in the way: remove it"
                raise FilesError("exists", text, self.path(relative))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = "another copy of the same file runs"
                raise FilesError("busy", text, self.path(relative)) from None
            os.fchmod(descriptor, 0o600)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def part_size(self, relative: bytes, part: bytes) -> int:
        """Return how much of a file an earlier copy left here."""
        try:
            folder, _ = self._descent.parent(relative)
            return os.stat(part, dir_fd=folder, follow_symlinks=False).st_size
        except OSError:
            return 0

    def hash_part(self, landing: Landing, size: int) -> Iterator[str]:
        """Read what is there, and go on behind it; yields "" now and then, last the digest."""
        while landing.size < size:
            data = os.pread(
                landing._descriptor, min(_READ_BYTES, size - landing.size), landing.size
            )
            if not data:
                break
            landing._hash.update(data)
            landing.size += len(data)
            yield ""
        os.ftruncate(landing._descriptor, landing.size)
        yield landing.digest

    def commit(self, landings: Iterable[Landing]) -> list[tuple[Landing, FilesError | None]]:
        """Sync and rename files that were checked; return what became of each."""
        waiting = list(landings)
        if waiting:
            crash_point("land.written")
        results: list[tuple[Landing, FilesError | None]] = []
        synced = self._sync_all(waiting)
        folders: dict[bytes, list[Landing]] = {}
        for landing in waiting:
            try:
                if not synced:
                    landing.sync()
                folder, name = self._descent.parent(landing.relative)
                crash_point("land.synced")
                os.rename(landing.part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                results.append((landing, local_error(error, self.path(landing.relative))))
            else:
                crash_point("land.renamed")
                folders.setdefault(landing.relative.rpartition(b"/")[0], []).append(landing)
            finally:
                landing.close()
        for above, landed in folders.items():
            failure: FilesError | None = None
            try:
                os.fsync(self._descent.at(above.split(b"/") if above else []))
            except OSError as error:
                failure = local_error(error, self.path(above))
            crash_point("land.dirsync")
            results += [(landing, failure) for landing in landed]
        return results

    @staticmethod
    def _sync_all(waiting: list[Landing]) -> bool:
        if len(waiting) < SYNC_ALL:
            return False
        # Others may be mounted below the root.
        devices = {landing.device: landing for landing in waiting}
        try:
            return all(landing.sync_file_system() for landing in devices.values())
        except OSError:
            return False  # then each one's own sync tells which it was

    def drop(self, landing: Landing) -> None:
        """Give a part up, and remove it."""
        try:
            folder, _ = self._descent.parent(landing.relative)
            os.unlink(landing.part, dir_fd=folder)
        except OSError:
            pass  # it is swept one day
        landing.close()

    def _sweep(self, folder: int, relative: bytes) -> None:
        """Once for each folder: remove parts that nobody goes on with."""
        above = relative.rpartition(b"/")[0]
        if above in self._swept:
            return
        self._swept.add(above)
        oldest = time.time() - PART_SECONDS
        for name in os.listdir(folder):
            encoded = os.fsencode(name)
            if PART_NAME.match(encoded) is None:
                continue
            try:
                status = os.stat(encoded, dir_fd=folder, follow_symlinks=False)
                ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                if ours and status.st_mtime < oldest:
                    os.unlink(encoded, dir_fd=folder)
            except OSError:
                continue  # another copy was faster

    # -- the rest --------------------------------------------------------------------------------

    def make_folder(self, relative: bytes) -> bool:
        """Make a folder, open to us alone until `dress`; return whether it was not there.

        Raises:
            FilesError: Something else is in its place, or it cannot be made.
        """
        try:
            folder, name = self._descent.parent(relative)
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
                return True
            except FileExistsError:
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    return False
                text = "something that is no folder is in its place"
                raise FilesError("not-a-directory", text, self.path(relative)) from None
        except OSError as error:
            raise local_error(error, self.path(relative)) from None

    def make_link(self, relative: bytes, target: bytes) -> bool:
        """Make a symbolic link, whatever its text says; return whether it was not there already.

        Raises:
            FilesError: A folder is in its place, or it cannot be made.
        """
        try:
            folder, name = self._descent.parent(relative)
            present = self._descent.entry(relative)
            if present is not None and (present.kind, present.target) == ("link", target):
                return False
            if present is not None and present.kind == "dir":
                raise FilesError("is-a-directory", "a folder is in its place", self.path(relative))
            folder, name = self._descent.parent(relative)
            part = b".rshell-%s.part" % os.urandom(8).hex().encode()
            os.symlink(target, part, dir_fd=folder)
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise local_error(error, self.path(relative)) from None
        return True

    def dress(self, relative: bytes, entry: Entry) -> None:
        """Set mode and times of a file or folder.

        Raises:
            FilesError: That is not possible.
        """
        try:
            folder, name = self._descent.parent(relative)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(name, flags, dir_fd=folder)
            try:
                os.fchmod(descriptor, entry.mode & MODE_MASK)
                os.utime(descriptor, ns=(time.time_ns(), entry.mtime_ns))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise local_error(error, self.path(relative)) from None
