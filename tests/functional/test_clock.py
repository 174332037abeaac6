"""Clocks that are set while everything runs, by `date -s` in effect: no link, no byte, no
certificate is lost.  The same with a simulated fleet is in `tests.guarantees.test_liveness`."""

from __future__ import annotations

import atexit
import functools
import json
import time
from datetime import datetime
from typing import Any

from tests.functional.clocks import (
    BACK,
    FORWARD,
    NINETEEN_SEVENTY,
    RIGHT,
    SteppedClock,
    require,
    sweep,
)
from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import Program, lasting, until

DEVICE = "pump-1"
STEPS = (BACK, FORWARD, NINETEEN_SEVENTY, RIGHT)
#: A heartbeat (15 s), the agent's limit (45 s) and the gateway's (60 s) lie within.
QUIET_SECONDS = 70.0
#: The agent looks at its clock every five seconds.
TOLD_SECONDS = 12.0
SET_BACK = "the clock was set back"


class _ClockedFleet(Fleet):
    """A gateway and a device, each with a clock of its own."""

    def start_all(self) -> _ClockedFleet:
        self.gateway_clock = SteppedClock(self.base)
        self.gateway_prefix = self.gateway_clock.prefix
        self.start_gateway()
        self.agent_clock = SteppedClock(self.base)
        self.agent.prefix = self.agent_clock.prefix
        self.agent.start()
        self.wait_live(DEVICE)
        return self

    @functools.cached_property
    def agent(self) -> Agent:
        return self.join(DEVICE)

    def status(self) -> dict[str, Any]:
        """Return what the agent wrote last about itself."""
        told: dict[str, Any] = json.loads((self.agent.home / "status.json").read_bytes())
        return told

    def close(self) -> None:
        super().close()
        sweep()


@functools.cache
def _shared(_whose: str) -> _ClockedFleet:
    fleet = _ClockedFleet()
    atexit.register(fleet.close)
    return fleet.start_all()


class _Ticker:
    """A command that counts, five times a second, until it is told to stop."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._stop = fleet.base / f"stop-{number}"
        self._out = fleet.base / f"ticks-{number}"
        script = (
            f"i=0; while [ ! -e {self._stop} ]; do echo $i; i=$((i+1)); sleep 0.2; done; exit 7"
        )
        with self._out.open("wb") as out:
            self.program: Program = fleet.start(
                fleet.cli("run", DEVICE, "--", script), stdout=out.fileno()
            )
        self.goes_on()

    @property
    def ticks(self) -> list[str]:
        return self._out.read_text().splitlines()

    def goes_on(self) -> None:
        """Wait for more of it."""
        before = len(self.ticks)
        until(lambda: len(self.ticks) > before + 1, f"more than {before} ticks", 15)

    def end(self) -> int:
        """Let it end; return its exit status."""
        self._stop.touch()
        return self.program.finish(seconds=20).status


class ClockCase(FleetCase):
    #: Whose clock is set: what a gateway writes down meanwhile is of no use to the others' tests.
    whose = "agent"

    def setUp(self) -> None:
        require()
        self.clock = getattr(self.fleet, f"{self.whose}_clock")
        self.addCleanup(self._put_right)
        self.epoch = self.fleet.device(DEVICE)["epoch"]

    def _put_right(self) -> None:
        self.clock.set(RIGHT)
        self.assertNotIn("Traceback", self.fleet.log_text())
        self.assertNotIn("Traceback", self.fleet.agent.log_text())

    @property
    def fleet(self) -> _ClockedFleet:
        return _shared(self.whose)

    def ticker(self) -> _Ticker:
        """Return a command that runs."""
        ticker = _Ticker(self.fleet, len(list(self.fleet.base.glob("ticks-*"))))
        self.addCleanup(ticker.program.kill)
        return ticker

    def ended(self, ticker: _Ticker) -> None:
        """End it: nothing of it may be missing, or there twice."""
        self.assertEqual(7, ticker.end())
        self.assertEqual([str(number) for number in range(len(ticker.ticks))], ticker.ticks)

    def works(self, told: str) -> None:
        """Check that new commands run and a probe is answered, over the old link."""
        done = self.fleet.run(DEVICE, "--", "cat; exit 3", data=b"here")
        self.assertEqual((3, b"here"), (done.status, done.stdout), (told, done.stderr))
        done = self.fleet.rshell("probe", "--json", DEVICE)
        self.assertEqual(0, done.status, (told, done))
        probe = json.loads(done.stdout)
        wanted = (True, "live", self.epoch)
        self.assertEqual(wanted, (probe["alive"], probe["state"], probe["epoch"]), told)

    def seen_now(self, ahead: float = 0.0) -> None:
        """Check that the device was seen now, on a gateway's clock so many seconds ahead."""
        seen = self.fleet.device(DEVICE)["last_seen"]
        off = datetime.fromisoformat(seen).timestamp() - ahead - time.time()
        self.assertLess(abs(off), 30, seen)

    def why_since(self, began: float) -> None:
        """Check that nothing that is told about it is of before the test, or to come."""
        done = self.fleet.rshell("why", DEVICE, "--json")
        self.assert_status(0, done)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        moments = [datetime.fromisoformat(row["at"]).timestamp() for row in rows]
        self.assertTrue(all(began - 600 < at < time.time() + 60 for at in moments), rows)

    def stays_quiet(self) -> None:
        """Set the clock, and wait for as long as a link may be silent, and longer."""
        for to in STEPS:
            self.clock.set(to)
            time.sleep(QUIET_SECONDS)  # that long: what is tested is that nothing happens
            self.works(f"quiet at {to}")
        self.works("in the end")


