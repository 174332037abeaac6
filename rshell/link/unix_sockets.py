"""Unix sockets: as files that a killed process leaves behind; connected and written to at once."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.internet.protocol import Factory, Protocol

__all__ = ["connect_at_once", "remove_stale", "write_at_once"]


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


def connect_at_once(reactor: Any, path: str, protocol: Protocol) -> bool:
    """Connect a protocol to a Unix socket, without a turn of the reactor and its timers.

    The kernel connects such sockets in the call, or says why not; Twisted's endpoint, which is made
    for networks, only begins to in the next turn.

    Returns:
        False when it did not connect, for whatever reason; the endpoint finds it out again, and
        waits where there is something to wait for.
    """
    adopt = getattr(reactor, "adoptStreamConnection", None)
    if adopt is None:
        return False
    sock = _connected(path)
    if sock is None:
        return False
    with sock:
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        adopt(sock.fileno(), socket.AF_UNIX, factory)  # a duplicate of it
    return True


def _connected(path: str) -> socket.socket | None:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:  # no descriptor left
        return None
    sock.setblocking(False)
    try:
        if not sock.connect_ex(path):
            return sock
    except OSError:  # the path is too long for a socket
        pass
    sock.close()
    return None


def write_at_once(transport: Any, data: bytes) -> None:
    """Write to a Twisted socket transport, without a turn of the reactor if nothing waits there.

    Twisted sends in the next turn only: a wake-up and two ``epoll_ctl`` for each key.  What the
    kernel does not take, and every error, is the transport's as usual.
    """
    sock: Any = getattr(transport, "socket", None)
    # Of twisted.internet.abstract.FileDescriptor: both are empty once all is sent.
    idle = sock is not None and not (transport.dataBuffer or transport._tempDataBuffer)
    if idle and transport.connected and not transport.disconnecting:
        try:
            taken = sock.send(data)
        except OSError:
            taken = 0
        if taken == len(data):
            return
        data = data[taken:]
    transport.write(data)
