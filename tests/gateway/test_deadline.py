"""Time limits and typed handlers over a whole fleet in one process."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.client import Refused
from rshell.handlers import ExecRequest, Outcome
from rshell.interfaces import ITypedHandler
from rshell.testing import SimulatedFleet
from tests.gateway.ends import DeviceEnd
from tests.gateway.fleet import FleetTestCase


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


class Result(msgspec.Struct, frozen=True):
    answer: int


@implementer(IPlugin, ITypedHandler)
class Waiting:
    name = "waiting"
    summary = "Wait"
    request_type = Request
    result_type = Result
    event_types: Any = {}
    priority = "normal"

    async def run(self, request: Any, channel: Any, device: Any) -> Outcome:
        channel.write(b"waiting\n")
        await Deferred()
        return Outcome(status="ok")


class FleetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fleet = SimulatedFleet(seed=3)
        self.addCleanup(self.fleet.close)
        self.fleet.add_device("pump-1", handlers=[Waiting()], facts={"os": "arch", "load": [1.0]})
        self.ann = self.fleet.add_operator("ann")

    def test_deadline(self) -> None:
        """The device ends what takes too long, also when the link breaks on the way."""
        done = self.fleet.run(self.ann.client.call("pump-1", "waiting", {}, timeout=3))
        self.assertEqual(("timeout", "timeout"), (done.outcome.status, done.outcome.code))
        self.assertEqual(b"waiting\n", done.stdout)
        calling = Deferred.fromCoroutine(self.ann.client.call("pump-1", "waiting", {}, timeout=20))
        self.fleet.advance(5)
        self.fleet.cut("ann")
        began = self.fleet.clock.seconds()
        self.fleet.run_until(lambda: calling.called, 60)
        self.assertLess(self.fleet.clock.seconds() - began, 20)
        self.assertEqual("timeout", self.successResultOf(calling).outcome.status)

    def test_spliced(self) -> None:
        """A process has the limit too."""
        request = ExecRequest(argv=[b"sleep", b"100"])
        done = self.fleet.run(self.ann.client.call("pump-1", "exec", request, timeout=3))
        self.assertEqual("timeout", done.outcome.status)

    def test_wrong_limit(self) -> None:
        """A limit that is none is refused at once."""
        for seconds in (0, -1, 2**41, float("inf"), float("nan")):
            calling = Deferred.fromCoroutine(
                self.ann.client.call("pump-1", "waiting", {}, timeout=seconds)
            )
            self.failureResultOf(calling, Refused)

    def test_facts(self) -> None:
        """Facts arrive by themselves, change, are asked for, and choose; a restart keeps them."""
        client = self.ann.client

        def told() -> Any:
            return self.fleet.run(client.facts("pump-1")).facts

        self.fleet.advance(10)
        self.assertEqual({"os": "arch", "load": [1.0]}, self.subset(told()))
        device = self.fleet.devices["pump-1"]
        device.facts["load"] = [2.0]
        asked = self.fleet.run(client.call("pump-1", "facts", {"names": ["load"]}))
        self.assertEqual({"load": [2.0]}, asked.outcome.result)
        self.assertEqual([1.0], told()["load"])
        device.facts["os"] = "debian"
        self.fleet.advance(70)
        self.assertEqual({"os": "debian", "load": [2.0]}, self.subset(told()))
        self.fleet.restart_gateway()
        self.fleet.run_until(lambda: self.fleet.is_live("pump-1"), 60)
        self.assertEqual("debian", told()["os"])
        found = self.fleet.run(client.devices("facts.os=debian", facts=["load"]))
        self.assertEqual([("pump-1", [2.0])], [(d.name, d.facts["load"]) for d in found])
        self.assertEqual([], self.fleet.run(client.devices("facts.os=arch")))

    def subset(self, facts: Any) -> Any:
        return {name: facts.get(name) for name in ("os", "load")}

    def test_handlers(self) -> None:
        """Operators see what is allowed, what is not, and what is answered."""
        self.fleet.advance(5)
        found = {entry.name: entry for entry in self.fleet.run(self.ann.client.handlers("pump-1"))}
        self.assertTrue(found["waiting"].allowed)
        self.assertIn("answer", str(found["waiting"].result))
        listed = self.fleet.run(self.ann.client.devices())[0]
        self.assertEqual(["exec", "facts", "shell", "waiting"], sorted(listed.handlers))


class OldDeviceTests(FleetTestCase):
    def test_refused(self) -> None:
        """A device whose agent does not know time limits is not asked to keep one."""
        operator = self.fleet.dial(self.ann)
        device: DeviceEnd = self.fleet.dial(self.pump)
        talk = operator.call("exec", device="pump-1", timeout_ms=5000)
        self.fleet.pump()
        assert talk.closed is not None
        self.assertEqual("version", talk.closed[0])
        self.assertEqual([], device.requests)
        newer: DeviceEnd = self.fleet.dial(self.pump, features=["deadline"], dial=2)
        operator.call("exec", device="pump-1", timeout_ms=5000)
        self.fleet.pump()
        self.assertEqual(5000, newer.requests[0][1].timeout_ms)
