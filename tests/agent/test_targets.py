"""Unit tests of rshell_agent.targets: names that hang, fail, or are remembered."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.journal import Unheard
from rshell_agent.targets import Target, Targets
from tests.agent.test_dialler import Highest


def _note(names: list[str], name: str, deferred: object) -> None:
    names.append(name)


class TargetsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.gateways: tuple[str, ...] = ("a:1", "b:2")
        self.hosts: dict[str, Any] = {"a": ["192.0.2.1"], "b": ["192.0.2.2"]}
        self.targets = Targets(
            self.clock, lambda: self.gateways, self.resolve, Highest(), Unheard()
        )

    def resolve(self, host: str, port: int) -> Deferred[list[str]]:
        found = self.hosts[host]
        if isinstance(found, Deferred):
            return found
        return fail(found) if isinstance(found, Exception) else succeed(list(found))

    def find(self, **more: Any) -> Deferred[list[list[Target]]]:
        return Deferred.fromCoroutine(self.targets.find(**more))

    def found(self, **more: Any) -> list[list[str]]:
        groups = self.successResultOf(self.find(**more))
        return [[target.host for target in group] for group in groups]

    def test_one_name_hangs(self) -> None:
        """A name that is not found for a second holds up nobody who has another address."""
        cancelled: list[int] = []
        self.hosts["a"] = Deferred(lambda _: cancelled.append(1))
        finding = self.find()
        self.clock.advance(0.99)
        self.assertNoResult(finding)
        self.clock.advance(0.01)
        (group,) = self.successResultOf(finding)
        self.assertEqual(["b"], [target.host for target in group])
        self.assertEqual([1], cancelled)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_all_hang(self) -> None:
        """As long as nothing is found the search waits; given up, it gives up every lookup."""
        cancelled: list[str] = []
        for name in ("a", "b"):
            self.hosts[name] = Deferred(partial(_note, cancelled, name))
        finding = self.find()
        self.clock.advance(100)
        self.assertNoResult(finding)
        finding.cancel()
        self.failureResultOf(finding, CancelledError)
        self.assertEqual(["a", "b"], cancelled)

    def test_resolver_out_of_order(self) -> None:
        """A name that was found before keeps its addresses while the resolver fails."""
        self.assertEqual([["a", "b"]], self.found())
        self.hosts = {"a": OSError("down"), "b": OSError("down")}
        self.assertEqual([["a", "b"]], self.found())
        self.gateways = ("c:1",)
        self.hosts["c"] = OSError(-3, "Temporary failure in name resolution")
        error = self.failureResultOf(self.find(), OSError)
        self.assertEqual("c:1: Temporary failure in name resolution", error.getErrorMessage())

    def test_preferred_and_avoided(self) -> None:
        """What is preferred comes first, what is about to go away comes last."""
        self.assertEqual([["b", "a"]], self.found(preferred=["b:2"]))
        self.assertEqual([["b"], ["a"]], self.found(avoid=Target("a", "192.0.2.9", 1)))

    def test_strikes(self) -> None:
        """The fewest connections without WELCOME come first; a WELCOME forgives all."""
        a = Target("a", "192.0.2.1", 1)
        self.targets.failed(a)
        self.targets.lived(a, healthy=True)
        self.assertEqual([["b"], ["a"]], self.found())
        self.targets.welcomed(a)
        self.assertEqual([["a", "b"]], self.found())

    def test_bounded(self) -> None:
        """A name with a thousand addresses costs no thousand connections."""
        self.hosts["a"] = [f"192.0.2.{n}" for n in range(1, 255)]
        self.assertEqual(32, sum(map(len, self.found())))
