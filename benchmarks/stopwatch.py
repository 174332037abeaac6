"""Timing child programs: how long one took, and the echo of keys through one at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
import tty
from collections.abc import Sequence
from pathlib import Path

from tests.functional.processes import die_with_us

__all__ = ["EchoProgram", "run_ms"]

#: Nothing that is measured here takes this long; a hang shall not stop a run of an hour.
LIMIT_SECONDS = 600.0
#: Of silence.
ECHO_SECONDS = 20.0
#: Of what was read before: more than any text that is waited for.
KEPT = 200


def run_ms(
    words: Sequence[str | bytes], environ: dict[str, str] | None = None, cwd: Path | None = None
) -> float:
    """Run a program to its end; return the milliseconds that it took.

    Raises:
        OSError: It failed; the text has what it said.
    """
    began = time.perf_counter()
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environ,
        cwd=cwd,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    taken = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise OSError(f"{words}: status {done.returncode}: {done.stderr[-1000:]!r}")
    return taken


class EchoProgram:
    """A program at a pseudo-terminal whose far end echoes what is typed.

    Args:
        words: its command line; the command at the far end prints ``ready.`` first.
        environ: its environment.
        cwd: its directory.
    """

    def __init__(
        self, words: Sequence[str | bytes], environ: dict[str, str] | None, cwd: Path | None
    ) -> None:
        self._ours, theirs = pty.openpty()
        tty.setraw(theirs, termios.TCSANOW)  # its echo is not the one that is measured
        self.process = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=environ,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )
        os.close(theirs)

    def wait_ready(self) -> None:
        """Wait until the far end echoes."""
        self._until(b"ready.")

    def type(self, keys: int, pause_seconds: float) -> list[float]:
        """Type keys, each after the echo of the one before; return milliseconds."""
        taken = []
        for number in range(keys):
            key = b"%c" % (97 + number % 26)
            began = time.perf_counter()
            os.write(self._ours, key)
            self._until(key)
            taken.append((time.perf_counter() - began) * 1000)
            time.sleep(pause_seconds)
        return taken

    def _until(self, wanted: bytes) -> None:
        seen = b""
        while wanted not in seen:
            if not select.select([self._ours], [], [], ECHO_SECONDS)[0]:
                raise OSError(f"{wanted!r} did not come back; seen: {seen[-KEPT:]!r}")
            # Only the end of it is kept: a terminal that prints megabytes is measured, too.
            seen = seen[-KEPT:] + os.read(self._ours, 65536)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
