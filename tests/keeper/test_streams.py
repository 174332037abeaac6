"""Sessions over a real keeper: bytes, joining, ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants, wire
from tests.keeper.client import BIG, Keeper, Stream, b64

TERMINAL = {"rows": 33, "columns": 77, "term": "xterm-256color"}


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def comm(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read()


class KeeperCase(SynchronousTestCase):
    """One keeper per test."""

    times: dict[str, float] = {}

    def setUp(self) -> None:
        self.keeper = Keeper(None, **self.times)
        self.addCleanup(self.keeper.stop)
        self.session = os.urandom(16)

    def run_to_end(self, *argv: str, **fields: Any) -> Stream:
        stream = self.keeper.open(self.session, *argv, **fields)
        stream.finish()
        return stream

    def eventually(self, condition: Any, seconds: float = 8.0) -> None:
        """Poll the outside world: other processes have no clock of ours."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it did not happen")
            signal.sigtimedwait([], 0.02)

    def detached(self) -> None:
        control = self.keeper.control()
        self.eventually(lambda: not (control.session(self.session) or {"attached": 0})["attached"])
        control.close()


class ByteTests(KeeperCase):
    def test_all_bytes(self) -> None:
        """All 256 byte values pass a pipe both ways unchanged, and so does no byte at all."""
        stream = self.keeper.open(self.session, "cat")
        stream.data(bytes(range(256)), end=True)
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertEqual(stream.stdout, bytes(range(256)))

    def test_large_frames(self) -> None:
        """Who says that he takes large frames gets them; all may send them (K11)."""
        data = os.urandom(600_000)
        for large in (True, False, None, 1):
            self.session = os.urandom(16)
            hello = {} if large is None else {"large": large}
            stream = Stream(self.keeper.connect(), **hello)
            stream.open(self.session, line=f"head -c {len(data)}; sleep 0.1")
            got = 0
            for at in range(0, len(data), wire.MAX_DATA):
                stream.send(wire.DATA, data[at : at + wire.MAX_DATA])
                got = min(len(data), at + wire.MAX_DATA)
                while stream.consumed < got - 4 * wire.MAX_DATA // 2 and stream.step():
                    stream.tell()
            stream.send(wire.DATA, b"", wire.EOF)
            stream.finish()
            self.assertEqual(data, stream.stdout)
            if large is not True:
                self.assertLessEqual(stream.largest, wire.MAX_PAYLOAD)

    def test_immediate_end(self) -> None:
        """Input that ends at once ends cat."""
        stream = self.keeper.open(self.session, "cat")
        stream.data(b"", end=True)
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertEqual((stream.stdout, stream.stderr), (b"", b""))

    def test_long_line(self) -> None:
        """A megabyte without newline passes whole, under credit both ways."""
        stream = self.keeper.open(self.session, "cat", limit=1000)
        sent = 0
        while len(stream.stdout) < 1 << 20:
            room = min(stream.granted[1] - sent, (1 << 20) - sent, 65536)
            if room > 0:
                stream.data(b"y" * room, end=sent + room == 1 << 20)
                sent += room
            self.assertTrue(stream.step())
            stream.tell(stream.consumed + 1000)
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertEqual(stream.stdout, b"y" * (1 << 20))

    def test_stderr(self) -> None:
        """Standard error is told apart, and both share one count (K20)."""
        stream = self.run_to_end(line="echo out; echo error >&2")
        self.assertEqual((stream.stdout, stream.stderr), (b"out\n", b"error\n"))
        self.assertEqual((stream.outcome or {})["at"], 10)

    def test_input_beyond_limit(self) -> None:
        """Input beyond the limit closes the connection; the session lives (K22)."""
        stream = self.keeper.open(self.session, "sleep", "60")
        with contextlib.suppress(BrokenPipeError):
            stream.data(b"x" * (stream.granted[1] + (1 << 18)))
        with self.assertRaises(AssertionError) as caught:
            while stream.step():
                pass
        self.assertIn("input beyond its limit", str(caught.exception))
        session = self.keeper.control().session(self.session)
        assert session is not None
        self.assertEqual((session["state"], session["attached"]), ("running", False))

    def test_input_told_within_a_second(self) -> None:
        """A single consumed byte, and a seen event, are announced within a second (K22)."""
        stream = self.keeper.open(self.session, "cat")
        began = time.monotonic()
        stream.data(b"a")
        stream.event(1, "nonsense")
        while stream.granted[0] < 1 or stream.granted[2] < 1:
            self.assertTrue(stream.step())
        self.assertLess(time.monotonic() - began, 1.5)
        self.assertEqual(stream.granted, (1, 1 + constants.WINDOW, 1))

    def test_process_reads_no_more(self) -> None:
        """Input for a process that closed its end is dropped and counted (K22)."""
        stream = self.keeper.open(self.session, line="exec <&-; echo closed; sleep 60")
        stream.until(b"closed")
        stream.data(b"x" * 300000)
        while stream.granted[0] < 300000:
            self.assertTrue(stream.step())

    def test_early_close(self) -> None:
        """A process that closes its output early lives on to its own exit status (K28)."""
        stream = self.run_to_end(line="echo hi; exec >&- 2>&-; sleep 0.2; exit 7")
        self.assertEqual(stream.stdout, b"hi\n")
        self.assertEqual((stream.outcome or {})["exit_code"], 7)

    def test_broken_pipe(self) -> None:
        """SIGPIPE has its usual meaning inside a command (K34)."""
        stream = self.run_to_end(line="(yes; echo $? >&2) | head -1; exit 0")
        self.assertEqual(stream.stdout, b"y\n")
        self.assertEqual(stream.stderr, b"141\n")