class AgentTests(ClockCase):
    def test_steps(self) -> None:
        """A device whose clock jumps an hour back or ahead, to 1970 and back again keeps its link;
        what runs there loses nothing, and what is told about it has the gateway's time."""
        began = time.time()
        log = self.fleet.agent.log_text
        ticker = self.ticker()
        for to in STEPS:
            self.clock.set(to)
            ticker.goes_on()
            self.works(f"agent at {to}")
            if to == NINETEEN_SEVENTY:
                # It did happen: the agent has seen it.
                until(lambda: SET_BACK in log(), log, TOLD_SECONDS)
        self.ended(ticker)
        self.seen_now()
        self.why_since(began)

    def test_starts(self) -> None:
        """A device that starts in 1970, or an hour ahead, is admitted like any other; it neither
        refuses the gateway's certificate nor renews its own."""
        end = self.fleet.status()["certificate_end"]
        began, logged = time.time(), len(self.fleet.agent.log_text())
        for to, since in ((NINETEEN_SEVENTY, 0.0), (FORWARD, began + 3600)):
            status = self._started(to)
            # It did happen: this is of its own clock.
            told = datetime.fromisoformat(status["since"]).timestamp()
            self.assertLess(abs(told - since), 2 * 86_400 if to == NINETEEN_SEVENTY else 60)
            self.assertEqual(end, status["certificate_end"])
        log = self.fleet.agent.log_text()[logged:]
        for word in ("certificate renewed", "could not be renewed", "refused", "expired"):
            self.assertNotIn(word, log)
        self.seen_now()
        self.why_since(began)

    def _started(self, to: str) -> dict[str, Any]:
        """Start the agent while its clock is wrong; return its own status."""
        agent = self.fleet.agent
        agent.kill()
        self.clock.set(to)
        agent.start()
        until(lambda: self.fleet.device(DEVICE)["epoch"] > self.epoch, agent.log_text, 30, 0.2)
        self.epoch = self.fleet.device(DEVICE)["epoch"]
        self.works(f"started at {to}")
        return self.fleet.status()

    @lasting("it is quiet for five minutes")
    def test_quiet(self) -> None:
        """Heartbeats and limits of silence take no notice of a device's clock."""
        self.stays_quiet()


class GatewayTests(ClockCase):
    whose = "gateway"

    def test_steps(self) -> None:
        """A gateway whose clock jumps keeps its links, runs commands and admits operators."""
        ticker = self.ticker()
        for to, ahead in ((BACK, -3600.0), (FORWARD, 3600.0), (RIGHT, 0.0)):
            self.clock.set(to)
            ticker.goes_on()
            self.works(f"gateway at {to}")
            # It did happen: the times that it tells are of its own clock.
            self.seen_now(ahead)
        self.ended(ticker)
        self.assert_status(0, self.fleet.rshell("why", DEVICE))

    def test_1970(self) -> None:
        """A gateway in 1970 keeps its links and what runs over them, and admits everybody."""
        ticker = self.ticker()
        self.clock.set(NINETEEN_SEVENTY)
        ticker.goes_on()
        self.works("gateway in 1970")
        self.clock.set(RIGHT)
        ticker.goes_on()
        self.works("gateway back")
        self.ended(ticker)

    @lasting("it is quiet for five minutes")
    def test_quiet(self) -> None:
        """Heartbeats and limits of silence take no notice of a gateway's clock."""
        self.stays_quiet()
