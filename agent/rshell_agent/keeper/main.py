"""The keeper as a process: home, lock, log, socket, signals, end (docs/keeper.md K1 to K6)."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import loop as loops
from rshell_agent.keeper import spawn
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.jobs import Jobs
from rshell_agent.keeper.policy import PolicyFile
from rshell_agent.keeper.server import Server
from rshell_agent.keeper.sessions import Sessions

__all__ = ["Log", "main", "run"]

_USAGE = "usage: keeper HOME [--policy FILE]\n"


def main(argv: list[str] | None = None) -> int:
    """Run a keeper as the command line says; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    policy = None
    if len(arguments) == 3 and arguments[1] == "--policy":
        policy = arguments[2]
        del arguments[1:]
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(_USAGE)
        return 2
    try:
        return run(arguments[0], policy)
    except OSError as error:
        sys.stderr.write(f"keeper: {error}\n")
        return 1


def _keep_free_memory() -> None:
    """Let the C library keep up to 1 MiB that is free for what comes next.

    glibc returns the free top of the heap from 128 KiB on, so of bulk each piece went back and was
    faulted in anew.  It takes the largest block that was freed to the system for the size of what
    comes and goes, and returns twice that; this one is never touched.  Elsewhere it is nothing.
    """
    bytes(c.HEAP_STEP)


def run(home: str, policy: str | None = None, times: Times | None = None) -> int:
    """Be the keeper of `home` until there is no more need for one.

    Args:
        home: The agent's home; it must exist.
        policy: The policy file, if it is not `home/agent.toml`.
        times: Shorter waits, for tests.

    Returns:
        The exit status; 0 also if another keeper has this home.

    Raises:
        OSError: the home cannot be used.
    """
    home = os.path.abspath(home)
    _close_inherited()
    os.umask(0o077)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    lock = _open_private(directory, "keeper.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    log = Log(directory)
    _detach()
    _keep_free_memory()
    keeper = _Keeper(home, directory, policy, times or Times(), log)
    keeper.run()
    return 0


def _close_inherited() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:  # the one that listed
                pass


def _open_private(directory: int, name: str, flags: int) -> int:
    """Open or make a file of ours; in a home that belongs to another user it could be a trap."""
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_nlink != 1:
        os.close(fd)
        raise OSError(f"{name} is not the keeper's own file")
    os.fchmod(fd, 0o600)
    return fd


def _detach() -> None:
    """Leave the starter's session; begin with clean signals, for children inherit ignored ones."""
    try:
        os.setsid()
    except OSError:  # it leads one already
        pass
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write("rshell-keeper")
    except OSError:  # only a name in ps
        pass


class Log:
    """The log file, which is also standard output and error. Call it with a line."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._size = 0
        self._open()

    def _open(self) -> None:
        fd = _open_private(self._directory, "keeper.log", os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(fd).st_size
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def __call__(self, line: str) -> None:
        """Write one line; a full disk must not end the keeper."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = f"{stamp} {line}\n".encode("ascii", "backslashreplace")
        try:
            if self._size + len(data) > c.LOG_BYTES:
                home = self._directory
                os.rename("keeper.log", "keeper.log.1", src_dir_fd=home, dst_dir_fd=home)
                self._open()
            self._size += os.write(2, data)
        except OSError:
            pass


class _Keeper:
    """Holds the parts together and decides when it is over."""

    def __init__(
        self, home: str, directory: int, policy: str | None, times: Times, log: Log
    ) -> None:
        self._directory, self._times, self._log = directory, times, log
        self._policy = PolicyFile(home, policy)
        self._loop = loops.Loop(log)
        spawn.MOUNTS.look()  # so that its descriptor is there from the beginning
        self._sessions = Sessions(self._loop, times, self._policy)
        self._sessions.jobs = Jobs(self._sessions, home, directory, log)
        self._server = Server(self._sessions, self._listen(), log)
        self._needed = self._loop.now()
        self._stopping = False
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._wake_write = wake  # its owner; the interpreter knows the number only
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # the work is done when the loop wakes up
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which children would inherit
        self._loop.watch(self._wake.fileno(), self._signalled, loops.READ)

    def run(self) -> None:
        """Serve until stopped, unneeded, or without a home."""
        self._log(f"keeper started, pid {os.getpid()}")
        if self._sessions.jobs is not None:
            self._sessions.jobs.begin()
        self._tick()
        self._loop.run()
        try:
            os.unlink("keeper.sock", dir_fd=self._directory)
        except OSError:  # HOME is gone
            pass
        self._log("keeper ended")

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.unlink("keeper.sock", dir_fd=self._directory)
        except FileNotFoundError:
            pass
        path = f"/proc/self/fd/{self._directory}/keeper.sock"
        self._policy.current()
        others = self._policy.served_uids - {os.geteuid(), 0}
        # Another user must reach a root keeper's socket; who is served is checked at accept (K4).
        old = os.umask(0o111 if others else 0o177)
        listener.bind(path)
        os.umask(old)
        listener.listen(128)
        return listener

    def _signalled(self) -> None:
        numbers = set(self._wake.recv(4096))
        if signal.SIGHUP in numbers:
            self._policy.forget()
            self._log(f"policy read again: {self._policy.current().error or 'good'}")
        if signal.SIGTERM in numbers:
            self._stop("SIGTERM")
        if signal.SIGCHLD in numbers:
            self._sessions.children_changed()

    def _tick(self) -> None:
        now = self._loop.now()
        self._sessions.expire()
        if self._sessions.needed or self._server.controlled:
            self._needed = now
        elif now - self._needed >= self._times.idle:
            self._loop.stop()
        if os.fstat(self._directory).st_nlink == 0:
            self._stop("HOME is gone")
        self._loop.after(self._times.tick, self._tick)

    def _stop(self, why: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._log(f"keeper stops: {why}")
        self._sessions.stop_all()
        # TERM, KILL, the drain, and a moment for attached peers to take their outcomes.
        latest = self._loop.now() + self._times.kill + self._times.drain + 1.0
        self._after_stop(latest)

    def _after_stop(self, latest: float) -> None:
        busy = self._sessions.busy or len(self._sessions.touches) > 0
        if not busy or self._loop.now() >= latest:
            self._loop.stop()
        else:
            call: Callable[[], None] = lambda: self._after_stop(latest)  # noqa: E731
            self._loop.after(0.05, call)
