"""Exit statuses: the command's own for one device, a summary for several."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from rshell.client.outcomes import Outcome

__all__ = ["FAILED", "OURS", "PIPE_BROKEN", "TIMED_OUT", "USAGE", "of_many", "of_one"]

#: Something of ours went wrong: no link, no device, refused, lost.  As ssh does.
OURS = 255
#: As timeout(1).
TIMED_OUT = 124
USAGE = 2
#: Some of several devices failed.
FAILED = 1
#: What a shell reports of a program that wrote into a closed pipe.
PIPE_BROKEN = 128 + signal.SIGPIPE


def of_one(outcome: Outcome) -> int:
    """Return the exit status that stands for one device's outcome."""
    match outcome.status:
        case "ok":
            return 0
        case "exit":
            code = outcome.exit_code
            return code if code is not None and 0 < code <= OURS else OURS
        case "signal":
            return _of_signal(outcome.signal or "")
        case "timeout":
            return TIMED_OUT
        case _:
            return OURS


def of_many(outcomes: Iterable[Outcome]) -> int:
    """Return 0 if every device succeeded, else `FAILED`."""
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else FAILED


def _of_signal(name: str) -> int:
    number = getattr(signal, f"SIG{name}", None)
    return 128 + number if isinstance(number, signal.Signals) else OURS
