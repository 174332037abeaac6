"""``tail``: the ends of files, and what comes, as records on standard output.

::

    request    what was asked for            records   what is told, one JSON object a line
    following  paths, rotation, resuming  -> reading   lines through pattern and rate
    matching   globs                         opened    one file       cutting  bytes to lines
    rotated    what rotation left            seeking   where to begin  stamps   times in lines
    wakeups    inotify, or a short sleep     journal   journalctl

It knows nothing of links: its output is a pipe.  While nobody reads that, it reads no further in
its files, and keeps nothing in memory; the lines wait where they are.  What it has to know to go on
after its own end (a reboot) is in its records, at the operator's end.
"""

from __future__ import annotations

import json
import os
import sys
import time

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.tail.following import Following
from rshell_agent.workers.tail.journal import Journal
from rshell_agent.workers.tail.matching import MAX_FILES
from rshell_agent.workers.tail.opened import Mark, read_mark
from rshell_agent.workers.tail.pattern import BadPattern
from rshell_agent.workers.tail.records import Records
from rshell_agent.workers.tail.request import BadArgument, Request
from rshell_agent.workers.tail.wakeups import ReaderGone, Wakeups

__all__ = ["run"]

#: What was asked for cannot be done at all.
BAD = 2
#: Marks as they come on standard input: a path of 4 KiB in base64, and some numbers, each.
MAX_MARKS_BYTES = MAX_FILES * 6 * 1024


def run(argument: dict[str, object], confined: Confined) -> int:
    """Do what was asked for; return the exit status.

    Returns:
        0; 1 if something could not be read; 2 if the request makes no sense.
    """
    records = Records()
    try:
        request = Request(argument, time.time())
        if request.journal:
            return Journal(request, confined, records).run()
        marks = _marks() if request.resume else None
        return Following(request, confined, records, Wakeups(), marks).run()
    except BadPattern as error:
        records.note("pattern", str(error))
        records.flush()
        return BAD
    except BadArgument as error:
        sys.stderr.write(f"tail: {error}\n")
        return BAD
    except ReaderGone:
        return 0


def _marks() -> list[Mark]:
    """Read marks, a JSON object a line, to the end of standard input."""
    data = b""
    while len(data) < MAX_MARKS_BYTES:
        more = os.read(0, 64 * 1024)
        if not more:
            break
        data += more
    marks = []
    for line in data.splitlines()[:MAX_FILES]:
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                marks.append(read_mark(value))
        except (ValueError, RecursionError):
            raise BadArgument("a mark that cannot be read") from None
    return marks
