"""Churn: hours of bad luck on a simulated fleet, with every byte checked.

``python -m rshell.testing.churn --hours 24 --seed 1``

Operators keep transfers, commands and shells running while connections are cut and frozen,
processes killed, machines put to sleep and clocks set wrong.  Whatever happens, what an operator
has received must be a beginning of what was sent, nothing may run twice, and in the end nothing
may be left over.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from rshell.client.errors import RshellError
from rshell.testing.fleet import SimulatedFleet
from rshell.testing.operators import SimulatedOperator
from rshell.testing.work import ShellWork, TransferWork, Work

__all__ = ["Churn", "main"]

#: Seconds between two misfortunes, on average.
_EVERY_SECONDS = 45.0
#: Looked at this often, in simulated seconds.
_STEP_SECONDS = 2.0
#: What each operator has under way at once.
_WORKS = 3


@implementer(ILogObserver)
class Churn:
    """One life of a fleet.

    Args:
        seed: Decides everything.
        devices: How many.
        operators: How many.

    Attributes:
        fleet: The fleet.
        problems: What should not have happened, a line each.
        outcomes: How works ended, counted.
        luck: What happened to the fleet, counted.
    """

    def __init__(self, seed: int, devices: int = 3, operators: int = 2) -> None:
        self.fleet = SimulatedFleet(seed)
        self.problems: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.luck: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._works: dict[str, list[Work]] = {}
        self._connecting: dict[str, Deferred[Any]] = {}
        self._count = 0
        self._down: list[tuple[float, Callable[[], None]]] = []
        globalLogPublisher.addObserver(self)
        self.fleet.fragment()
        for number in range(devices):
            self.fleet.add_device(f"pump-{number + 1}")
        for number in range(operators):
            self._works[self.fleet.add_operator(f"ann-{number + 1}").name] = []
        self._descriptors = _descriptors()
        self._timers = len(self.fleet.clock.calls)

    def close(self) -> None:
        """End it."""
        globalLogPublisher.removeObserver(self)
        self.fleet.close()

    def __call__(self, event: Any) -> None:
        """Take a log event (`ILogObserver`): what is critical is a fault of the product."""
        if event.get("log_level") is LogLevel.critical:
            failure = event.get("log_failure")
            self._problem(f"logged: {event.get('log_format')} {failure and failure.value!r}")

    def _problem(self, text: str) -> None:
        if len(self.problems) < 100:
            self.problems.append(f"at {self.fleet.clock.seconds():.1f} s: {text}")

    # -- the run ---------------------------------------------------------------------------------

    def run(self, hours: float, told: Callable[[str], None] = lambda _: None) -> None:
        """Let so many hours pass, then calm down and look at what is left."""
        until = self.fleet.clock.seconds() + hours * 3600
        next_line = self.fleet.clock.seconds() + 3600
        next_luck = 0.0
        while self.fleet.clock.seconds() < until and not self.problems:
            now = self.fleet.clock.seconds()
            if now >= next_luck:
                next_luck = now + self._rng.expovariate(1 / _EVERY_SECONDS)
                self._happen()
            self._recover()
            self._work()
            self.fleet.advance(self._rng.uniform(0.0, 2 * _STEP_SECONDS))
            if now >= next_line:
                next_line += 3600
                told(f"{now / 3600:5.1f} h: {self.summary()}")
        self._calm()

    def summary(self) -> str:
        """Return one line about what happened so far."""
        return "  ".join(
            " ".join(f"{name}={count}" for name, count in sorted(counts.items()))
            for counts in (self.luck, self.outcomes)
        )

    # -- misfortunes -----------------------------------------------------------------------------

    def _happen(self) -> None:
        device = self._rng.choice([*self.fleet.devices])
        operator = self._rng.choice([*self._works])
        either = self._rng.choice([device, operator])
        happenings: list[tuple[int, Callable[[str], None], str]] = [
            (6, self._cut, either),
            (6, self._cut_later, either),
            (3, self._freeze, either),
            (2, self._crash_agent, device),
            (1, self._crash_gateway, "gateway"),
            (1, self._restart_gateway, "gateway"),
            (1, self._crash_operator, operator),
            (1, self._suspend, device),
            (2, self._step_clock, self._rng.choice([device, operator, "gateway"])),
        ]
        weights = [weight for weight, _, _ in happenings]
        _, happen, who = self._rng.choices(happenings, weights)[0]
        self.luck[happen.__name__.strip("_")] += 1
        happen(who)

    def _cut(self, who: str) -> None:
        self.fleet.cut(who)

    def _cut_later(self, who: str) -> None:
        if self.fleet.network.of(who):
            direction: Any = self._rng.choice(("up", "down"))
            self.fleet.cut(who, int(2 ** self._rng.uniform(0, 18)), direction)

    def _freeze(self, who: str) -> None:
        if who not in self.fleet.network.frozen:
            self.fleet.freeze(who)
            self._later(5, 90, lambda: self.fleet.thaw(who))

    def _crash_agent(self, who: str) -> None:
        device = self.fleet.devices[who]
        if device.alive and not device.asleep:
            self.fleet.crash(who)
            self._later(1, 15, lambda: self.fleet.start(who))

    def _crash_gateway(self, who: str) -> None:
        if self.fleet.gateway.alive:
            self.fleet.crash(who)
            self._later(1, 20, lambda: self.fleet.start(who))

    def _restart_gateway(self, who: str) -> None:
        if self.fleet.gateway.alive:
            self.fleet.stop_gateway()
            self._later(1, 10, lambda: self.fleet.start(who))

    def _crash_operator(self, who: str) -> None:
        operator = self.fleet.operators[who]
        if operator.alive:
            self.fleet.crash(who)
            for work in self._works[who]:
                self._check(work, given_up=True)
            self._works[who].clear()
            self._connecting.pop(who, None)
            self._later(1, 60, operator.start)

    def _suspend(self, who: str) -> None:
        if not self.fleet.devices[who].asleep:
            self.fleet.suspend(who, self._rng.uniform(5, 120))

    def _step_clock(self, who: str) -> None:
        self.fleet.step_wall_clock(who, self._rng.choice((-3600.0, 3600.0, -7.0, 86_400.0)))

    def _later(self, low: float, high: float, call: Callable[[], None]) -> None:
        self._down.append((self.fleet.clock.seconds() + self._rng.uniform(low, high), call))

    def _recover(self, *, everything: bool = False) -> None:
        now = self.fleet.clock.seconds()
        due = [entry for entry in self._down if everything or entry[0] <= now]
        self._down = [entry for entry in self._down if entry not in due]
        for _, call in due:
            call()

    # -- work ------------------------------------------------------------------------------------

    def _work(self, *, new: bool = True) -> None:
        for name, works in self._works.items():
            operator = self.fleet.operators[name]
            for work in list(works):
                work.step()
                if work.over:
                    works.remove(work)
                    self._check(work)
            if new and operator.alive and self._connected(operator) and len(works) < _WORKS:
                works.append(self._new_work(operator))

    def _connected(self, operator: SimulatedOperator) -> bool:
        """Return whether the client can be used; one that was never connected is helped along."""
        if operator.uplink.latest is not None:
            return True
        if operator.name not in self._connecting:
            connecting: Deferred[Any] = Deferred.fromCoroutine(operator.uplink.connect())
            self._connecting[operator.name] = connecting

            def again(failure: Any) -> None:
                failure.trap(RshellError)
                self._connecting.pop(operator.name, None)

            connecting.addCallbacks(lambda _: self._tidy(operator), again)
        return False

    def _tidy(self, operator: SimulatedOperator) -> None:
        """End what an earlier client of this operator has left running."""
        tidied = Deferred.fromCoroutine(self._end_detached(operator))
        tidied.addErrback(lambda failure: failure.trap(RshellError))

    async def _end_detached(self, operator: SimulatedOperator) -> None:
        mine = {work.session_id for work in self._works[operator.name]}
        for info in await operator.client.sessions():
            if info.state == "detached" and info.session not in mine:
                try:
                    await operator.client.end_session(info.session)
                    self.outcomes["ended from elsewhere"] += 1
                except RshellError:
                    pass  # its device is away; the keeper's time limits end it one day

    def _new_work(self, operator: SimulatedOperator) -> Work:
        self._count += 1
        device = self.fleet.devices[self._rng.choice([*self.fleet.devices])]
        kind = self._rng.choice((TransferWork, TransferWork, ShellWork))
        return kind(operator, device, self._count, random.Random(self._rng.random()))

    def _check(self, work: Work, *, given_up: bool = False) -> None:
        self.outcomes["given up" if given_up else work.told] += 1
        problem = work.problem(given_up=given_up)
        if problem is not None:
            self._problem(f"{work}: {problem}")

    # -- the end ---------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Let everything come back and finish, then see whether anything is left."""
        self._recover(everything=True)
        for _ in range(600):
            self._work(new=False)
            self.fleet.advance(_STEP_SECONDS)
            if not any(self._works.values()):
                break
        for name, works in self._works.items():
            for work in works:
                self._problem(f"{work} of {name} did not end")
        for name in self._works:
            operator = self.fleet.operators[name]
            if operator.uplink.link is None:
                self.fleet.run(operator.uplink.connect())
            self.fleet.run(self._end_detached(operator))
        # Outcomes nobody collects are told to the audit and forgotten.
        self.fleet.advance(2 * 3600)
        for name in self._works:
            operator = self.fleet.operators[name]
            if operator.uplink.link is None:
                self.fleet.run(operator.uplink.connect())
        self._look_around()

    def _look_around(self) -> None:
        for place, count in self.fleet.leftovers().items():
            self._problem(f"left over: {place}: {count}")
        for device in self.fleet.devices.values():
            twice = [argv for argv, count in Counter(map(tuple, device.runs)).items() if count > 1]
            if any(argv for argv in twice):
                self._problem(f"{device.name} ran twice: {twice[:3]}")
        timers = len(self.fleet.clock.calls)
        if timers > self._timers + 10 * len(self.fleet.devices):
            self._problem(f"{timers} timers, {self._timers} in the beginning")
        descriptors = _descriptors()
        if descriptors > self._descriptors + 10:
            self._problem(f"{descriptors} descriptors, {self._descriptors} in the beginning")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rshell.testing.churn",
        description="Keep a simulated fleet busy through hours of bad luck, and check every byte.",
        epilog="example: python -m rshell.testing.churn --hours 24 --seed 1",
    )
    parser.add_argument("--hours", type=float, default=24.0, help="simulated (default: 24)")
    parser.add_argument("--seed", type=int, default=1, help="decides everything (default: 1)")
    parser.add_argument("--devices", type=int, default=3, help="how many (default: 3)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    churn = Churn(options.seed, options.devices)
    write = sys.stdout.write

    def told(line: str) -> None:
        write(line + "\n")
        sys.stdout.flush()

    try:
        churn.run(options.hours, told)
    finally:
        churn.close()
    write(f"{options.hours:g} h in {time.monotonic() - began:.0f} s: {churn.summary()}\n")
    for problem in churn.problems:
        write(f"PROBLEM {problem}\n")
    write(f"{len(churn.problems)} problems with seed {options.seed}\n")
    return 1 if churn.problems else 0


if __name__ == "__main__":
    sys.exit(main())
