"""Look-ups of keys share reads, in order, and fail together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.lookups import MAX_KEYS, MAX_WAITING, KeyLookups


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reads: list[tuple[list[bytes], Deferred[Any]]] = []
        self.lookups = KeyLookups(self._read)

    def _read(self, spkis: Sequence[bytes]) -> Deferred[Any]:
        self.reads.append((list(spkis), Deferred()))
        return self.reads[-1][1]

    def answer(self, number: int) -> None:
        """Answer a read: with the keys themselves."""
        keys, done = self.reads[number]
        done.callback(keys)

    def test_alone(self) -> None:
        """At rest a key is read at once."""
        found = self.lookups.find(b"one")
        self.assertEqual([keys for keys, _ in self.reads], [[b"one"]])
        self.answer(0)
        self.assertEqual(self.successResultOf(found), b"one")

    def test_together(self) -> None:
        """What is asked during a read shares the next, which begins later than it was asked."""
        found = [self.lookups.find(key) for key in (b"one", b"two", b"three")]
        self.assertEqual(len(self.reads), 1)
        self.answer(0)
        self.assertEqual(self.reads[1][0], [b"two", b"three"])
        self.answer(1)
        self.assertEqual([self.successResultOf(one) for one in found], [b"one", b"two", b"three"])
        self.assertEqual(len(self.reads), 2)

    def test_bounded(self) -> None:
        """A read has a bounded number of keys, and so has the queue."""
        found = [self.lookups.find(b"%d" % number) for number in range(MAX_KEYS + 2)]
        self.answer(0)
        self.assertEqual(len(self.reads[1][0]), MAX_KEYS)
        self.answer(1)
        self.answer(2)
        for one in found:
            self.successResultOf(one)
        waiting = [self.lookups.find(b"x") for _ in range(MAX_WAITING + 1)]
        self.failureResultOf(self.lookups.find(b"x"), StoreUnavailable)
        self.assertNoResult(waiting[-1])

    def test_failure(self) -> None:
        """Who shared a read that failed hears so by an error of their own; the next goes on."""
        found = [self.lookups.find(key) for key in (b"one", b"two", b"three")]
        self.answer(0)
        later = self.lookups.find(b"four")
        self.reads[1][1].errback(StoreError("the disk is gone"))
        errors = [self.failureResultOf(one, StoreError).value for one in found[1:]]
        self.assertIsNot(*errors)
        self.answer(2)
        self.assertEqual(self.successResultOf(later), b"four")

    def test_asks_again_from_its_answer(self) -> None:
        """Whoever asks again as soon as it is answered is answered by a read of its own."""
        again: list[Deferred[Any]] = []
        self.lookups.find(b"one").addCallback(lambda _: again.append(self.lookups.find(b"two")))
        self.answer(0)
        self.answer(1)
        self.assertEqual(self.successResultOf(again[0]), b"two")

    def test_many_refused_at_once(self) -> None:
        """A store that closes refuses as many as may wait, each with an error of its own."""
        first: Deferred[Any] = Deferred()
        reads = [first]
        lookups = KeyLookups(lambda _: reads.pop() if reads else fail(StoreUnavailable("closed")))
        found = [lookups.find(b"%d" % number) for number in range(MAX_WAITING)]
        first.errback(StoreUnavailable("closed"))
        errors = [self.failureResultOf(one, StoreUnavailable).value for one in found]
        self.assertEqual(MAX_WAITING, len(set(map(id, errors))))
