"""Inside a forked child: be a worker of ours instead of executing a program (docs/keeper.md K44).

A fork instead of an exec: no interpreter starts (4 ms instead of 30 to the worker's first line),
and it works where the login cannot read our installation. The keeper itself loads no worker. What
it had in memory stays in the child's, out of reach: a process that changed its user can be traced
by root only, and `workers.confined` shows nobody the worker's own /proc.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from rshell_agent.keeper.wire import Map

__all__ = ["WORKERS", "drop_protection", "enter", "load", "name_process"]

WORKERS = ("files", "sftp", "tail", "reboot")  # the built-in handlers served by a worker of ours
CRASHED = 70  # EX_SOFTWARE of sysexits.h: a worker's own fault
_PACKAGE = "rshell_agent.workers."
_CRASH_AT = b"RSHELL_CRASH_AT"  # for tests; an operator cannot set it (K35)

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Run = Callable[[Map, Any], int]
    Confine = Callable[[Map], Any]


def name_process(name: str) -> None:
    """Be called so in ps; to be done before the login changes."""
    try:
        with open("/proc/self/comm", "wb", 0) as file:
            file.write(name.encode())
    except OSError:  # only a name
        pass


def drop_protection(path: str = "/proc/self/oom_score_adj") -> None:
    """Give back what the keeper's unit has against the out-of-memory killer.

    An operator's work must not have it, or the device would kill everything else first.
    """
    try:
        with open(path, "rb", 0) as file:
            protected = file.read(8).startswith(b"-")
        if protected:
            with open(path, "wb", 0) as file:
                file.write(b"0")
    except OSError:  # no /proc, or the system does not let us: as it was
        pass


def load(name: str) -> tuple[Run, Confine]:
    """Import a worker while our installation can still be read.

    Raises:
        OSError: ENOENT: there is no such worker.
        ImportError: It cannot be loaded.
    """
    gc.freeze()  # the keeper's objects hold numbers of descriptors that will be somebody else's
    try:
        run: Run = __import__(_PACKAGE + name, fromlist=["run"]).run
    except ModuleNotFoundError as error:
        if error.name in (_PACKAGE + name, _PACKAGE[:-1]):
            raise FileNotFoundError(2, "no such worker") from None
        raise
    confined = __import__(_PACKAGE + "confined", fromlist=["Confined"]).Confined
    return run, lambda rules: _confined(confined, rules)


def _confined(kind: Any, rules: Map) -> Any:
    named = {key: value for key, value in rules.items() if key not in ("read", "write")}
    return kind(rules["read"], rules["write"], **named)


def enter(
    name: str,
    loaded: tuple[Run, Confine],
    argument: Map,
    rules: Map,
    env: dict[bytes, bytes],
    status: int,
    touched: int | None,
) -> NoReturn:
    """Be the worker, as the login, with nothing but 0, 1 and 2 open, and `touched`.

    Args:
        name: The worker's.
        loaded: What `load` returned.
        argument: The handler's.
        rules: What the policy allows (`Policy.rules`).
        env: The whole environment.
        status: Closed when the worker runs; an exception before that is for the caller to tell.
        touched: Where the worker tells what it touches, if it shall (K54).
    """
    run, confine = loaded
    _close_all_but(status, touched)
    if _CRASH_AT in os.environb:
        env[_CRASH_AT] = os.environb[_CRASH_AT]
    os.environb.clear()
    os.environb.update(env)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write says EFBIG
    _limit_files(rules.get("max_file_size"))
    confined = confine(rules)
    if touched is not None:
        confined.touches = type(confined.touches)(touched)
    os.close(status)
    os._exit(_run(name, run, argument, confined))


def _limit_files(most: object) -> None:
    """Have the system refuse to write beyond what the policy allows (K46)."""
    if isinstance(most, int) and most:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _run(name: str, run: Run, argument: Map, confined: Any) -> int:
    try:
        try:
            ended: object = run(argument, confined)
        except SystemExit as leaving:
            ended = leaving.code or 0
        sys.stdout.flush()
    except BaseException as error:  # one line for the operator
        _tell(name, error)
        ended = None
    return ended & 0xFF if isinstance(ended, int) else CRASHED


def _tell(name: str, error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        file = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
        where = f" ({file}:{trace.tb_lineno})"
    text = f"the worker {name} failed: {type(error).__name__}: {error}"[:500]
    line = "".join(c if c.isprintable() else "?" for c in text) + where + "\n"
    try:
        os.write(2, line.encode("ascii", "backslashreplace"))
    except OSError:  # nobody reads
        pass


def _close_all_but(status: int, touched: int | None) -> None:
    for number in os.listdir("/proc/self/fd"):
        if int(number) > 2 and int(number) not in (status, touched):
            try:
                os.close(int(number))
            except OSError:  # the one that listed
                pass