class JoinTests(KeeperCase):
    def test_every_offset(self) -> None:
        """A join at any offset continues with exactly the next byte (K24)."""
        stream = self.keeper.open(self.session, line="printf 0123456789; sleep 60")
        stream.until(b"9")
        for attempt, start in enumerate(range(11), 2):
            resume = {"consumed": start, "limit": BIG, "events": 0}
            joined = self.keeper.open(self.session, "-", attempt=attempt, resume=resume)
            self.assertTrue(joined.opened["attached"])
            self.assertNotIn("gap", joined.opened)
            rest = b"0123456789"[start:]
            self.assertEqual(joined.until(rest), rest)

    def test_displaced(self) -> None:
        """The higher attempt closes the lower; an equal or lower one is refused (K17)."""
        first = self.keeper.open(self.session, "cat")
        second = self.keeper.open(self.session, "cat", attempt=2)
        self.assertIsNone(first.frame())
        for attempt in (1, 2):
            self.assertEqual(
                self.keeper.refused(self.session, "cat", attempt=attempt)[0], "duplicate"
            )
        third = self.keeper.open(self.session, "cat", attempt=7)
        self.assertIsNone(second.frame())
        third.data(b"x", end=True)
        self.assertEqual(third.finish()["status"], "ok")
        self.assertEqual(third.stdout, b"x")

    def test_input_resumes(self) -> None:
        """Input goes on at what the process took, the rest is sent again, nothing doubles (K23)."""
        data = os.urandom(200000)
        stream = self.keeper.open(self.session, line="sleep 0.3; md5sum")
        stream.data(data)
        stream.close()
        joined = self.keeper.open(self.session, "-", attempt=2)
        joined.data(data[joined.opened["consumed"] :], end=True)
        self.assertEqual(joined.finish()["status"], "ok")
        again = self.keeper.open(os.urandom(16), "md5sum")
        again.data(data, end=True)
        again.finish()
        self.assertEqual(joined.stdout, again.stdout)

    def test_other_operator(self) -> None:
        """Nobody joins another operator's session (K17)."""
        self.keeper.open(self.session, "cat")
        self.assertEqual(
            self.keeper.refused(self.session, "cat", attempt=2, operator="bob")[0], "policy"
        )

    def test_false_resume(self) -> None:
        """A resume beyond what was sent is refused and does not disturb who is attached."""
        stream = self.keeper.open(self.session, "cat")
        resume = {"consumed": 1, "limit": BIG, "events": 0}
        code, _ = self.keeper.refused(self.session, "cat", attempt=2, resume=resume)
        self.assertEqual(code, "bad-request")
        stream.data(b"", end=True)
        self.assertEqual(stream.finish()["status"], "ok")

    def test_unknown(self) -> None:
        """Unknown sessions are lost with resume, unknown when memory is short, else run (K19)."""
        resume = {"consumed": 0, "limit": BIG, "events": 0}
        self.assertEqual(self.keeper.refused(self.session, "true", resume=resume)[0], "lost")
        code, _ = self.keeper.refused(self.session, "true", attempt=2, age_ms=3_600_000)
        self.assertEqual(code, "unknown")
        control = self.keeper.control()
        self.eventually(lambda: control.call("status")["uptime_ms"] > 50)
        self.run_to_end("true", attempt=2, age_ms=20)

    def test_outcome_kept(self) -> None:
        """Output and outcome wait until they are acknowledged, then the id is lost (K29)."""
        stream = self.keeper.open(self.session, line="echo hi; exit 3")
        stream.finish(acknowledge=False)
        stream.close()
        self.detached()
        control = self.keeper.control()
        session = control.session(self.session)
        assert session is not None
        self.assertEqual((session["state"], session["outcome"]["exit_code"]), ("finished", 3))
        joined = self.keeper.open(self.session, "-", attempt=2)
        self.assertEqual(joined.finish()["exit_code"], 3)
        self.assertEqual(joined.stdout, b"hi\n")
        self.assertIsNone(control.session(self.session))
        code, message = self.keeper.refused(self.session, "true", attempt=3)
        self.assertEqual((code, message), ("lost", "the session has ended: exit 3"))

    def test_acknowledge(self) -> None:
        """An outcome reported by other means is acknowledged by a call (K33)."""
        stream = self.keeper.open(self.session, "true")
        stream.finish(acknowledge=False)
        stream.close()
        control = self.keeper.control()
        done = control.call("acknowledge", sessions=[b64(self.session), b64(os.urandom(16))])
        self.assertEqual(done, {"acknowledged": [b64(self.session)]})
        self.assertEqual(control.call("sessions"), {"sessions": []})

    def test_acknowledge_while_attached(self) -> None:
        """Whoever came back for output and outcome gets both, whatever was said meanwhile (K33)."""
        stream = self.keeper.open(self.session, line="echo hi; exit 3", limit=1)
        control = self.keeper.control()
        self.eventually(lambda: (control.session(self.session) or {})["state"] == "finished")
        done = control.call("acknowledge", sessions=[b64(self.session)])
        self.assertEqual(done, {"acknowledged": []})
        stream.until(b"h")
        stream.tell(100)
        self.assertEqual((stream.finish()["exit_code"], stream.stdout), (3, b"hi\n"))
        self.assertIsNone(control.session(self.session))

    def test_reset(self) -> None:
        """RESET link-lost detaches, any other code cancels (K30)."""
        stream = self.keeper.open(self.session, "sleep", "60")
        pid = stream.opened["pid"]
        stream.send(wire.RESET, {"code": "link-lost", "message": ""})
        self.assertIsNone(stream.frame())
        self.assertTrue(alive(pid))
        joined = self.keeper.open(self.session, "-", attempt=2)
        joined.send(wire.RESET, {"code": "cancelled", "message": ""})
        self.eventually(lambda: not alive(pid))


