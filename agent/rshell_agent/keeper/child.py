"""A forked child, until it is the program or the worker (docs/keeper.md K34, K44).

A plain fork is safe because the keeper has one thread. It copies the keeper's page tables, and
then each page that either side writes: `spawn` is for what can do without.
"""

from __future__ import annotations

import fcntl
import os
import signal
import termios

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import worker

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.process import Account, Command

__all__ = ["ALL_SIGNALS", "Start", "become", "enter_folder", "fork"]

ALL_SIGNALS = tuple(int(number) for number in signal.valid_signals())

Start = tuple[list[bytes], list[bytes], dict[bytes, bytes]]  # files to try, argv, environment


def fork() -> int:
    """Fork with all signals held back; the child lets them in when they are its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _prepare(command: Command, stdio: list[int]) -> None:
    """Leave what is the keeper's: its signals, session, terminal, streams, mask and protection."""
    signal.set_wakeup_fd(-1)
    for number in ALL_SIGNALS:
        if signal.getsignal(number) not in (
            signal.SIG_DFL,
            None,
        ):  # exec would pass on ignored ones
            signal.signal(number, signal.SIG_DFL)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if command.size:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    stdio = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    os.umask(0o022)
    worker.drop_protection()


def _enter_login(account: Account) -> None:
    if account.switch:
        os.initgroups(account.name, account.gid)
        os.setgid(account.gid)
        os.setuid(account.uid)


def enter_folder(command: Command, account: Account) -> None:
    """Change to the folder that was asked for, or to the login's home.

    Raises:
        OSError: the former is not possible.
    """
    try:
        os.chdir(command.cwd or os.fsencode(account.home))
    except OSError:
        if command.cwd is not None:
            raise
        os.chdir("/")  # a login without a home can still be used


def _execute(files: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Become the program; all descriptors but 0 to 2 are close-on-exec.

    Raises:
        OSError: none of the files can be executed.
    """
    failure = 2
    for file in files:
        try:
            os.execve(file, argv, env)  # noqa: S606  # what a keeper is for
        except OSError as error:
            if error.errno not in (2, 20):  # ENOENT, ENOTDIR: perhaps in the next folder
                failure = error.errno or failure
    raise OSError(failure, "")


def become(
    command: Command,
    account: Account,
    start: Start,
    stdio: list[int],
    status: int,
    telling: int | None,
) -> None:
    """Turn the forked child into the program or worker; never returns."""
    stage = "start"
    try:
        _prepare(command, stdio)
        loaded = None
        if command.worker:
            stage = "worker"
            worker.name_process(f"rshell-{command.worker}")
            loaded = worker.load(command.worker)
        stage = "login"
        _enter_login(account)
        stage = "cwd"
        enter_folder(command, account)
        stage = "worker" if loaded else "exec"
        if loaded:
            rules, env = command.rules, start[2]
            worker.enter(command.worker, loaded, command.argument, rules, env, status, telling)
        _execute(*start)
    except OSError as error:
        os.write(status, f"{stage}:{error.errno}".encode())
    except BaseException as error:  # whatever it is, it must not run on as a second keeper
        why = f"{type(error).__name__}: {error}"[: c.MAX_TOLD - 16]
        os.write(status, f"{stage}:0:{why}".encode("ascii", "backslashreplace")[: c.MAX_TOLD])
    finally:
        os._exit(127)
