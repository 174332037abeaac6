"""Group commit: order, isolation, failure, closing."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.store import writer
from rshell.store.errors import NotFound, StoreError, StoreUnavailable
from rshell.store.records import AuditEnd, AuditRecord
from rshell.store.store import Store
from rshell.store.threads import InlineThreads, PooledThreads
from tests.store.fixture import HeldThreads, Loop, StoreTestCase, statements

EVENT = AuditRecord(kind="test")


class GroupCommit(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.threads = HeldThreads()
        self.store = self.open(self.threads)
        self.threads.timers.clear()
        self.order: list[object] = []

    def note(self, deferred: Deferred[int]) -> None:
        """Note results in the order they fire, with what another connection sees then."""

        def fired(result: int) -> None:
            with sqlite3.connect(self.path) as other:
                visible = other.execute("SELECT max(seq) FROM audit").fetchone()[0]
            other.close()
            self.order.append((result, visible))

        deferred.addCallback(fired)

    def test_waiting_writes_share_a_transaction(self) -> None:
        """What queues during a commit goes into the next one, all together."""
        for _ in range(5):
            self.note(self.store.append_audit(EVENT))
        self.assertEqual((len(self.threads.held), self.order), (1, []))
        self.threads.release()
        self.assertEqual(self.order, [(1, 1)])
        self.threads.release()
        self.assertEqual(self.order, [(1, 1), (2, 5), (3, 5), (4, 5), (5, 5)])
        self.assertEqual(self.threads.held, [])

    def test_ends_wait_for_company(self) -> None:
        """An end starts no commit by itself, and goes out with the next write, in order."""
        opening = self._opened()
        self.note(self.store.finish_audit(AuditEnd(refers=opening, status="ok"), patient=True))
        self.assertEqual(self.threads.held, [])
        self.note(self.store.append_audit(EVENT))
        self.threads.release()
        self.assertEqual(self.order, [(2, 3), (3, 3)])

    def test_ends_alone_are_written_soon(self) -> None:
        """With nothing else to write, ends are committed after LINGER_SECONDS, by one timer."""
        opening, other = self._opened(), self._opened()
        for number in (opening, other):
            self.note(self.store.finish_audit(AuditEnd(refers=number, status="ok"), patient=True))
        self.assertEqual(self.threads.held, [])
        ((seconds, call),) = self.threads.timers
        self.assertEqual(seconds, writer.LINGER_SECONDS)
        call()
        self.threads.release()
        self.assertEqual(self.order, [(3, 4), (4, 4)])

    def test_many_ends_wait_no_longer(self) -> None:
        """A batch's worth of ends is committed at once."""
        self.patch(writer, "MAX_BATCH", 2)
        for number in (self._opened(), self._opened()):
            self.store.finish_audit(AuditEnd(refers=number, status="ok"), patient=True)
        self.assertEqual(len(self.threads.held), 1)
        self.threads.release()

    def test_reads_of_the_log_see_ends_that_wait(self) -> None:
        """Whoever asks for the log gets every end that was handed in before."""
        opening = self._opened()
        self.store.finish_audit(AuditEnd(refers=opening, status="ok"), patient=True)
        rows = self.store.audit_rows()
        self.assertNoResult(rows)
        self.threads.release()
        self.assertEqual([row.record.status for row in self.got(rows)], ["ok", None])
        # With nothing under way a read waits for nothing.
        self.assertEqual(len(self.got(self.store.audit_rows())), 2)

    def test_close_writes_ends_that_wait(self) -> None:
        """Closing commits what waits, and leaves no timer behind."""
        opening = self._opened()
        self.note(self.store.finish_audit(AuditEnd(refers=opening, status="ok"), patient=True))
        closed = self.store.close()
        self.threads.release()
        self.got(closed)
        self.assertEqual(self.order, [(2, 2)])
        self.assertEqual(self.threads.timers, [])

    def test_ends_need_no_query(self) -> None:
        """The end of a row that this process opened asks the database nothing of it."""
        opening = self._opened()
        with statements() as found:
            done = self.store.finish_audit(AuditEnd(refers=opening, status="ok"))
            self.threads.release()
        kinds = [text.split()[0] for text in found]
        self.assertEqual(kinds, ["BEGIN", "SELECT", "INSERT", "UPDATE"])
        self.assertEqual(self.got(done), 2)
        again = self.store.finish_audit(AuditEnd(refers=opening, status="error"))
        self.threads.release()
        self.assertEqual(self.got(again), 2)

    def test_an_end_by_somebody_else(self) -> None:
        """A row that another process has ended keeps its first end."""
        opening = self._opened()
        other = Store.open(self.path, InlineThreads())
        self.addCleanup(other.close)
        end = AuditEnd(refers=opening, status="lost")
        self.assertEqual(self.got(other.finish_audit(end)), 2)
        mine = self.store.finish_audit(AuditEnd(refers=opening, status="ok"))
        event = self.store.append_audit(EVENT)
        self.threads.release()
        self.threads.release()
        self.assertEqual((self.got(mine), self.got(event)), (2, 3))

    def _opened(self) -> int:
        number = self.store.append_audit(AuditRecord(kind="session", opens=True))
        self.threads.release()
        return self.got(number)

    def test_nothing_fires_before_the_commit(self) -> None:
        """A write's Deferred has no result while its transaction is under way."""
        first = self.store.next_start()
        self.assertNoResult(first)
        self.threads.release()
        self.assertEqual(self.got(first), 1)

    def test_batches_are_bounded(self) -> None:
        """One transaction holds at most MAX_BATCH writes."""
        self.patch(writer, "MAX_BATCH", 3)
        starts = [self.store.next_start() for _ in range(5)]
        self.threads.release()
        self.threads.release()
        self.assertEqual([start.called for start in starts], [True] * 4 + [False])
        self.threads.release()
        self.assertEqual(self.got(starts[4]), 5)

    def test_queue_is_bounded(self) -> None:
        """When the disk has stopped, further writes fail instead of filling the memory."""
        self.patch(writer, "MAX_QUEUED", 2)
        starts = [self.store.next_start() for _ in range(4)]
        self.failureResultOf(starts[3], StoreUnavailable)
        self.threads.release()
        self.threads.release()
        self.assertEqual([self.got(start) for start in starts[:3]], [1, 2, 3])

    def test_a_refused_write_spares_its_neighbours(self) -> None:
        """A write that fails is undone alone."""
        self.store.next_start()
        good, bad, also_good = (
            self.store.set_fleet("f1"),
            self.store.revoke_operator("nobody"),
            self.store.next_start(),
        )
        self.threads.release()
        self.threads.release()
        self.failureResultOf(bad, NotFound)
        self.assertIsNone(self.got(good))
        self.assertEqual(self.got(also_good), 2)
        self.assertEqual(self.got(self.store.fleet()), "f1")

    def test_a_bad_audit_row_spares_its_neighbours(self) -> None:
        """A row with a value the database cannot hold fails alone; the chain stays sound."""
        self.store.next_start()
        rows = [
            self.store.append_audit(EVENT),
            self.store.append_audit(AuditRecord(kind="test", exit_code=2**63)),
            self.store.append_audit(AuditRecord(kind="test", message="\ud800")),
            self.store.append_audit(AuditRecord(kind="test", details={"x": object()})),
            self.store.append_audit(AuditRecord(kind="test", details={"x": "y" * 70_000})),
            self.store.finish_audit(AuditEnd(refers=77, status="ok")),
            self.store.append_audit(EVENT),
        ]
        self.threads.release()
        self.threads.release()
        for bad in rows[1:6]:
            self.failureResultOf(bad, StoreError)
        self.assertEqual([self.got(rows[0]), self.got(rows[6])], [1, 2])
        verdict = self.got(self.store.verify_audit())
        self.assertEqual((verdict.sound, verdict.rows), (True, 2))

    def test_a_failed_commit_fails_every_write_in_it(self) -> None:
        """On a full disk every write of the transaction fails, and none is there later."""
        self.store._writer.write(
            lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1")
        )
        self.threads.release()
        writes: list[Deferred[int]] = [self.store.next_start()]
        writes += [self.store.append_audit(_big()) for _ in range(50)]
        starts = [self.store.next_start(), *writes]
        while self.threads.held:
            self.threads.release()
        for write in writes[1:]:
            failure = self.failureResultOf(write, StoreUnavailable)
            self.assertIn("the disk is full", str(failure.value))
        self.failureResultOf(starts[0], StoreUnavailable)
        self.successResultOf(writes[0])  # a transaction of its own, without growth
        self.assertEqual(self.got(self.store.audit_rows()), [])

    def test_close_finishes_what_is_under_way(self) -> None:
        """Closing waits for queued writes, then stops the threads; later calls fail."""
        first, second = self.store.next_start(), self.store.next_start()
        closed = self.store.close()
        self.failureResultOf(self.store.next_start(), StoreUnavailable)
        self.failureResultOf(self.store.fleet(), StoreUnavailable)
        self.failureResultOf(self.store.append_audit(EVENT), StoreUnavailable)
        self.threads.release()
        self.assertNoResult(closed)
        self.assertFalse(self.threads.stopped)
        self.threads.release()
        self.assertEqual([self.got(first), self.got(second)], [1, 2])
        self.assertIsNone(self.got(closed))
        self.assertTrue(self.threads.stopped)

    def test_close_twice(self) -> None:
        """Closing again waits for the same end."""
        self.store.next_start()
        first, second = self.store.close(), self.store.close()
        self.assertNoResult(second)
        self.threads.release()
        self.assertEqual((self.got(first), self.got(second)), (None, None))

    def test_a_cancelled_write_is_still_made(self) -> None:
        """Cancelling a Deferred forgets the answer, not the write."""
        start = self.store.next_start()
        start.cancel()
        start.addErrback(lambda _failure: None)
        self.threads.release()
        again = self.store.next_start()
        self.threads.release()
        self.assertEqual(self.got(again), 2)


