"""Unit tests of racing connections and of looking up names."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.addresses import NameLookup
from rshell.link.dialling import connect_first


class RaceTests(SynchronousTestCase):
    """`connect_first`, on a fake clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.unwanted: list[str] = []
        self.running: dict[str, Deferred[str]] = {}

    def attempt(self, name: str, answer: Any = None) -> Callable[[], Deferred[str]]:
        def start() -> Deferred[str]:
            self.started.append(name)
            if isinstance(answer, Exception):
                return fail(answer)
            if answer is not None:
                return succeed(answer)
            self.running[name] = Deferred(lambda _: self.cancelled.append(name))
            return self.running[name]

        return start

    def race(self, *attempts: Callable[[], Deferred[str]]) -> Deferred[str]:
        return connect_first(self.clock, attempts, self.unwanted.append)

    def test_stagger(self) -> None:
        """Each attempt has 250 ms before the next one starts beside it (RFC 8305)."""
        result = self.race(self.attempt("a"), self.attempt("b"), self.attempt("c"))
        self.clock.advance(0.249)
        self.assertEqual(["a"], self.started)
        self.clock.advance(0.001)
        self.assertEqual(["a", "b"], self.started)
        self.clock.advance(0.25)
        self.assertEqual(["a", "b", "c"], self.started)
        self.running["b"].callback("b is up")
        self.assertEqual("b is up", self.successResultOf(result))
        self.assertEqual(["a", "c"], self.cancelled)

    def test_first_wins_alone(self) -> None:
        """A success within the stagger starts nothing else, and leaves no timer."""
        self.assertEqual("up", self.successResultOf(self.race(self.attempt("a", "up"))))
        result = self.race(self.attempt("a"), self.attempt("b"))
        self.running["a"].callback("up")
        self.successResultOf(result)
        self.assertEqual(["a", "a"], self.started)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_failure_starts_the_next_at_once(self) -> None:
        """After a failure nobody waits for the stagger; all failed is the last failure."""
        result = self.race(
            self.attempt("a", OSError("a")), self.attempt("b"), self.attempt("c", OSError("c"))
        )
        self.assertEqual(["a", "b"], self.started)
        self.clock.advance(0.25)
        self.assertEqual(["a", "b", "c"], self.started)
        self.assertNoResult(result)
        self.running["b"].errback(OSError("b"))
        self.assertEqual("b", str(self.failureResultOf(result, OSError).value))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_second_success(self) -> None:
        """What succeeds although it was cancelled is handed back to be closed."""
        stubborn: Deferred[str] = Deferred(lambda deferred: deferred.callback("late"))
        result = self.race(lambda: stubborn, self.attempt("b", "up"))
        self.clock.advance(0.25)
        self.assertEqual("up", self.successResultOf(result))
        self.assertEqual(["late"], self.unwanted)

    def test_cancel(self) -> None:
        """Cancelling the race gives up every attempt and starts no other."""
        result = self.race(self.attempt("a"), self.attempt("b"), self.attempt("c"))
        self.clock.advance(0.25)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(["a", "b"], self.cancelled)
        self.clock.advance(10)
        self.assertEqual(["a", "b"], self.started)


class Reactor(Clock):
    """A clock, and the one thread of a test."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class LookupTests(SynchronousTestCase):
    """`NameLookup` with a resolver that answers when it is told to."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.threads: list[Callable[[], None]] = []
        self.lookup = NameLookup(self.reactor, self.look, self.threads.append)

    def look(self, host: str, port: int, flags: int) -> list[str]:
        self.asked.append(host)
        answer = self.answers.get(host, ["192.0.2.1"])
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def test_literal(self) -> None:
        """An address needs no resolver."""
        self.assertEqual(["::1"], self.successResultOf(self.lookup.resolve("::1", 1)))
        self.assertEqual([], self.threads)

    def test_answer_and_error(self) -> None:
        """A name's addresses arrive; what the resolver refuses is an OSError."""
        self.answers["bad"] = UnicodeError("label too long")
        self.answers["none"] = OSError(-2, "Name or service not known")
        good, bad, none = (self.lookup.resolve(name, 1) for name in ("good", "bad", "none"))
        for work in self.threads:
            work()
        self.assertEqual(["192.0.2.1"], self.successResultOf(good))
        self.failureResultOf(bad, OSError)
        self.assertIn("not known", str(self.failureResultOf(none, OSError).value))

    def test_hanging_resolver(self) -> None:
        """A lookup ends after 10 s; asked again meanwhile, it takes no second thread."""
        first = self.lookup.resolve("slow", 1)
        self.reactor.advance(9.9)
        self.assertNoResult(first)
        self.reactor.advance(0.1)
        self.assertIn("10 s", str(self.failureResultOf(first, TimeoutError).value))
        second, other = self.lookup.resolve("slow", 1), self.lookup.resolve("other", 1)
        slow, quick = self.threads
        quick()
        self.assertEqual(["192.0.2.1"], self.successResultOf(other))
        self.assertNoResult(second)
        slow()
        self.assertEqual(["192.0.2.1"], self.successResultOf(second))
        self.assertEqual(["other", "slow"], self.asked)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_hanging_for_ever(self) -> None:
        """However often a name is asked for that nobody answers, only the last one waits."""
        for _ in range(50):
            late = self.lookup.resolve("slow", 1)
            self.reactor.advance(11)
            self.failureResultOf(late, TimeoutError)
        (waiting,) = self.lookup._waiting.values()
        self.assertEqual(1, len(waiting))

    def test_impossible_name(self) -> None:
        """A name that cannot be one is an OSError, as every name that is not found."""
        lookup = NameLookup(self.reactor, in_thread=lambda work: work())
        self.failureResultOf(lookup.resolve("a" * 70 + ".example", 1), OSError)

    def test_thread(self) -> None:
        """A real lookup runs in a thread that no end of the process waits for."""
        seen: queue.Queue[Any] = queue.Queue()
        reactor = Reactor()
        reactor.callFromThread = lambda *call: seen.put(call)  # type: ignore[method-assign]  # crosses over

        def look(host: str, port: int, flags: int) -> list[str]:
            return [str(threading.current_thread().daemon)]

        found = NameLookup(reactor, look).resolve("name", 1)
        call, *arguments = seen.get(timeout=30)
        call(*arguments)
        self.assertEqual(["True"], self.successResultOf(found))
