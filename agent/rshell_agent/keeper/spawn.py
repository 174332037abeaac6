"""Start a program without a copy of the keeper, where all that K34 says can be had so.

``posix_spawn`` lends the keeper's memory to the child until the program runs: no page is copied,
no Python runs in the child, and the keeper waits for that moment. Hence the one rule of what is
started so (`can`): the program runs as the keeper's own user, and no file of the system can keep
us waiting. What each thing comes from:

    a session of its own       SETSID
    default signals, no mask   SETSIGDEF for all, SETSIGMASK
    streams 0 to 2             file actions; all else is close-on-exec
    controlling terminal       its slave is opened anew: the first one that a session's leader opens
    folder, mask of files      the keeper has them for this moment, which its one thread can afford
    no protection (oom)        likewise
"""

from __future__ import annotations

import os

from rshell_agent.keeper import child
from rshell_agent.keeper.mounts import Mounts

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.process import Account, Command

__all__ = ["MOUNTS", "can", "give_up_protection", "spawn", "take_back_protection"]

MOUNTS = Mounts()
_PROTECTION = "/proc/self/oom_score_adj"


def can(command: Command, account: Account, stdio: list[int]) -> bool:
    """Whether this may be started without a fork; everything else is for `child`.

    A worker is Python of ours; another login needs system calls that ``posix_spawn`` lacks; of
    ``/proc/self`` the keeper would make its own folder.
    """
    if command.worker or account.switch or min(stdio) < 3:
        return False
    return not (command.cwd or b"").startswith(b"/proc") and MOUNTS.look()


def spawn(command: Command, account: Account, start: child.Start, stdio: list[int]) -> int | None:
    """Return the number of a process in which the program runs, or None: then nothing has run.

    Why not is not told: `child` does it all again and finds out.
    """
    if not can(command, account, stdio):
        return None
    try:
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    except OSError:  # no descriptor left
        return None
    mask = os.umask(0o022)
    protection = None
    try:
        child.enter_folder(command, account)
        protection = give_up_protection()
        return _run(start, _actions(stdio, command.size is not None))
    except (OSError, ValueError, NotImplementedError):
        # No such folder; not executable; argv[0] is empty; a C library without SETSID.  The next
        # folder of PATH is not tried here: for want of a process it would be another program.
        return None
    finally:
        if protection is not None:
            take_back_protection(protection)
        os.umask(mask)
        os.fchdir(folder)
        os.close(folder)


def _run(start: child.Start, actions: list[tuple[object, ...]]) -> int | None:
    files, argv, env = start
    for file in files:
        if os.access(file, os.X_OK):
            return os.posix_spawn(
                file,
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=child.ALL_SIGNALS,
            )
    return None


def _actions(stdio: list[int], terminal: bool) -> list[tuple[object, ...]]:
    if not terminal:
        return [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    # not by its name, which may be another terminal's in this mount namespace
    opened = (os.POSIX_SPAWN_OPEN, 0, f"/proc/self/fd/{stdio[0]}", os.O_RDWR, 0)
    return [opened, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]


def give_up_protection(path: str = _PROTECTION) -> bytes | None:
    """Be no better protected against the out-of-memory killer than a program shall be (K34).

    Returns:
        What `take_back_protection` takes; None if there was none.

    Raises:
        OSError: it cannot be given up.
    """
    try:
        file = os.open(path, os.O_RDONLY)  # at each start: less than a file object
    except OSError:  # no /proc
        return None
    protection = os.read(file, 8)
    os.close(file)
    if not protection.startswith(b"-"):
        return None
    _write(path, b"0")
    return protection


def take_back_protection(protection: bytes, path: str = _PROTECTION) -> None:
    """Be protected again; a keeper that may not be says so in its log."""
    try:
        _write(path, protection)
    except OSError as error:
        text = f"not protected against the out-of-memory killer any more: {error.strerror}\n"
        os.write(2, text.encode("ascii", "backslashreplace"))


def _write(path: str, text: bytes) -> None:
    with open(path, "wb", 0) as file:
        file.write(text)
