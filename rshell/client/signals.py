"""The names of signals that can be sent to what runs on a device."""

from __future__ import annotations

from rshell.access.printable import printable
from rshell.client.errors import RshellError
from rshell.link.core.errors import ErrorCode

__all__ = ["SIGNALS", "check_signal"]

#: What devices know: Linux's signals, whatever the system of this machine has.
SIGNALS = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE",
    "PROF", "PWR", "QUIT", "SEGV", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
})  # fmt: skip


def check_signal(name: str) -> None:
    """Refuse what is no signal's name.

    Raises:
        RshellError: Code ``bad-request``: there is no such signal.
    """
    if name not in SIGNALS:
        raise RshellError(
            ErrorCode.BAD_REQUEST.value,
            f"there is no signal {printable(name, 40)!r}",
            "signals are named without SIG: INT, TERM, KILL, HUP, USR1 …",
        )
