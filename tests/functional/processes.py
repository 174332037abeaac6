"""Starting programs, waiting for things with a deadline, and what /proc tells about a process."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import attrs
from twisted.trial.unittest import SkipTest

import rshell
import rshell_agent

__all__ = [
    "AGENT",
    "CLI",
    "LONG",
    "REQUIRE_ALL",
    "TWISTD",
    "Finished",
    "LeavesNothing",
    "Program",
    "children",
    "descendants",
    "die_with_us",
    "end",
    "environment",
    "fds",
    "lasting",
    "peak_kb",
    "pids",
    "require",
    "reset_peak",
    "rss_kb",
    "state",
    "until",
]

#: Tests that take minutes run only when asked for.
LONG = os.environ.get("RSHELL_LONG") == "1"
#: On a machine that is meant to have everything, a missing program is a failure.
REQUIRE_ALL = os.environ.get("RSHELL_REQUIRE_ALL") == "1"

#: -P: the current directory is not on the path, as with installed scripts.
PYTHON = (sys.executable, "-P")
TWISTD = (*PYTHON, "-c", "from twisted.scripts.twistd import run; run()")
CLI = (*PYTHON, "-m", "rshell.cli")
AGENT = (*PYTHON, "-m", "rshell_agent")

Value = TypeVar("Value")
Test = TypeVar("Test", bound=Callable[..., None])


def require(program: str) -> str:
    """Return where a program is; skip the test without it, or fail under RSHELL_REQUIRE_ALL."""
    found = shutil.which(program)
    if found is None:
        message = f"{program} is not installed"
        if REQUIRE_ALL:
            raise AssertionError(message)
        raise SkipTest(message)
    return found


def environment(home: Path, *paths: Path) -> dict[str, str]:
    """Return the environment of children: our code, a home of their own, nothing of rshell's."""
    code = [Path(module.__file__ or "").parent.parent for module in (rshell, rshell_agent)]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RSHELL", "XDG_", "PYTHON"))
    }
    # trial's working directory may come first on our own path: children must not see it.
    # PATH gets our interpreter's scripts first: commands on devices may want them.
    return {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(str(path) for path in (*paths, *code)),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }


def lasting(why: str) -> Callable[[Test], Test]:
    """Mark a test that runs only with RSHELL_LONG; its setUp does not run either."""

    def mark(test: Test) -> Test:
        if not LONG:
            test.skip = f"RSHELL_LONG: {why}"  # type: ignore[attr-defined]  # trial looks there
        return test

    return mark


def until(
    condition: Callable[[], Value],
    what: str | Callable[[], str],
    seconds: float = 30,
    pause: float = 0.05,
) -> Value:
    """Return the first true value of ``condition()``.

    Raises:
        AssertionError: It did not come within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {text}")
        time.sleep(pause)


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_us() -> None:
    """For preexec_fn: a test run that is killed leaves no gateway and no agent behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class LeavesNothing:
    """A context manager whose `close` ends and removes all it has made, also if making fails."""

    def __enter__(self) -> Self:
        try:
            self.make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def make(self) -> None:
        """Make what is needed from the start; nothing here."""

    def close(self) -> None:
        """End everything, also what was made by half; more than once, too."""
        raise NotImplementedError


@attrs.frozen
class Finished:
    """How a program ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes
    seconds: float = 0.0
    peak_kb: int = 0


class Program:
    """A child process, with pipes; `finish` waits for its end, watching its memory."""

    def __init__(
        self,
        command: Sequence[str | bytes],
        environ: dict[str, str],
        cwd: Path,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self.started = time.monotonic()
        self.peak_kb = 0
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environ, cwd=cwd
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def sample(self) -> None:
        """Note the highest memory so far."""
        try:
            self.peak_kb = max(self.peak_kb, peak_kb(self.pid))
        except OSError:
            pass  # it ended just now

    def finish(self, data: bytes | None = None, seconds: float = 60) -> Finished:
        """Give it input and wait for its end.

        Raises:
            AssertionError: It did not end in time; it was killed.
        """
        deadline = time.monotonic() + seconds
        if data and self.process.stdin is not None:
            # A second `communicate` forgets what of its input the first one had not written.
            stdin, self.process.stdin = self.process.stdin, None
            threading.Thread(target=_feed, args=(stdin, data), daemon=True).start()
        while True:
            self.sample()
            try:
                out, err = self.process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    self.process.kill()
                    out, err = self.process.communicate()
                    raise AssertionError(
                        f"{self.process.args!r} did not end within {seconds:g} s: "
                        f"{out[-500:]!r} {err[-500:]!r}"
                    ) from None
        elapsed = time.monotonic() - self.started
        return Finished(self.process.returncode, out or b"", err or b"", elapsed, self.peak_kb)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def _feed(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except OSError:
        pass  # it ended without reading all of it


def end(process: subprocess.Popen[bytes], seconds: float = 15) -> int:
    """End a process politely, then by force; return its status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def pids() -> Iterator[int]:
    """Yield all processes."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> tuple[str, int]:
    """Return (state, parent) of a process; ("", 0) if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def state(pid: int) -> str:
    """Return a process's state letter; "" if it is gone."""
    return _stat(pid)[0]


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    return [other for other in pids() if _stat(other)[1] == pid]


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def fds(pid: int) -> int:
    """Return how many descriptors a process has open, but for those of a gateway's database.

    Its pool opens readers, at most two, when reads are asked for at once: sooner or later.
    """
    folder, count = Path(f"/proc/{pid}/fd"), 0
    for name in os.listdir(folder):
        try:
            count += "/rshell.sqlite" not in os.readlink(folder / name)
        except FileNotFoundError:
            pass  # closed meanwhile
    return count


def _status_kb(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def rss_kb(pid: int) -> int:
    """Return a process's resident memory, KiB."""
    return _status_kb(pid, "VmRSS")


def peak_kb(pid: int) -> int:
    """Return the most a process had resident since `reset_peak` or its start, KiB."""
    return _status_kb(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Let `peak_kb` count anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
