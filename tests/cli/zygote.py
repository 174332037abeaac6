"""Runs command lines of rshell, each in a fork of this process, which has loaded all verbs.

A line of JSON in, {"argv": [...]}, and one out, {"status", "out", "err"} in base64: a tenth of what
an interpreter of its own costs each time.  Nothing is shared but what was loaded: no reactor yet.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import tempfile
from typing import BinaryIO

from rshell.cli import main as cli

SECONDS = 20  # a command line that hangs ends the test, not the suite


def child(argv: list[str], files: list[BinaryIO]) -> None:
    """Be the command; never returns."""
    import signal

    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    status = 255
    try:
        sys.argv = ["rshell", *argv]
        cli.main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 255
    finally:
        os._exit(status)


def run(argv: list[str]) -> dict[str, object]:
    """Run one command line."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            child(argv, [out, err])
        _, status = os.waitpid(pid, 0)
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(base64.b64encode(file.read()).decode())
    return {"status": os.waitstatus_to_exitcode(status), "out": told[0], "err": told[1]}


def main() -> None:
    """Serve until the input ends."""
    for where, _ in cli.VERBS.values():
        importlib.import_module(where.partition(":")[0])
    for name in ("rshell.client.uplink", "rshell.link.protocol", "twisted.internet.epollreactor"):
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line)["argv"])), flush=True)  # noqa: T201  # the answer


if __name__ == "__main__":
    main()
