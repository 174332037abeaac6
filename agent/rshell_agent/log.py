"""The log of a running agent: one line an event, to standard error, nothing a terminal acts on."""

from __future__ import annotations

import time
from typing import Any, TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

__all__ = ["LineObserver", "begin_logging", "format_line"]

_MAX_LINE = 8000


def format_line(event: dict[str, Any]) -> str:
    """Return an event as one printable line, with its traceback if it has one."""
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}\n{failure.getTraceback().strip()}"
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.get("log_time", 0.0)))
    level = event.get("log_level", LogLevel.info).name
    origin = str(event.get("log_namespace", "-"))
    line = f"{when} {level} {origin}: {text}"[:_MAX_LINE]
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


@implementer(ILogObserver)
class LineObserver:
    """Writes lines to a file; a full disk or closed pipe must not stop the agent."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: dict[str, Any]) -> None:
        try:
            self._file.write(format_line(event) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            pass


def begin_logging(file: TextIO, *, debug: bool = False) -> None:
    """Send this process's log to ``file`` from now on."""
    level = LogLevel.debug if debug else LogLevel.info
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    observer = FilteringLogObserver(LineObserver(file), [predicate])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
