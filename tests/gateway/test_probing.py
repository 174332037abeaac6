"""`gateway.probe`: is this device there, now?"""

from __future__ import annotations

from typing import Any

from rshell.gateway.probing import PROBE_SECONDS
from tests.gateway.ends import OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase


class ProbeTests(FleetTestCase):
    def probe(self, operator: OperatorEnd, device: str = "pump-1") -> Talk:
        """Ask, and let the question reach the device."""
        talk = operator.call("gateway.probe", request={"device": device})
        self.fleet.pump()
        return talk

    def answered(self, talk: Talk) -> dict[str, Any]:
        """Wait for the answer as long as is promised."""
        self.fleet.advance(PROBE_SECONDS)
        answer: dict[str, Any] = talk.answer()
        return answer

    def pings(self, device: Any) -> int:
        """Return how many PINGs the gateway sent to a device."""
        return sum(data[0] == 3 for data in device.wire.gateway.sent)

    def test_alive(self) -> None:
        """A device that answers is alive, with a round trip, within a tick or two."""
        operator, device = self.both()
        self.fleet.advance(2)
        talk = self.probe(operator)
        self.fleet.advance(0.5)
        answer = talk.answer()
        self.assertEqual((answer["device"], answer["state"]), ("pump-1", "live"))
        self.assertTrue(answer["alive"])
        self.assertIsNotNone(answer["rtt_ms"])
        self.assertLess(answer["waited_ms"], 600)
        assert device.welcome is not None
        self.assertEqual(answer["epoch"], device.welcome.epoch)

    def test_half_open(self) -> None:
        """A device that is there in name only: not alive, within five seconds."""
        operator, device = self.both()
        self.fleet.advance(2)
        device.wire.held = True
        answer = self.answered(self.probe(operator))
        self.assertFalse(answer["alive"])
        self.assertLessEqual(answer["waited_ms"], PROBE_SECONDS * 1000)
        self.assertIn("no answer", answer["message"])

    def test_no_is_not_repeated(self) -> None:
        """Who has been heard since is asked again: a moment ago's no is not given twice."""
        operator, device = self.both()
        self.fleet.advance(2)
        device.wire.held = True
        self.assertFalse(self.answered(self.probe(operator))["alive"])
        device.wire.held = False
        self.fleet.advance(0.3)
        talk = self.probe(operator)
        self.fleet.advance(0.6)
        self.assertTrue(talk.answer()["alive"])

    def test_any_byte_proves_life(self) -> None:
        """Bytes that are no PONG prove life too, if they were not on their way before."""
        operator, device = self.both()
        self.fleet.advance(2)
        device.wire.held = True
        talk = self.probe(operator)
        beat = bytes.fromhex("0300000800000000") + b"heartbea"
        device.gateway_link.dataReceived(beat)
        self.fleet.advance(1.25)
        self.assertIsNone(talk.outcome)
        device.gateway_link.dataReceived(beat)
        self.fleet.advance(0.5)
        self.assertTrue(talk.answer()["alive"])

    def test_lost_meanwhile(self) -> None:
        """A link that breaks while it is asked answers at once."""
        operator, device = self.both()
        device.wire.held = True
        talk = self.probe(operator)
        device.wire.held = False
        device.wire.cut()
        self.fleet.advance(0.5)
        answer = talk.answer()
        self.assertEqual((answer["alive"], answer["state"]), (False, "lost"))

    def test_came_back_meanwhile(self) -> None:
        """A newer link is a proof of life."""
        operator, device = self.both()
        self.fleet.advance(2)
        device.wire.held = True
        talk = self.probe(operator)
        newer = self.fleet.dial(self.pump, dial=2)
        self.fleet.advance(0.5)
        answer = talk.answer()
        self.assertEqual((answer["alive"], answer["epoch"]), (True, newer.welcome.epoch))

    def test_not_connected(self) -> None:
        """A device that is not connected is answered for at once."""
        operator = self.fleet.dial(self.ann)
        answer = self.probe(operator).answer()
        self.assertEqual((answer["state"], answer["alive"]), ("never", False))
        self.fleet.dial(self.pump).wire.cut()
        self.fleet.clock.advance(9)
        answer = self.probe(operator).answer()
        self.assertEqual((answer["state"], answer["silent_ms"] // 1000), ("lost", 9))

    def test_unknown(self) -> None:
        """A device that nobody knows is not found."""
        self.assertEqual(self.probe(self.fleet.dial(self.ann), "pump-9").code, "not-found")

    def test_shared(self) -> None:
        """A hundred who ask at once share one PING; a second later there is another."""
        operator, device = self.both()
        self.fleet.advance(2)
        before = self.pings(device)
        talks = [operator.call("gateway.probe", request={"device": "pump-1"}) for _ in range(100)]
        self.fleet.pump()
        self.assertEqual(self.pings(device), before + 1)
        self.fleet.advance(0.5)
        self.assertTrue(all(talk.answer()["alive"] for talk in talks))
        self.probe(operator)
        self.assertEqual(self.pings(device), before + 1)
        self.fleet.advance(2)
        self.probe(operator)
        self.assertEqual(self.pings(device), before + 2)

    def test_bounded(self) -> None:
        """One operator cannot probe without end."""
        operator, _ = self.both()
        codes = set()
        for _ in range(600):
            codes.add(self.probe(operator).code)
        self.assertIn("overload", codes)

    def test_stop(self) -> None:
        """A gateway that goes down leaves no question open."""
        operator, device = self.both()
        device.wire.held = True
        answer = self.fleet.gateway.probes.ask(next(iter(self.fleet.gateway.presence)))
        self.fleet.gateway.probes.stop()
        self.assertFalse(self.fleet.got(answer).alive)
        self.assertIsNone(operator.lost)
