"""A process that is many devices: ``python -m benchmarks.fleet DIR HOST:PORT FIRST STEP``.

Its devices are number FIRST and every STEP-th after it, so that a fleet of STEP processes grows in
the order of the numbers.

It reads commands from its standard input, one a line, and answers each with a line of JSON:
``grow N S`` lets the first N of its devices dial, the new ones spread over S seconds;
``count [T]`` how many are live, by links welcomed since T;
``times`` the processor seconds used;
``age S`` lets its diallers believe that S more seconds have passed;
``story`` when each was welcomed last, and of all since the last ``story`` how often they dialled
and how many links they lost.
It ends with its input.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from benchmarks.fleet_device import FleetRoom, SimulatedDevice
from benchmarks.fleet_keys import ROOT_FILE, read_keys
from rshell.link.clock import use_monotonic_clock
from rshell_agent import __version__
from rshell_agent.facts import FactsCollector

__all__ = ["main"]


class Fleet:
    """The devices of this process.

    Args:
        reactor: with a monotonic clock.
        directory: what `benchmarks.fleet_keys.enrol` wrote.
        gateway: "host:port".
        first: the number of the first device.
        step: from one number to the next.
    """

    def __init__(self, reactor: Any, directory: Path, gateway: str, first: int, step: int) -> None:
        root = crypto.load_certificate(crypto.FILETYPE_PEM, (directory / ROOT_FILE).read_bytes())
        facts = FactsCollector(__version__, lambda: frozenset({"noop", "echo"})).collect()
        self._reactor = reactor
        self._room = FleetRoom(reactor, root, gateway, facts)
        self.devices = [
            SimulatedDevice(self._room, number, key)
            for number, key in read_keys(directory, first, step)
        ]
        self._started = 0

    def grow(self, count: int, spread_seconds: float) -> None:
        """Let the first ``count`` devices dial."""
        for device in self.devices[self._started : count]:
            delay = self._room.chance.uniform(0.0, spread_seconds)
            self._reactor.callLater(delay, device.dialler.start)
        self._started = max(self._started, min(count, len(self.devices)))

    def age(self, seconds: float) -> None:
        """Let every link look so much older to its dialler."""
        self._room.ageing.age(seconds)

    def live(self, since: float) -> int:
        """Return how many are live and were welcomed at or after ``since``, monotonic seconds."""
        return sum(
            device.current is not None and (device.story.welcomed or 0.0) >= since
            for device in self.devices
        )

    def last_error(self) -> str:
        """Return why one of those that are not live is not."""
        away = (device for device in self.devices[: self._started] if device.current is None)
        return next((device.dialler.last_error for device in away), "")

    def story(self) -> dict[str, Any]:
        """Return what happened since the last call."""
        stories = [device.story for device in self.devices[: self._started]]
        told = {
            "welcomed": [story.welcomed for story in stories],
            "dials": sum(story.dials for story in stories),
            "losses": sum(story.losses for story in stories),
        }
        for story in stories:
            story.dials = story.losses = 0
        return told


class _Commands(LineReceiver):
    """Answers the process that started us."""

    delimiter = b"\n"

    def __init__(self, fleet: Fleet, reactor: Any) -> None:
        self._fleet = fleet
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        word, *arguments = line.split()
        answer: dict[str, Any] = {}
        if word == b"grow":
            self._fleet.grow(int(arguments[0]), float(arguments[1]))
        elif word == b"count":
            since = float(arguments[0]) if arguments else 0.0
            answer = {"live": self._fleet.live(since), "error": self._fleet.last_error()}
        elif word == b"age":
            self._fleet.age(float(arguments[0]))
        elif word == b"times":
            answer["cpu_seconds"] = time.process_time()
        elif word == b"story":
            answer = self._fleet.story()
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]  # Twisted's

    def connectionLost(self, reason: object = None) -> None:
        # At once: thousands of polite goodbyes are of no use to whoever measures.
        self._reactor.callLater(0, os._exit, 0)


def main(arguments: list[str]) -> int:
    """Be the fleet until the standard input ends."""
    from twisted.internet import reactor

    directory, gateway, first, step = arguments
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    use_monotonic_clock(reactor)
    log = (Path(directory) / f"fleet-{first}.log").open("w")
    errors = textFileLogObserver(log)

    def only_failures(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            errors(event)
            log.flush()

    observer: Any = only_failures
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    fleet = Fleet(reactor, Path(directory), gateway, int(first), int(step))
    # The devices stay for good: a collection that walks them all is a pause of theirs alone.
    gc.freeze()
    StandardIO(_Commands(fleet, reactor))
    loop: Any = reactor
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
