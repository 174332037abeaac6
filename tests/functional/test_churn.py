"""`churn` in short: links and processes end at random, and nothing is lost, doubled or left."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.churn import Churn
from tests.functional.processes import LONG

#: The long form is the command `python -m tests.functional.churn`; this is to be a minute in all.
SECONDS = 1_200.0 if LONG else 25.0
SEED = 20


class ChurnTests(SynchronousTestCase):
    timeout = 1_800 if LONG else 420

    def test_churn(self) -> None:
        """Work goes on through cuts, freezes and kills of agents, gateway and clients: every byte
        once, every command once; then no process, session, descriptor or open row is left."""
        said: list[str] = []
        verdict = Churn(SEED, said.append, patient=LONG).run(SECONDS)
        told = "\n".join([*said, verdict.text()])
        self.assertEqual([], verdict.problems, told)
        self.assertGreater(verdict.results["ok"], 10, told)
        self.assertGreater(len(verdict.verbs), 3, told)
