"""What runs while `churn` breaks things: commands, transfers and shells that check themselves.

Each piece of work has a thread of its own, a client process that may be killed at any time, and a
file on the device in which it leaves a mark each time that it really ran.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.functional.processes import environment
from tests.functional.relayed import PROMPT, RelayedFleet
from tests.functional.terminal import Terminal

__all__ = ["Command", "Piece", "Shell", "Transfer"]

#: Longer than the grace of an operator's end (60 s) and what may lie around it.
PATIENCE_SECONDS = 150.0
STATUS_REFUSED = 255
#: Between two looks at a process.
_PAUSE = 0.1


class Wrong(Exception):
    """Something that must never happen; the text says what."""


class Piece:
    """One piece of work.

    Args:
        yard: Where.
        name: Unique.
        device: On which device.
        seed: Of its own randomness.

    Attributes:
        result: "" while it runs; then "ok", "killed" (its client was, by us), "refused" (it never
            began), "lost" (given up after the grace) or "wrong".
        said: More about it.
    """

    def __init__(self, yard: RelayedFleet, name: str, device: str, seed: int) -> None:
        self.yard = yard
        self.name = name
        self.device = device
        self.random = random.Random(seed)
        self.result = ""
        self.said = ""
        self.doomed = False
        self.mark = yard.base / f"{name}.ran"
        self.client: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __str__(self) -> str:
        return f"{self.name} on {self.device}: {self.result or 'running'} {self.said}".rstrip()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    def kill(self) -> bool:
        """Kill its client; say whether there was one that ran."""
        client = self.client
        if client is None or client.poll() is not None:
            return False
        self.doomed = True
        client.send_signal(signal.SIGKILL)
        return True

    def _run(self) -> None:
        try:
            self.result = self.work()
        except Exception as error:
            self.result = "wrong"
            self.said = f"{type(error).__name__}: {error}"

    def work(self) -> str:
        """Do it; return the result.

        Raises:
            Wrong: A byte or a run too many or too few.
        """
        raise Wrong("nothing to do")

    def runs(self) -> list[str]:
        """Return the marks that were left on the device."""
        return self.mark.read_text().splitlines() if self.mark.exists() else []

    def _wait(self, client: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while client.poll() is None:
            if time.monotonic() > deadline:
                client.send_signal(signal.SIGKILL)
                client.wait()
                raise Wrong(f"its client did not end within {PATIENCE_SECONDS:g} s")
            time.sleep(_PAUSE)
        return client.returncode


class _Batch(Piece):
    """A command with files for its input and output."""

    def batch(self, script: str, data: bytes, wanted: bytes) -> str:
        """Run it and judge what came."""
        status = self.random.randrange(1, 100)
        base = self.yard.base
        paths = [base / f"{self.name}.{end}" for end in ("in", "out", "err")]
        paths[0].write_bytes(data)
        script = f"echo ran >> {self.mark}; {script}; echo end >&2; exit {status}"
        command = self.yard.far_cli("run", self.device, "--", script)
        with paths[0].open("rb") as stdin, paths[1].open("wb") as out, paths[2].open("wb") as err:
            self.client = subprocess.Popen(
                command, stdin=stdin, stdout=out, stderr=err, env=environment(base), cwd=base
            )
        got_status = self._wait(self.client)
        got, err_text = paths[1].read_bytes(), paths[2].read_bytes()
        result = self._judge(got_status, status, got, wanted, err_text)
        if result != "lost":
            for path in paths:
                path.unlink()
        return result

    def _judge(self, got_status: int, status: int, got: bytes, wanted: bytes, err: bytes) -> str:
        runs = self.runs()
        self.said = err.decode(errors="replace")[-300:].strip()
        if len(runs) > 1:
            raise Wrong(f"it ran {len(runs)} times; {self.said}")
        if not wanted.startswith(got):
            raise Wrong(f"after {_common(got, wanted)} right bytes others came; {self.said}")
        if b"Traceback" in err:
            raise Wrong(self.said)
        if self.doomed:
            return "killed"
        if got_status == STATUS_REFUSED:
            return "lost" if runs else "refused"
        if got_status != status:
            raise Wrong(f"exit status {got_status}, not {status}; {self.said}")
        if len(got) != len(wanted):
            raise Wrong(f"{len(got)} bytes came of {len(wanted)}; {self.said}")
        if len(runs) != 1 or err.count(b"end\n") != 1:
            raise Wrong(f"{len(runs)} runs; {self.said}")
        return "ok"


def _common(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class Transfer(_Batch):
    """Bytes through the device and back, each exactly once."""

    def work(self) -> str:
        data = self.random.randbytes(self.random.randrange(1 << 16, 3 << 20))
        digest = hashlib.sha256(data).hexdigest()
        # What arrived at the device is checked there, too.
        script = f"tee {self.mark}.data; sha256sum < {self.mark}.data > {self.mark}.sum"
        result = self.batch(script, data, data)
        found = Path(f"{self.mark}.sum")
        if result == "ok" and found.read_text().split()[0] != digest:
            raise Wrong("the device got other bytes than were sent")
        for kind in ("data", "sum"):
            Path(f"{self.mark}.{kind}").unlink(missing_ok=True)
        return result


class Command(_Batch):
    """A command that says a line now and then."""

    def work(self) -> str:
        count = self.random.randrange(20, 120)
        script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
        wanted = "".join(f"line {number}\n" for number in range(count)).encode()
        return self.batch(script, b"", wanted)


class Shell(Piece):
    """A person at a shell, who continues it from elsewhere when the window is killed."""

    _terminal: Terminal

    def work(self) -> str:
        lines = self.random.randrange(5, 25)
        unsure: set[int] = set()
        self._open("shell", self.device)
        try:
            try:
                self._terminal.expect(r"[#$>] ", 30)
            except (AssertionError, OSError):
                return self._never_began()
            self._terminal.type(PROMPT)
            for number in range(lines):
                if not self._line(number, unsure):
                    return "killed" if self.doomed else "lost"
                time.sleep(self.random.uniform(0.0, 1.0))
            return self._leave(lines, unsure)
        finally:
            self._terminal.close()

    def _open(self, *words: str) -> None:
        yard = self.yard
        self.doomed = False
        self._terminal = Terminal(yard.far_cli(*words), environment(yard.base), yard.base)
        self.client = self._terminal.process

    def _never_began(self) -> str:
        if self.doomed:
            return "killed"
        status = self._terminal.process.poll()
        if status == STATUS_REFUSED:
            self.said = self._terminal.seen[-200:].decode(errors="replace")
            return "refused"
        raise Wrong(f"no prompt, status {status}: {self._terminal.seen[-300:]!r}")

    def _line(self, number: int, unsure: set[int]) -> bool:
        """Type a line and see what it shows; False if the shell is out of reach."""
        one, other = self.random.randrange(10**4, 10**5), self.random.randrange(10**4, 10**5)
        text = f'echo {number} >> {self.mark}; echo "<$(({one}*{other}))>"\n'
        try:
            self._terminal.type(text)
            self._see(f"<{one * other}>")
        except (AssertionError, OSError):
            if not self.doomed:
                raise
            # It may or may not have been sent before the window was killed.
            unsure.add(number)
            return self._continue()
        return True

    def _see(self, wanted: str) -> None:
        """Wait until it is shown, while the window lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._terminal.expect(re.escape(wanted), 1)
            except AssertionError:
                if self._terminal.process.poll() is not None or time.monotonic() > deadline:
                    raise
            else:
                return

    def _continue(self) -> bool:
        """Attach to the session from another window; say whether it was found."""
        self._terminal.close()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            session = self._session()
            if session is not None:
                self._open("attach", session)
                try:
                    # \x15: whatever was typed in part goes.
                    self._terminal.type("\x15echo at''tached\n")
                    self._see("attached\r\n")
                except (AssertionError, OSError):
                    self._terminal.close()
                else:
                    return True
            time.sleep(1)
        self.said = "no session of it is listed, or it cannot be attached to"
        raise Wrong(self.said)

    def _session(self) -> str | None:
        yard = self.yard
        done = subprocess.run(
            yard.cli("sessions", "--json", self.device),
            capture_output=True,
            env=environment(yard.base),
            cwd=yard.base,
            timeout=60,
            check=False,
        )
        if done.returncode:
            return None
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        found = [row for row in rows if row["handler"] == "shell" and row["state"] == "detached"]
        return found[0]["session"] if len(found) == 1 else None

    def _leave(self, lines: int, unsure: set[int]) -> str:
        status = self.random.randrange(1, 100)
        try:
            self._terminal.type(f"exit {status}\n")
            got = self._terminal.wait(PATIENCE_SECONDS)
        except OSError:
            got = self._terminal.process.wait()
        marks = [int(line) for line in self.runs()]
        if sorted(set(marks)) != marks:
            raise Wrong(f"a typed line came twice or out of order: {marks}")
        if set(range(lines)) - set(marks) - unsure:
            raise Wrong(f"a typed line is missing: {marks} of {lines}, unsure {unsure}")
        if self.doomed:
            return "killed"
        if got == STATUS_REFUSED:
            self.said = self._terminal.seen[-300:].decode(errors="replace")
            return "lost"
        if got != status:
            raise Wrong(f"exit status {got}, not {status}: {self._terminal.seen[-300:]!r}")
        return "ok"