class DetachedTests(KeeperCase):
    times = {"backpressure": 0.2}

    def test_overwritten(self) -> None:
        """A detached shell's program runs on; the join tells the gap (K24, K32)."""
        line = "echo begin; read x; seq -w 1000000; echo done; sleep 60; :"
        stream = self.keeper.open(self.session, line=line, pty=TERMINAL, detach=True)
        stream.until(b"begin\r\n")
        stream.data(b"\n")
        stream.close()
        control = self.keeper.control()
        pid = stream.opened["pid"]
        children = f"/proc/{pid}/task/{pid}/children"

        def sleeping() -> bool:
            with open(children, encoding="ascii") as file:
                names = [comm(p) for p in file.read().split()]
            return names == ["sleep\n"]

        self.eventually(sleeping, 20)
        control.close()
        resume = {"consumed": stream.consumed, "limit": stream.consumed + 1000, "events": 0}
        joined = self.keeper.open(self.session, "-", attempt=2, resume=resume)
        self.assertGreater(joined.opened["gap"], 5_000_000)
        joined.tell(BIG)
        joined.until(b"done\r\n")
        self.assertEqual(len(joined.stdout), constants.WINDOW)
        self.assertIn(b"0999999\r\n1000000\r\ndone", joined.stdout)

    def test_exec_waits(self) -> None:
        """A detached exec waits like a pipe and loses nothing (K32)."""
        stream = self.keeper.open(self.session, "seq", "200000", limit=0)
        stream.close()
        self.detached()
        resume = {"consumed": 0, "limit": BIG, "events": 0}
        joined = self.keeper.open(self.session, "-", attempt=2, resume=resume)
        self.assertEqual(joined.finish()["status"], "ok")
        self.assertEqual(joined.stdout, b"".join(b"%d\n" % n for n in range(1, 200001)))

    def test_too_many_alone(self) -> None:
        """Of too many sessions without operator, the one alone for longest is ended (K32)."""
        self.keeper.policy("[policy]\ndetached_max = 1\n")
        second = os.urandom(16)
        for session in (self.session, second):
            self.keeper.open(session, "sleep", "60", detach=True).close()
            self.detached()
        control = self.keeper.control()

        def states() -> list[str]:
            return [s["state"] for s in control.call("sessions")["sessions"]]

        self.eventually(lambda: states() == ["finished", "running"])

    def test_limit(self) -> None:
        """Nobody attached for the limit: the process is ended as timed out (K32)."""
        self.keeper.policy("[policy]\nexec_limit_seconds = 0\n")
        self.keeper.open(self.session, "sleep", "60").close()
        control = self.keeper.control()
        self.eventually(lambda: (control.session(self.session) or {})["state"] == "finished")
        session = control.session(self.session)
        assert session is not None
        self.assertEqual(session["outcome"]["status"], "timeout")
