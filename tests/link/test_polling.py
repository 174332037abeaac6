"""The leaner round of an epoll reactor: everyone is served, and nothing that goes wrong ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.link.polling import FEW, poll_lightly


@implementer(IReadDescriptor)
class Pair:
    """A socket with bytes to read.

    Attributes:
        reads: How often it was told to read.
        lost: Why it was ended.
    """

    def __init__(self, size: int = 1) -> None:
        self.near, self.far = socket.socketpair()
        self.far.send(bytes(size))
        self.reads = 0
        self.lost: list[Failure] = []
        self.on_read: Callable[[], Any] = lambda: self.near.recv(1) and None

    def fileno(self) -> int:
        return self.near.fileno()

    def doRead(self) -> Any:
        self.reads += 1
        return self.on_read()

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)

    def logPrefix(self) -> str:
        return "pair"

    def close(self) -> None:
        self.near.close()
        self.far.close()


class PollingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = EPollReactor()
        self.addCleanup(self.reactor._poller.close)
        for reader in self.reactor._internalReaders:  # of this second reactor, which never runs
            self.addCleanup(reader.connectionLost, None)
        self.assertTrue(poll_lightly(self.reactor))

    def pairs(self, count: int, size: int = 1) -> list[Pair]:
        made = [Pair(size) for _ in range(count)]
        for pair in made:
            self.addCleanup(pair.close)
            self.reactor.addReader(pair)
        return made

    def test_in_effect(self) -> None:
        """It is in effect with the Twisted that is installed: else this module must follow it."""
        self.assertEqual(self.reactor.doIteration.__module__, poll_lightly.__module__)

    def test_each_is_served(self) -> None:
        """In one round all that is ready is read, however much that is; then nothing."""
        for count in (1, FEW - 1, FEW, 3 * FEW):
            made = self.pairs(count)
            self.reactor.doIteration(0)
            self.assertEqual({pair.reads >= 1 for pair in made}, {True}, count)
            before = sum(pair.reads for pair in made)
            self.reactor.doIteration(0)
            self.assertEqual(sum(pair.reads for pair in made), before)

    def test_no_timeout(self) -> None:
        """Without a timeout it waits until something comes."""
        (pair,) = self.pairs(1)
        self.reactor.doIteration(None)
        self.assertEqual(pair.reads, 1)

    def test_faults(self) -> None:
        """One that fails is ended and logged; the others are served."""
        bad, ended, good = self.pairs(3)

        def fail() -> None:
            raise ZeroDivisionError

        bad.on_read = fail
        ended.on_read = lambda: ConnectionError("over")
        self.reactor.doIteration(0)
        self.assertEqual((good.reads, len(bad.lost), len(ended.lost)), (1, 1, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.reactor.getReaders().count(bad), 0)

    def test_fault_at_the_end(self) -> None:
        """One that fails while it is told of its end keeps nobody from being served."""
        made = self.pairs(4)
        for bad in made[:2]:
            bad.on_read = lambda: ConnectionError("over")
            bad.connectionLost = lambda reason: 1 // 0  # type: ignore[assignment,return-value]  # on purpose
        self.reactor.doIteration(0)
        self.assertEqual([pair.reads for pair in made], [1] * 4)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(set(self.reactor.getReaders()) & set(made[:2]), set())

    def test_removed_meanwhile(self) -> None:
        """One that is removed by what another one did in the same round is left alone."""
        first, second = self.pairs(2)

        def remove(other: Pair) -> None:
            self.reactor.removeReader(other)

        first.on_read, second.on_read = lambda: remove(second), lambda: remove(first)
        self.reactor.doIteration(0)
        self.assertEqual(first.reads + second.reads, 1)

    def test_other_reactors(self) -> None:
        """A reactor that is made otherwise is left as it is."""

        class Changed(EPollReactor):
            """Somebody's own."""

        for other in (Clock(), object()):
            self.assertFalse(poll_lightly(other))
        changed = Changed.__new__(Changed)
        self.assertFalse(poll_lightly(changed))
        self.assertFalse(poll_lightly(EPollReactor.__new__(EPollReactor)))
