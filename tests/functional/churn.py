"""Real churn: ``python -m tests.functional.churn --minutes 20 --seed N``.

A gateway, three devices and an operator, each behind a relay; every few seconds something is cut,
frozen, killed or restarted, or a clock is set wrong (where libfaketime is installed), while
commands, transfers and shells run that check every byte.  At the end nothing may be left: no
session, process, descriptor, memory or open row of the audit.

A seed fixes what is done in which order; when it meets which byte is up to the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.functional.churn_work import Command, Piece, Shell, Transfer
from tests.functional.clocks import BACK, FORWARD, NINETEEN_SEVENTY, RIGHT, SteppedClock, faketime
from tests.functional.clocks import sweep as sweep_clocks
from tests.functional.processes import descendants, fds, rss_kb, state, until
from tests.functional.relay import Relay
from tests.functional.relayed import RelayedFleet

__all__ = ["Churn", "Verdict", "main"]

DEVICES = ("one", "two", "three")
#: Links that break again within a minute let the agent's back-off grow (rule C6), and after a few
#: it would be away for longer than an operator's end waits.  Then it is restarted, by SIGKILL.
STRAIN = 4
#: All directions of a relay together, so that transfers take long enough to be hit.
BYTES_A_SECOND = 1.5e6
FREEZE_SECONDS = (1.0, 15.0)
#: What a process may have more of at the end than at the beginning.
MORE_FILES, MORE_KB = 8, 24 * 1024
#: A device tells the outcome of a session that nobody came back for a minute after its end, and
#: looks for such once a minute.
REPORTED_SECONDS = 150.0
#: Fewer clients than the machine has time for: each is a Python process that starts.
AT_ONCE = 5

#: The rows of the audit that tell how an attempt or a session ended.
_ENDS = (
    "SELECT o.session, o.device_name, o.handler, e.status, e.exit_code FROM audit AS o"
    " JOIN audit AS e ON e.refers = o.seq WHERE o.opens = 1 AND o.session IS NOT NULL"
    " UNION ALL SELECT session, device_name, handler, status, exit_code FROM audit"
    " WHERE kind = 'session.outcome'"
)


@attrs.define
class Verdict:
    """What came of it.

    Attributes:
        verbs: What was done, how often.
        results: Of the work, how often.
        problems: What must not be; empty is good.
    """

    verbs: Counter[str] = attrs.Factory(Counter)
    results: Counter[str] = attrs.Factory(Counter)
    problems: list[str] = attrs.Factory(list)

    def text(self) -> str:
        """Return it for people."""
        lines = [
            "done: " + ", ".join(f"{name} {count}" for name, count in sorted(self.verbs.items())),
            "work: " + ", ".join(f"{name} {count}" for name, count in sorted(self.results.items())),
            *(f"PROBLEM {problem}" for problem in self.problems),
            "FAIL" if self.problems else "PASS",
        ]
        return "\n".join(lines)


class Yard(RelayedFleet):
    """The fleet: three devices and an operator behind relays.

    Attributes:
        relays: Of the devices, by name.
        clocks: Of the agents, by name, and of the ``gateway``; none without libfaketime.
    """

    relays: dict[str, Relay]
    clocks: dict[str, SteppedClock]

    def start_all(self) -> Yard:
        names = ("gateway", *DEVICES) if faketime() else ()
        self.clocks = {name: SteppedClock(self.base) for name in names}
        if self.clocks:
            self.gateway_prefix = self.clocks["gateway"].prefix
        self.start_gateway()
        self.relays = {name: Relay(self.address) for name in DEVICES}
        self.operator_side = Relay(self.address)
        self.profile("admin", self.home / "admin")
        for name, relay in self.relays.items():
            agent = self.join(name)
            self.through(agent, relay)
            if self.clocks:
                agent.prefix = self.clocks[name].prefix
            agent.start()
        self.wait_live(*DEVICES)
        return self

    def close(self) -> None:
        for relay in getattr(self, "relays", {}).values():
            relay.close()
        super().close()
        sweep_clocks()

    def processes(self) -> dict[str, int]:
        """Return the pids of all that shall live on, by name."""
        found = {"gateway": self.gateway_pid}
        for name, agent in self.agents.items():
            found[f"agent {name}"] = agent.pid
            found[f"keeper {name}"] = agent.keeper_pid()
        return found

    def figures(self) -> dict[str, tuple[int, int]]:
        """Return descriptors and resident KiB of each."""
        return {name: (fds(pid), rss_kb(pid)) for name, pid in self.processes().items() if pid}


class Churn:
    """One run.

    Args:
        seed: Of what is done.
        say: Told what happens.
        patient: Wait until devices tell by themselves how sessions ended that nobody came back
            for (two minutes); else their ends are fetched.
    """

    def __init__(
        self, seed: int, say: Callable[[str], None] = lambda _line: None, *, patient: bool = True
    ) -> None:
        self.verdict = Verdict()
        self.yard = Yard()
        self._random = random.Random(seed)
        self._say_line = say
        self._patient = patient
        self._began = time.monotonic()
        self._running: list[Piece] = []
        self._count = 0
        self._strain = dict.fromkeys(DEVICES, 0)
        self._thaws: list[tuple[float, Relay, str]] = []
        self._verbs: list[tuple[int, Callable[[], None]]] = [
            (5, self._cut_operator),
            (5, self._cut_device),
            (2, self._cut_all),
            (3, self._freeze_operator),
            (3, self._freeze_device),
            (3, self._kill_client),
            (2, self._kill_agent),
            (1, self._kill_gateway),
            (1, self._stop_gateway),
        ]
        if faketime():
            self._verbs.append((4, self._step))
        else:
            self._say("libfaketime is not installed: no clock is set")

    def run(self, seconds: float) -> Verdict:
        """Do it for so long; return the verdict."""
        yard = self.yard
        try:
            yard.start_all()
            self._warm_up()
            before = yard.figures()
            self._say(f"before: {before}")
            self._churn(seconds)
            self._calm_down()
            self._look(before)
        except AssertionError as error:
            self.verdict.problems.append(f"{error}")
        finally:
            for piece in self._running:
                piece.kill()
            yard.close()
        return self.verdict

    def _say(self, line: str) -> None:
        self._say_line(f"{time.monotonic() - self._began:7.1f} s  {line}")

    # -- the work ------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Let every part do once what it will do: what is loaded late is no leak."""
        for device in DEVICES:
            for kind in (Transfer, Command, Shell):
                self._begin(kind, device)
        for piece in self._running:
            piece.join(120)
        self._collect()
        self.yard.operator_side.rate = BYTES_A_SECOND

    def _begin(self, kind: type[Piece], device: str) -> None:
        self._count += 1
        name = f"{kind.__name__.lower()}-{self._count}"
        piece = kind(self.yard, name, device, self._random.randrange(1 << 30))
        self._running.append(piece)
        piece.start()

    def _collect(self) -> None:
        """Take in what has ended."""
        for piece in [piece for piece in self._running if piece.result]:
            self._running.remove(piece)
            self.verdict.results[piece.result] += 1
            if piece.result != "ok":
                self._say(str(piece))
            if piece.result in ("wrong", "lost"):
                self.verdict.problems.append(str(piece))

    def _replenish(self) -> None:
        while len(self._running) < AT_ONCE:
            device = self._random.choice(DEVICES)
            kind = self._random.choice((Transfer, Command, Shell))
            busy = any(
                isinstance(piece, Shell) and piece.device == device for piece in self._running
            )
            # One shell a device: its session is found again by that.
            self._begin(Command if kind is Shell and busy else kind, device)

    # -- what is done to it --------------------------------------------------------------------

    def _churn(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        due = 0.0
        weights = [weight for weight, _ in self._verbs]
        while time.monotonic() < end:
            self._collect()
            self._replenish()
            self._thaw_due()
            if time.monotonic() >= due:
                verb = self._random.choices(self._verbs, weights)[0][1]
                verb()
                self._relieve()
                due = time.monotonic() + self._random.uniform(1.0, 5.0)
            time.sleep(0.1)

    def _did(self, what: str, detail: str = "") -> None:
        self.verdict.verbs[what] += 1
        self._say(f"{what} {detail}".rstrip())

    def _some_device(self) -> str:
        device = self._random.choice(DEVICES)
        self._strain[device] += 1
        return device

    def _cut_operator(self) -> None:
        self._did("cut operators", str(self.yard.operator_side.cut()))

    def _cut_device(self) -> None:
        device = self._some_device()
        self._did("cut device", f"{device} {self.yard.relays[device].cut()}")

    def _cut_all(self) -> None:
        for device in DEVICES:
            self._strain[device] += 1
            self.yard.relays[device].cut()
        self.yard.operator_side.cut()
        self._did("cut all")

    def _freeze(self, relay: Relay, whose: str) -> None:
        seconds = self._random.uniform(*FREEZE_SECONDS)
        relay.freeze()
        self._thaws.append((time.monotonic() + seconds, relay, whose))
        self._did("freeze", f"{whose} for {seconds:.0f} s")

    def _freeze_operator(self) -> None:
        self._freeze(self.yard.operator_side, "operators")

    def _freeze_device(self) -> None:
        device = self._some_device()
        self._freeze(self.yard.relays[device], device)

    def _thaw_due(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._thaws if entry[0] <= now]:
            self._thaws.remove(entry)
            entry[1].thaw()
            self._say(f"thaw {entry[2]}")

    def _kill_client(self) -> None:
        piece = self._random.choice(self._running)
        if piece.kill():
            self._did("kill client", piece.name)

    def _kill_agent(self) -> None:
        self._restart_agent(self._random.choice(DEVICES))

    def _restart_agent(self, device: str) -> None:
        agent = self.yard.agents[device]
        agent.kill()
        agent.start()
        self._strain[device] = 0
        self._did("kill agent", device)

    def _kill_gateway(self) -> None:
        self._restart_gateway(signal.SIGKILL)

    def _stop_gateway(self) -> None:
        self._restart_gateway(signal.SIGTERM)

    def _restart_gateway(self, number: signal.Signals) -> None:
        self._did(f"gateway {number.name}")
        self.yard.kill_gateway(number)
        self.yard.restart_gateway()
        for device in DEVICES:
            self._strain[device] += 1
        self._say("the gateway is back")

    def _step(self) -> None:
        whose = self._random.choice(sorted(self.yard.clocks))
        offsets = [BACK, FORWARD, RIGHT, NINETEEN_SEVENTY]
        clock = self.yard.clocks[whose]
        to = self._random.choice([offset for offset in offsets if offset != clock.shows])
        clock.set(to)
        self._did("step clock", f"{whose} {to}")

    def _relieve(self) -> None:
        for device in DEVICES:
            if self._strain[device] >= STRAIN:
                self._restart_agent(device)

    # -- the end -------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """Break nothing any more; wait until all work is done, and end what nobody will end."""
        yard = self.yard
        for relay in (*yard.relays.values(), yard.operator_side):
            relay.restore()
        for clock in yard.clocks.values():
            clock.set(RIGHT)
        self._say("calm")
        for device in DEVICES:
            if self._strain[device]:
                self._restart_agent(device)
        yard.wait_live(*DEVICES, seconds=90)
        for piece in list(self._running):
            piece.join(200)
        stuck = [str(piece) for piece in self._running if not piece.result]
        self.verdict.problems += [f"never ended: {piece}" for piece in stuck]
        self._collect()
        for row in yard.sessions("--all"):
            if row["state"] != "finished":
                yard.rshell("sessions", "--all", "--end", row["session"])
        for row in yard.sessions("--all"):
            if not self._patient:
                yard.rshell("attach", row["session"])

    def _look(self, before: dict[str, tuple[int, int]]) -> None:
        """See whether anything is left."""
        checks: list[tuple[str, Callable[[], object]]] = [
            ("sessions have no outcome in the audit", self._untold),
            ("the audit contradicts itself", self._contradictions),
            ("sessions are left", lambda: self.yard.sessions("--all")),
            ("processes are left in keepers", self._left_processes),
            ("zombies are left", self._zombies),
            ("rows of the audit have no end", self._unended),
            ("descriptors or memory grew", lambda: self._grown(before)),
        ]
        for what, look in checks:
            try:
                until(lambda look=look: not look(), "", REPORTED_SECONDS, 1.0)  # type: ignore[misc]  # B023
            except AssertionError:
                self.verdict.problems.append(f"{what}: {look()}")
        logs = {"gateway": self.yard.log_text()}
        logs |= {name: agent.log_text() for name, agent in self.yard.agents.items()}
        for name, text in logs.items():
            place = text.find("Traceback")
            if place >= 0:
                self.verdict.problems.append(f"log of {name}: {text[place - 300 : place + 1500]}")
        self._say(f"after: {self.yard.figures()}")

    def _keepers(self) -> dict[str, int]:
        return {name: agent.keeper_pid() for name, agent in self.yard.agents.items()}

    def _left_processes(self) -> list[str]:
        return [
            f"{name}: {_command(pid)}"
            for name, keeper in self._keepers().items()
            for pid in descendants(keeper)
        ]

    def _zombies(self) -> list[int]:
        roots = self.yard.processes().values()
        return [pid for root in roots for pid in descendants(root) if state(pid) == "Z"]

    def _rows(self, query: str) -> list[Any]:
        database = sqlite3.connect(f"file:{self.yard.home / 'rshell.sqlite'}?mode=ro", uri=True)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def _unended(self) -> list[Any]:
        return self._rows(
            "SELECT seq, device_name, handler, attempt FROM audit AS o WHERE opens = 1"
            " AND NOT EXISTS (SELECT 1 FROM audit AS e WHERE e.refers = o.seq)"
        )

    def _untold(self) -> list[Any]:
        """Return the sessions of which the audit knows attempts and no outcome."""
        return self._rows(
            f"SELECT session, device_name, handler, group_concat(status) FROM ({_ENDS})"
            " GROUP BY session HAVING sum(status NOT IN ('detached', 'interrupted', 'viewed')) = 0"
        )

    def _contradictions(self) -> list[Any]:
        """Return the sessions of which the audit tells different outcomes.

        The same one may be there twice: from the device's report, and from an attempt after it.
        """
        not_ends = "'detached', 'interrupted', 'viewed', 'offline', 'refused'"
        return self._rows(
            f"SELECT * FROM ({_ENDS}) WHERE status NOT IN ({not_ends}) GROUP BY session"
            " HAVING count(DISTINCT status || ' ' || coalesce(exit_code, '')) > 1"
        )

    def _grown(self, before: dict[str, tuple[int, int]]) -> dict[str, Any]:
        return {
            name: {"before": before.get(name), "after": after}
            for name, after in self.yard.figures().items()
            if name in before
            and (after[0] > before[name][0] + MORE_FILES or after[1] > before[name][1] + MORE_KB)
        }


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return str(pid)


def main(arguments: list[str]) -> int:
    """Run; return 1 if there is a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.churn")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    say(json.dumps({"minutes": options.minutes, "seed": options.seed}))
    verdict = Churn(options.seed, say).run(options.minutes * 60)
    say(verdict.text())
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
