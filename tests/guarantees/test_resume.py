"""Resuming under worse than one cut: large transfers, both hops, lost answers, late frames."""

from __future__ import annotations

import random

from rshell.testing.wires import Direction, Wire
from tests.guarantees.case import LONG, Exchange, GuaranteeCase

CUTS = 5000 if LONG else 250
LARGE = 1_500_000


class RandomCutTests(GuaranteeCase):
    """Large transfers, cut at random until they are done."""

    seed = 7

    def storm(self, names: tuple[str, ...], cuts: int, fragment: bool = False) -> None:
        """Transfer both ways again and again, cutting these links at random."""
        rng = random.Random(11)
        done = dict.fromkeys(names, 0)

        def made(wire: Wire) -> None:
            if wire.name in names:
                direction: Direction = rng.choice(("up", "down"))
                done[wire.name] += 1
                # As if each link had lived for a minute: back-off is not what is tested here.
                self.pump.service._links.dialler._failures = 0
                # A link that just says hello is cut too, now and then.
                wire.cut(int(2 ** rng.uniform(0, 19)), direction)

        self.fleet.fragment(fragment)
        self.fleet.network.made = made
        for name in names:
            self.fleet.cut(name)
        count = 0
        while sum(done.values()) < cuts:
            count += 1
            self.fleet.run_until(self.connected)
            exchange = self.exchange(LARGE, count, signals=("USR1",))
            self.finish(exchange, limit_seconds=3600)
            self.assertEqual(self.pump.runs[-1], exchange.argv)
            self.fleet.advance(61)
        self.assertEqual(len(self.pump.runs), count)
        self.fleet.network.made = None
        for wire in self.fleet.network.wires:
            wire.spare()
        self.assert_nothing_left()

    def test_operator(self) -> None:
        """The operator's link is cut at random: large transfers come whole and run once."""
        self.storm(("ann",), CUTS)

    def test_device(self) -> None:
        """The device's link is cut at random: large transfers come whole and run once."""
        self.storm(("pump-1",), CUTS)

    def test_both(self) -> None:
        """Both links are cut at random, bytes come in pieces: large transfers come whole."""
        self.storm(("ann", "pump-1"), CUTS, fragment=True)


class TwoCutsTests(GuaranteeCase):
    """What happens twice, or at an unlucky moment."""

    def test_both_at_once(self) -> None:
        """Both hops break in the same moment, at many places: the command goes on."""
        for offset in range(1, 3000, 97):
            runs = len(self.pump.runs)
            self.fleet.cut("ann", offset, "up")
            exchange = self.exchange(1500, offset)
            self.await_cut(self.fleet.wire("ann"), exchange)
            self.fleet.cut("pump-1")
            self.finish(exchange)
            self.assertEqual(self.pump.runs[runs:], [exchange.argv])
            self.settle()

    def test_resume_is_cut_too(self) -> None:
        """Each attempt to resume is cut a little later than the one before."""
        cuts = [0]

        def made(wire: Wire) -> None:
            if wire.name == "ann":
                cuts[0] += 1
                wire.cut(300 + 40 * cuts[0], "up" if cuts[0] % 2 else "down")

        self.fleet.network.made = made
        self.fleet.cut("ann", 700, "up")
        exchange = self.exchange(6000, signals=("USR2", "USR1"))
        self.finish(exchange, limit_seconds=1000)
        self.assertGreater(cuts[0], 3)
        self.assertEqual(self.pump.runs, [exchange.argv])

    def test_open_lost(self) -> None:
        """The OPEN is lost on its way: it is asked again, and runs once."""
        self.fleet.freeze(self.fleet.wire("ann"))
        exchange = self.exchange(1000)
        self.fleet.pump()
        self.assertEqual(self.pump.runs, [])
        self.fleet.cut("ann")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])

    def test_open_lost_behind_the_gateway(self) -> None:
        """The gateway's OPEN is lost on its way to the device: it runs once."""
        self.fleet.freeze(self.fleet.wire("pump-1"))
        exchange = self.exchange(1000)
        self.fleet.pump()
        self.assertEqual(self.pump.runs, [])
        self.fleet.cut("pump-1")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])

    def test_answer_lost(self) -> None:
        """OPENED is lost on its way: the command runs already, and is not run again."""
        ways: tuple[tuple[str, Direction], ...] = (("ann", "down"), ("pump-1", "up"))
        for who, direction in ways:
            runs = len(self.pump.runs)
            self.fleet.wire(who).extra_delay[direction] = 3600.0
            exchange = self.exchange(1000, seed=runs)
            self.fleet.advance(1)
            self.assertEqual(self.pump.runs[runs:], [exchange.argv])
            self.assertEqual(exchange.recorder.opened, 0)
            self.fleet.cut(who)
            self.finish(exchange)
            self.assertEqual(self.pump.runs[runs:], [exchange.argv])
            self.settle()

    def test_late_frames(self) -> None:
        """Frames of the old hop that still arrive after the resume are nobody's."""
        exchange = self.exchange(400_000)
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        old = self.fleet.wire("pump-1")
        # The device dials anew although its old connection carries on for a while.
        old.extra_delay["up"] = 2.0
        links = self.pump.service._links
        links.dialler.redial("a test")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])
        self.assert_nothing_left()


class ManySessionsTests(GuaranteeCase):
    """What is on one link together is resumed together."""

    def test_many(self) -> None:
        """Fifty commands at once lose both links: each goes on with its own bytes."""
        exchanges = [Exchange(self.ann, 20_000, seed) for seed in range(50)]
        self.fleet.run_until(lambda: any(each.recorder.stdout for each in exchanges))
        self.fleet.cut("pump-1")
        self.fleet.cut("ann")
        self.finish(*exchanges)
        self.assertEqual(len(self.pump.runs), 50)
        self.assert_nothing_left()
