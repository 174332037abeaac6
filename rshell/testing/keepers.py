"""A device's keeper in this process: the real sessions and server, simulated programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from rshell.testing.clocks import ProcessClock
from rshell.testing.loops import KeeperListener, KeeperSocket, SimulatedLoop
from rshell.testing.programs import Program, SimulatedProcess, command_line, program_for
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.policy import PolicyFile
from rshell_agent.keeper.server import Server
from rshell_agent.keeper.session import FINISHED, STARTING
from rshell_agent.keeper.sessions import Sessions
from rshell_agent.keeper.wire import Map, Refused

__all__ = ["SimulatedKeeper"]


class _Server(Server):
    """Tells the same at each run: what memory it takes depends on everything else in here."""

    def answer(self, call: Map) -> list[Map]:
        return [
            {**part, "rss_kb": 8192} if "rss_kb" in part else part for part in super().answer(call)
        ]


class SimulatedKeeper:
    """One keeper process.

    Args:
        clock: The fleet's.
        home: The agent's home, for the policy.
        programs: What can be run, by name.
        runs: Gets one entry for each program that starts: its command line.

    Attributes:
        process: Its time.
        sessions: The keeper's register.
        log: Its lines.
    """

    def __init__(
        self,
        clock: Clock,
        home: Path,
        programs: Mapping[str, Callable[[], Program]],
        runs: list[list[bytes]],
    ) -> None:
        self.process = ProcessClock(clock)
        self.log: list[str] = []
        self._programs = programs
        self._runs = runs
        self._processes: list[SimulatedProcess] = []
        self._times = Times()
        self._loop = SimulatedLoop(self.process, self.log.append)
        self.sessions = Sessions(self._loop, self._times, PolicyFile(str(home), None), self._spawn)
        self._listener = KeeperListener(self._loop)
        log: Any = self.log.append
        self._server = _Server(self.sessions, self._listener.as_socket(), log)
        self._needed = self._loop.now()
        self._tick()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._loop.running and not self.process.dead

    @property
    def faults(self) -> list[str]:
        """Lines about faults of the keeper's own; there should be none."""
        return [line for line in self.log if line.startswith("fault")]

    @property
    def running(self) -> list[SimulatedProcess]:
        """What runs now."""
        return list(self._processes)

    def offer(self) -> KeeperSocket:
        """Return its end of a new connection."""
        return self._listener.offer()

    def turn(self) -> bool:
        """Let programs and keeper do what can be done now; return whether anything was."""
        if not self.alive or self.process.asleep:
            return False
        moved = False
        for running in list(self._processes):
            moved = running.step() or moved
        return self._loop.turn() or moved

    def kill(self) -> None:
        """SIGKILL: its pipes and connections close, nothing is told to anybody."""
        self.process.die()
        for session in list(self.sessions._sessions.values()):
            if session.state != FINISHED:
                running: Any = session.process
                running.abandon(starting=session.state == STARTING)
        self._processes.clear()

    def _spawn(self, command: Any, account: Any, extra: Any) -> Any:
        program = program_for(command, self._programs)
        words = command_line(command)
        if program is None:
            raise Refused("not-found", f"command not found: {ascii(words[0])[2:-1]}")
        self._runs.append(words)

        def ended() -> None:
            self._processes.remove(running)
            self.process.callLater(0, self.sessions.children_changed)

        running = SimulatedProcess(
            program, words, command.size, len(self._runs) + 1000, self._loop.now, ended
        )
        self._processes.append(running)
        return running

    def _tick(self) -> None:
        """Do what the keeper's main module does every few seconds."""
        now = self._loop.now()
        self.sessions.expire()
        if self.sessions.needed or self._server.controlled:
            self._needed = now
        elif now - self._needed >= self._times.idle:
            self.process.die()
            self._loop.stop()
            return
        self._loop.after(self._times.tick, self._tick)
