"""Bytes and outcome exactly once, through a gate that keeps nothing that matters (R1, R2)."""

from __future__ import annotations

import random

from rshell.link.core.messages import Open, Outcome
from tests.gateway.ends import LastingTalk
from tests.gateway.gate import SESSION, GateTestCase


class ExactlyOnceTests(GateTestCase):
    """A session whose two ends outlive any link, through a gate that keeps nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.near = LastingTalk(self.operator.link)
        self.far: LastingTalk | None = None
        self.attempt = 0
        self.runs = 0
        self.serve()

    def serve(self) -> None:
        """Let the device answer as a keeper does: one session, joined by each attempt."""
        device = self.device

        def requested(number: int, request: Open) -> None:
            if self.far is None:
                self.far = LastingTalk(device.link)
                self.runs += 1
            self.far.channel.accept(number, request, link=device.link)

        device.on_request = requested

    def open(self) -> None:
        if self.near.code is not None:
            return  # the outcome was taken before the last break
        self.attempt += 1
        request = Open(handler="shell", session=SESSION, device="pump-1", attempt=self.attempt)
        self.near.channel.request(request, link=self.operator.link)

    def redial(self, *, device: bool, operator: bool) -> None:
        """Bring back what was cut, in either order, and open again."""
        if operator:
            self.operator = self.fleet.dial(self.ann, dial=self.attempt + 1)
            self.open()
            self.fleet.pump()
        if device:
            self.back_and_serve()
        if self.near.channel.detached:
            self.open()
        self.fleet.pump()

    def back_and_serve(self) -> None:
        dial = self.device.hello.dial + 1
        self.device = self.fleet.dial(self.pump, dial=dial, pump=False)
        self.serve()
        self.fleet.pump()

    def steps(self, count: int) -> None:
        for _ in range(count):
            for wire in list(self.fleet.wires):
                wire.step()

    def break_something(self, dice: random.Random) -> None:
        what = dice.choice(["operator", "device", "both", "gateway"])
        if what == "gateway":
            self.fleet.crash()
            self.redial(device=True, operator=True)
            return
        device, operator = what != "operator", what != "device"
        if operator:
            self.operator.wire.cut()
        if device:
            self.device.wire.cut()
        self.fleet.pump()
        self.redial(device=device, operator=operator)

    def test_bytes_and_outcome(self) -> None:
        """Whatever breaks, at any record: every byte once, one run, one outcome, no row failed."""
        for seed in range(6):
            dice = random.Random(seed)
            if seed:
                self.setUp()
            up, down = dice.randbytes(150_000), dice.randbytes(150_000)
            self.open()
            self.fleet.pump()
            assert self.far is not None
            for start in range(0, 150_000, 15_000):
                self.near.channel.write(up[start : start + 15_000])
                self.far.channel.write(down[start : start + 15_000])
                self.steps(dice.randrange(12))
                self.break_something(dice)
            self.far.channel.finish(Outcome(status="ok"))
            self.steps(dice.randrange(6))
            self.break_something(dice)
            self.fleet.advance(2)
            self.assertEqual(bytes(self.near.data), down)
            self.assertEqual(bytes(self.far.data), up)
            self.assertEqual([kind for kind, _ in self.near.events], ["outcome"])
            self.assertEqual((self.near.code, self.runs), ("none", 1))
            ends = {status for status, _ in self.told()}
            self.assertLessEqual(ends, {"detached", "interrupted", "ok"})
            self.assertEqual(len(self.fleet.gateway.switchboard), 0)
