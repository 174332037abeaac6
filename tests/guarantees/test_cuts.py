"""Cut at every byte: nothing is lost, nothing comes twice, nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rshell.testing import Recorder, exchange_report, pattern
from rshell.testing.wires import Direction, Wire
from tests.guarantees.case import LONG, GuaranteeCase

#: Bytes of payload in each direction; OPEN, events and outcome add some 500 to be cut.
SIZE = 4096 if LONG else 64
#: Of the handlers' conversations, which differ less, each so manieth offset is enough in haste.
HANDLER_STRIDE = 1 if LONG else 7
SIGNALS = ("USR1", "USR2")


class CutAtEveryByteTests(GuaranteeCase):
    """Each test cuts one hop after each byte offset of one direction, once for each offset."""

    def sweep(self, attempt: Callable[[int], bool], stride: int = 1) -> None:
        """Try each offset until one is beyond the whole conversation."""
        offset = 1
        while attempt(offset):
            offset += stride
        # The payload alone is more than this, so the loop did not end early.
        self.assertGreater(offset, SIZE)

    def attempt_command(self, plan: Callable[[int], Callable[[], bool]], offset: int) -> bool:
        """Run one exchange with one cut; return whether the cut took place."""
        before = len(self.pump.runs)
        was_cut = plan(offset)
        exchange = self.exchange(SIZE, offset, signals=SIGNALS)
        self.fleet.run_until(lambda: exchange.over)
        self.assertIsNone(exchange.problem, f"cut after {offset} bytes")
        self.assertEqual(self.pump.runs[before:], [exchange.argv], f"cut after {offset} bytes")
        happened = was_cut()
        self.settle(61 if offset % 4 == 0 else 2)
        return happened

    def attempt_handler(self, plan: Callable[[int], Callable[[], bool]], offset: int) -> bool:
        """Use a handler of the agent's own with one cut; return whether the cut took place."""
        runs = self.steps.runs
        was_cut = plan(offset)
        received, sent = Recorder(), pattern(SIZE, offset)
        request = {"count": 4, "size": SIZE // 4}
        session = self.ann.client.open("pump-1", "steps", request, received)
        session.write(sent)
        session.write_eof()
        outcome: Any = self.fleet.run(session.outcome)
        where = f"cut after {offset} bytes"
        self.assertEqual(outcome.status, "ok", f"{where}: {outcome}")
        self.assertEqual(outcome.result, {"report": exchange_report(sent).decode()}, where)
        expected = b"".join(pattern(SIZE // 4, step) for step in range(4))
        self.assertEqual(bytes(received.stdout), expected, where)
        progress = [("progress", {"done": step}) for step in range(4)]
        self.assertEqual(received.events, progress, where)
        self.assertEqual(self.steps.runs, runs + 1, where)
        happened = was_cut()
        self.settle(61 if offset % 4 == 0 else 2)
        return happened

    def cut_link(self, who: str, direction: Direction) -> Callable[[int], Callable[[], bool]]:
        """Plan cuts of somebody's link to the gateway."""

        def plan(offset: int) -> Callable[[], bool]:
            wire = self.fleet.wire(who)
            wire.cut(offset, direction)

            def was_cut() -> bool:
                wire.spare()
                return wire.was_cut

            return was_cut

        return plan

    def cut_keeper(self, direction: Direction) -> Callable[[int], Callable[[], bool]]:
        """Plan cuts of the stream's connection between agent and keeper."""

        def plan(offset: int) -> Callable[[], bool]:
            wires: list[Wire] = []

            def made(wire: Wire) -> None:
                if wire.name == "pump-1/keeper" and not wires:
                    wires.append(wire)
                    wire.cut(offset, direction)

            self.fleet.network.made = made

            def was_cut() -> bool:
                self.fleet.network.made = None
                wires[0].spare()
                return wires[0].was_cut

            return was_cut

        return plan

    def test_operator_up(self) -> None:
        """Operator to gateway, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_link("ann", "up"), offset))

    def test_operator_down(self) -> None:
        """Gateway to operator, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_link("ann", "down"), offset))

    def test_device_up(self) -> None:
        """Agent to gateway, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_link("pump-1", "up"), offset))

    def test_device_down(self) -> None:
        """Gateway to agent, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_link("pump-1", "down"), offset))

    def test_keeper_up(self) -> None:
        """Agent to keeper, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_keeper("up"), offset))

    def test_keeper_down(self) -> None:
        """Keeper to agent, cut after every byte: a command is carried out once and whole."""
        self.sweep(lambda offset: self.attempt_command(self.cut_keeper("down"), offset))

    def test_handler_operator_down(self) -> None:
        """A handler in the agent: bytes and events come once and in order over a cut link."""
        self.sweep(
            lambda offset: self.attempt_handler(self.cut_link("ann", "down"), offset),
            HANDLER_STRIDE,
        )

    def test_handler_device_up(self) -> None:
        """A handler in the agent, its device's link cut: bytes and events come once, in order."""
        self.sweep(
            lambda offset: self.attempt_handler(self.cut_link("pump-1", "up"), offset),
            HANDLER_STRIDE,
        )