def _big() -> AuditRecord:
    return AuditRecord(kind="test", details={"filler": "x" * 4000})


class RealThreads(SynchronousTestCase):
    def setUp(self) -> None:
        self.loop = Loop()
        self.store = Store.open(Path(self.mktemp()), PooledThreads(self.loop.call_from_thread))
        self.addCleanup(self.close)

    def close(self) -> None:
        closed = self.store.close()
        self.loop.run_until(closed)
        self.successResultOf(closed)

    def test_callbacks_arrive_in_the_loops_thread(self) -> None:
        """Work runs in other threads, callbacks in the one that runs the loop."""
        ran: list[threading.Thread] = []
        deferred = self.store._writer.write(lambda _: ran.append(threading.current_thread()))
        fired: list[threading.Thread] = []
        deferred.addCallback(lambda _: fired.append(threading.current_thread()))
        self.loop.run_until(deferred)
        self.assertEqual(fired, [threading.current_thread()])
        self.assertNotEqual(ran, fired)

    def test_many_writes_and_reads(self) -> None:
        """Two thousand audit rows and reads beside them all arrive, in order."""
        appends = [self.store.append_audit(EVENT) for _ in range(2000)]
        reads = [self.store.find_devices() for _ in range(50)]
        for append in appends:
            self.loop.run_until(append)
        for read in reads:
            self.loop.run_until(read)
        self.assertEqual([self.successResultOf(d) for d in appends], list(range(1, 2001)))
        self.assertEqual([self.successResultOf(d) for d in reads], [[]] * 50)
        verdict = self.store.verify_audit()
        self.loop.run_until(verdict)
        self.assertTrue(self.successResultOf(verdict).sound)

    def test_close_waits_for_reads(self) -> None:
        """A read under way is answered before the threads end."""
        gate = threading.Event()
        read = self.store._read(lambda _: gate.wait(30))
        closed = self.store.close()
        self.assertNoResult(closed)
        gate.set()
        self.loop.run_until(closed)
        self.assertEqual(self.successResultOf(read), True)


