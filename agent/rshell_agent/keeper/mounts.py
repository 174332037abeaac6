"""Whether a file of this system can keep us waiting: what is mounted, and changes of it.

The kernel alone is asked, never a mounted file system: one whose server does not answer holds
whoever so much as looks at it, and no signal helps.
"""

from __future__ import annotations

import os
import select

__all__ = ["Mounts", "all_local"]

_LIST = "/proc/self/mountinfo"
_MAX_BYTES = 256 * 1024  # some 2,000 mounts: a machine full of containers; they count as slow
#: Of this kernel, on its own disks or in its memory.  Anything else may have a server: nfs, cifs,
#: 9p, whatever is fuse, and what mounts such by itself (autofs).
_LOCAL = frozenset(
    b"bcachefs bpf btrfs cgroup cgroup2 configfs cramfs debugfs devpts devtmpfs ecryptfs efivarfs "
    b"erofs exfat ext2 ext3 ext4 f2fs fusectl hugetlbfs iso9660 jffs2 jfs minix mqueue msdos "
    b"nilfs2 nsfs ntfs3 overlay proc pstore ramfs reiserfs romfs rootfs rpc_pipefs securityfs "
    b"selinuxfs smackfs squashfs sysfs tmpfs tracefs ubifs udf vfat xfs zfs".split()
)
#: Where whatever is mounted is no place for programs, nor to begin in: systemd has an autofs below
#: the first and often in the last, containers have fuse below the first two.
_ELSEWHERE = (b"/proc/", b"/sys/", b"/dev/", b"/boot/", b"/efi/")


def all_local(listed: bytes) -> bool:
    """Whether none of the mounts of a `mountinfo` (proc(5)) has a server that might not answer."""
    for line in listed.splitlines():
        before, found, after = line.partition(b" - ")
        fields = before.split(b" ")
        if not found or len(fields) < 5:
            return False
        kind, place = after.split(b" ", 1)[0], fields[4] + b"/"
        if kind not in _LOCAL and not place.startswith(_ELSEWHERE):
            return False
    return bool(listed)


class Mounts:
    """The mounts of this process, read again when the kernel says that they changed."""

    def __init__(self) -> None:
        self._file = -1
        self._changes = select.poll()
        self._local = False

    def look(self) -> bool:
        """Say whether no file can keep us waiting for a server; False if that cannot be known."""
        try:
            if self._file < 0:
                self._file = os.open(_LIST, os.O_RDONLY)
                self._changes.register(self._file, select.POLLPRI)
                self._read()
            elif self._changes.poll(0):
                self._read()
        except OSError:  # no /proc, or no descriptor left
            return False
        return self._local

    def _read(self) -> None:
        self._local = False
        os.lseek(self._file, 0, os.SEEK_SET)
        parts, size = [], 0
        while size <= _MAX_BYTES and (part := os.read(self._file, 65536)):
            parts.append(part)
            size += len(part)
        self._local = size <= _MAX_BYTES and all_local(b"".join(parts))
