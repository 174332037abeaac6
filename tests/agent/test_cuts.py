"""A handler of the agent's own over a link that is cut after each single byte (R1, R2)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from rshell.handlers import Outcome
from tests.agent.survival import Caller, SurvivalCase


class CutTests(SurvivalCase):
    """Cut after every byte, in each direction."""

    async def conversation(self, channel: Any) -> Outcome:
        """Echo, with an event after each 300 bytes, and an outcome."""
        count = 0
        while data := await channel.read():
            while data:
                size = 300 - count % 300
                piece, data = data[:size], data[size:]
                channel.write(piece)
                count += len(piece)
                if count % 300 == 0:
                    channel.send_event("progress", {"done": count})
        return Outcome(status="ok", result=count)

    INPUT = bytes(range(256)) * 8

    def carry(self, allowed: list[int]) -> bool:
        """Carry bytes while ``allowed`` (to the device, to the gateway) lasts; say if it broke."""
        wires = self.pair._wires
        ends = self.pair.device, self.pair.gateway
        while wires[0].written or wires[1].written:
            for index in (0, 1):
                data, wires[index].written = wires[index].written, b""
                passed = data[: allowed[index]]
                allowed[index] -= len(passed)
                if passed:
                    ends[1 - index].dataReceived(passed)
                if len(passed) < len(data):
                    return True
        return False

    def converse(self, allowed: list[int]) -> tuple[Any, ...]:
        """Have one conversation over a first link that carries so many bytes; return all told."""
        self.relink(Clock())  # of their own: a fake clock with thousands of timers is slow
        self.runs.clear()
        self.count += 1
        session = self.count.to_bytes(16, "big")
        caller = self.caller = Caller()
        caller.ask(self.pair, session=session)
        broken = self.carry(allowed)
        for start in range(0, len(self.INPUT), 700):
            caller.channel.write(self.INPUT[start : start + 700])
            broken = broken or self.carry(allowed)
        caller.channel.loseConnection()
        broken = broken or self.carry(allowed)
        if broken:
            self.pair.device.abort("cut")
            self.pair.gateway.abort("cut")
            self.relink(Clock())
            if caller.channel.detached:
                self.ask(caller, session=session)
        events = [body["done"] for body in caller.told("progress")]
        ends = caller.told("ended"), caller.told("outcome"), caller.told("closed")
        return caller.output, events, caller.places, ends, len(self.runs)

    def test_cut_everywhere(self) -> None:
        """Wherever the link breaks: identical bytes, events in order, one outcome, one run."""
        self.count = 0

        async def run(request: Any, channel: Any, device: Any) -> Any:
            self.runs.append("run")
            return await self.conversation(channel)

        self.serve(run)
        self.advance(1)  # else an attempt whose first OPEN was lost might have run before
        whole = self.converse([1 << 30, 1 << 30])
        self.assertEqual(self.INPUT, whole[0])
        places = list(range(300, 2048, 300))
        ends = [2048], [{"status": "ok", "result": 2048}], ["none"]
        self.assertEqual((places, [*places, 2048], ends, 1), whole[1:])
        for direction in (0, 1):
            offset = 0
            while True:
                allowed = [1 << 30, 1 << 30]
                allowed[direction] = offset
                got = self.converse(allowed)
                self.assertEqual(whole, got, (direction, offset))
                if allowed[direction] > 0:
                    break
                offset += 1
            self.assertGreater(offset, 2048)