class Crash(SynchronousTestCase):
    def test_acknowledged_rows_survive_sigkill(self) -> None:
        """A gateway killed while it appends has lost no row it acknowledged."""
        path = Path(self.mktemp()).absolute()
        program = (
            "import sys, os\n"
            "from rshell.store.store import Store\n"
            "from rshell.store.records import AuditRecord\n"
            "from rshell.store.threads import InlineThreads\n"
            "store = Store.open(sys.argv[1], InlineThreads())\n"
            "tell = lambda seq: os.write(1, b'%d\\n' % seq)\n"
            "while True:\n"
            "    store.append_audit(AuditRecord(kind='test')).addCallback(tell)\n"
        )
        reading, writing = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", program, str(path)],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_CLOSE, reading)],
        )
        os.close(writing)
        told = b""
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while told.count(b"\n") < 50 and (more := pipe.read(4096)):
                told += more
            os.kill(pid, signal.SIGKILL)
            while more := pipe.read(4096):
                told += more
        os.waitpid(pid, 0)
        acknowledged = int(told.splitlines()[-1])
        store = Store.open(path, InlineThreads())
        self.addCleanup(store.close)
        verdict = self.successResultOf(store.verify_audit())
        self.assertTrue(verdict.sound)
        self.assertGreaterEqual(verdict.rows, acknowledged)
        self.assertGreaterEqual(acknowledged, 50)
