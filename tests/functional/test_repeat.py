"""Many short runs in a row leave nothing behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.functional.fleet import FleetCase
from tests.functional.processes import LONG, children, descendants, fds, rss_kb, state, until

RUNS = 1000 if LONG else 100


class RepeatTests(FleetCase):
    def census(self) -> dict[str, tuple[int, int, int]]:
        """Return descriptors, descendants and zombies of everything that stays up."""
        agent = self.fleet.agents["pump-1"]
        counted = {}
        for name, pid in {
            "gateway": self.fleet.gateway_pid,
            "agent": agent.pid,
            "keeper": agent.keeper_pid(),
        }.items():
            zombies = sum(state(child) == "Z" for child in children(pid))
            counted[name] = (fds(pid), len(descendants(pid)), zombies)
        return counted

    def test_short_runs(self) -> None:
        """100 runs (1,000 with RSHELL_LONG) leave no descriptor, process or zombie behind."""
        for _ in range(3):
            self.assert_status(0, self.run_on("pump-1", "true"))
        before = self.census()
        memory = rss_kb(self.fleet.gateway_pid)

        def one(number: int) -> str:
            done = self.run_on("pump-1", f"exit {number % 3}")
            return "" if done.status == number % 3 else f"{number}: {done}"

        with ThreadPoolExecutor(2) as pool:
            failed = [text for text in pool.map(one, range(RUNS)) if text]
        told = f"{self.fleet.log_tail()} {self.fleet.agents['pump-1'].log_text()[-1500:]}"
        self.assertEqual([], failed[:2], told)
        until(lambda: self._at_most(before), lambda: f"{before} grew to {self.census()}", 10)
        grown = rss_kb(self.fleet.gateway_pid) - memory
        print(f"\n{RUNS} runs: {self.census()}, gateway grew {grown} KB")  # noqa: T201  # a figure
        self.assertLess(grown, 20_000 if LONG else 10_000)

    def _at_most(self, before: dict[str, tuple[int, int, int]]) -> bool:
        now = self.census()
        return all(
            now[name][0] <= was[0] and now[name][1:] <= was[1:] for name, was in before.items()
        )
