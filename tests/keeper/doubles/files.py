"""What a keeper under test finds as the worker `files`; its argument says what it shall do.

Standard library only: it runs in a child of the keeper. It is no package of the product.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from typing import Any


def run(argument: dict[str, Any], confined: Any) -> int:
    what: str = argument["do"]
    answer: int = globals()["do_" + what](argument, confined)
    return answer


def do_tell(argument: dict[str, Any], confined: Any) -> int:
    """Tell all that a worker can see of itself."""
    links = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            links[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one that listed
            pass
    with open("/proc/self/comm", encoding="ascii") as file:
        comm = file.read().strip()
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        protection = file.read().strip()
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    told = {
        "argument": argument,
        "links": links,
        "comm": comm,
        "oom": protection,
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "sid": os.getsid(0),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "cwd": os.getcwd(),
        "umask": status["Umask"],
        "blocked": int(status["SigBlk"], 16),
        "ignored": int(status["SigIgn"], 16),
        "caught": int(status["SigCgt"], 16),
        "env": dict(os.environ),
        "threads": threading.active_count(),
        "file_limit": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "confined": [confined.max_file_size, confined.setid],
    }
    os.write(1, json.dumps(told).encode())
    return 0


def do_echo(argument: dict[str, Any], confined: Any) -> int:
    """Give back what comes, to its end."""
    while data := os.read(0, 65536):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
    return int(argument.get("status", 0))


def do_flood(argument: dict[str, Any], confined: Any) -> int:
    """Write as many bytes as asked for."""
    left = argument["bytes"]
    while left:
        left -= os.write(1, b"y" * min(left, 65536))
    return 0


def do_crash(argument: dict[str, Any], confined: Any) -> int:
    raise RuntimeError("a line\nand \x1b[31manother")


def do_leave(argument: dict[str, Any], confined: Any) -> int:
    print("last words")  # noqa: T201  # what a careless worker does
    sys.exit(argument["status"])


def do_nothing_said(argument: dict[str, Any], confined: Any) -> Any:
    return None


def do_wait(argument: dict[str, Any], confined: Any) -> int:
    """Wait for the end by a signal."""
    os.write(1, b"waiting")
    signal.pause()
    return 9


def do_pipe(argument: dict[str, Any], confined: Any) -> int:
    """Write when nobody reads any more."""
    os.close(1)
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"x")
    return 9


def do_read(argument: dict[str, Any], confined: Any) -> int:
    """Read a file, by the policy."""
    try:
        fd = confined.open(os.fsencode(argument["path"]), os.O_RDONLY)
    except OSError as error:
        os.write(2, f"{type(error).__name__}: {error.strerror}".encode())
        return 1
    os.write(1, os.read(fd, 65536))
    return 0


def do_write(argument: dict[str, Any], confined: Any) -> int:
    """Write a file, by the policy."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = confined.open(os.fsencode(argument["path"]), flags, 0o7666)
        left = argument["bytes"]
        while left:
            left -= os.write(fd, b"x" * min(left, 4096))
    except OSError as error:
        os.write(2, f"{type(error).__name__}: {error.errno}".encode())
        return 1
    return 0


def do_use(argument: dict[str, Any], confined: Any) -> int:
    """Make, write, read, change and remove a file in the login's own folder."""
    path = os.fsencode(argument["path"])
    with confined.at(path, write=True) as place:
        os.write(fd := place.open(os.O_RDWR | os.O_CREAT | os.O_EXCL), b"mine")
        os.close(fd)
        place.chmod(0o640)
        place.utime(1, 2)
        place.sync_folder()
        fd = confined.open(path, os.O_RDONLY)
        os.write(1, os.read(fd, 99))
        os.close(fd)
        os.write(1, b" %o %d" % (place.stat().st_mode, place.stat().st_uid))
        place.unlink()
    return 0


def do_own_memory(argument: dict[str, Any], confined: Any) -> int:
    """Try to look at what the keeper had in memory."""
    tried = []
    for path in (b"/proc/self/mem", b"/proc/%d/mem" % os.getpid(), b"/proc/thread-self/mem"):
        try:
            os.close(confined.open(path, os.O_RDONLY))
            tried.append("opened")
        except OSError as error:
            tried.append(type(error).__name__)
    try:
        with open("/proc/self/mem", "rb"):
            tried.append("opened")
    except OSError as error:
        tried.append(type(error).__name__)
    os.write(1, json.dumps(tried).encode())
    return 0
