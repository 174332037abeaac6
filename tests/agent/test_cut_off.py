"""Rule C6 for who is cut off while a fleet returns: not a whole spread again, once."""

from __future__ import annotations

from rshell.link.core.messages import GoAway
from rshell_agent.dialler import DiallerState
from tests.agent.test_dialler import DiallerCase, FakeLink


class CutOffTests(DiallerCase):
    def lost(self, spread: float = 40.0) -> None:
        """Have a link that lasted, and lose it; the dialler waits."""
        link = self.connected(spread=spread)
        self.clock.advance(100)
        self.dialler.lost(link, "cut")
        self.assertEqual(spread, self.wait())

    def cut_off(self, after: float, goaway: GoAway | None = None) -> float:
        """Let that attempt begin early and be ended before WELCOME; return the wait that follows.

        Args:
            after: Seconds from now; the fake randomness draws the longest wait.
            goaway: What the gateway says before.
        """
        link = FakeLink(self)
        self.answers.append(link)
        timer = self.dialler._timer
        assert timer is not None
        timer.reset(after)
        self.clock.advance(after)
        self.assertIs(DiallerState.GREETING, self.dialler.state)
        if goaway is not None:
            self.dialler.goaway_received(link, goaway)
        self.dialler.lost(link, "closed")
        return self.wait()

    def test_what_is_left(self) -> None:
        """Who is cut off early comes again while the others come."""
        self.lost()
        self.assertEqual(30, self.cut_off(10))

    def test_a_quarter(self) -> None:
        """At the end of the spread a quarter of it is left."""
        self.lost()
        self.assertEqual(10, self.cut_off(38))

    def test_once(self) -> None:
        """After that the whole spread counts again: the gateway may be away behind a proxy."""
        self.lost()
        self.assertEqual(30, self.cut_off(10))
        self.assertEqual(40, self.cut_off(10))
        self.assertEqual(40, self.cut_off(10))

    def test_nobody_there(self) -> None:
        """Where nobody listens all of the fleet waits, over the whole spread."""
        self.lost()
        self.clock.advance(40)
        self.assertEqual(40, self.wait())
        self.assertEqual(32, self.cut_off(8))

    def test_back_off(self) -> None:
        """It is no failure that makes the back-off grow, nor shorter than the back-off."""
        self.lost(spread=2.0)
        self.assertEqual(2, self.cut_off(0.5))
        self.assertEqual(2, self.cut_off(0.5))
        self.assertEqual(4, self.cut_off(0.5))

    def test_planned(self) -> None:
        """After a GOAWAY what is left of its spread counts."""
        link = self.connected(spread=0.0)
        self.told(link, "shutdown", retry_min_ms=1_000, retry_spread_ms=20_000)
        self.assertEqual(16, self.cut_off(5))

    def test_told_why(self) -> None:
        """A gateway that says why it ends the attempt leaves the whole spread."""
        self.lost()
        self.assertEqual(40, self.cut_off(10, GoAway(code="internal")))

    def test_welcomed_since(self) -> None:
        """A WELCOME in between begins anew."""
        self.lost()
        self.connected(spread=0.0)
        self.clock.advance(100)
        link = self.dialler._link
        assert isinstance(link, FakeLink)
        self.dialler.lost(link, "cut")
        self.assertEqual(1, self.wait())
