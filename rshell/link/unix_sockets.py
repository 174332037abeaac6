"""Unix sockets as files: what a process that was killed leaves behind."""

from __future__ import annotations

import errno
import os
import socket
import stat

__all__ = ["remove_stale"]


def remove_stale(path: str) -> None:
    """Remove a socket of ours at which nobody listens any more; leave everything else.

    Without it, a program that was killed could not listen at its own place again.

    Raises:
        OSError: It could not be removed.
    """
    try:
        info = os.lstat(path)
    except OSError:
        return  # what is wrong with the path, bind(2) says
    if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
