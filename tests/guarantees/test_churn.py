"""Hours of bad luck: no byte wrong, nothing runs twice, nothing left over."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rshell.testing.churn import Churn
from tests.guarantees.case import LONG


class ChurnTests(SynchronousTestCase):
    def live(self, seed: int, hours: float) -> Churn:
        """Let a fleet live for so long."""
        churn = Churn(seed)
        self.addCleanup(churn.close)
        churn.run(hours)
        self.assertEqual(churn.problems, [], f"seed {seed}: {churn.summary()}")
        return churn

    def test_hours(self) -> None:
        """Shells and transfers under random cuts, freezes, kills and clock steps stay right."""
        churn = self.live(seed=1, hours=24 if LONG else 0.7)
        done = churn.outcomes["ok"] + churn.outcomes["exit"]
        # A churn in which hardly anything succeeds would show nothing.
        self.assertGreater(done, 2 * (churn.outcomes.total() - done))
        self.assertGreater(len(churn.luck), 5)

    def test_another(self) -> None:
        """Another seed is another life, and the same seed the same."""
        first, second = self.live(9, 0.1), self.live(9, 0.1)
        self.assertEqual(first.fleet.history, second.fleet.history)
        self.assertEqual(first.outcomes, second.outcomes)
