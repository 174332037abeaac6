"""Unit tests of rshell_agent.dialler: each rule of waiting, on a fake clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.messages import GoAway
from rshell_agent.dialler import Dialler, DiallerState, Target


class Highest:
    """Randomness that always draws the upper end and leaves the order as it is."""

    def uniform(self, a: float, b: float) -> float:
        return b

    def shuffle(self, x: list[Any]) -> None:
        pass


class Lowest(Highest):
    def uniform(self, a: float, b: float) -> float:
        return a


class FakeLink:
    def __init__(self, case: DiallerCase) -> None:
        self._case = case
        self.aborted: list[str] = []
        self.goodbyes: list[str] = []

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)
        self._case.dialler.lost(self, reason)

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        self.goodbyes.append(goaway.code)
        self._case.dialler.lost(self, reason)


class DiallerCase(SynchronousTestCase):
    random: Any = Highest()

    def setUp(self) -> None:
        self.clock = Clock()
        self.gateways: tuple[str, ...] = ("gw:7411",)
        self.hosts: dict[str, Any] = {"gw": ["192.0.2.1"]}
        self.dials: list[tuple[Target, int]] = []
        self.answers: list[Any] = []
        self.states: list[DiallerState] = []
        self.dialler = Dialler(
            self.clock,
            lambda: self.gateways,
            self.resolve,
            self.dial,
            self.random,
            lambda: self.states.append(self.dialler.state),
        )

    def resolve(self, host: str, port: int) -> Deferred[list[str]]:
        found = self.hosts[host]
        if isinstance(found, Deferred):
            return found
        return fail(found) if isinstance(found, Exception) else succeed(list(found))

    def dial(self, target: Target, number: int) -> Deferred[Any]:
        self.dials.append((target, number))
        answer = self.answers.pop(0) if self.answers else ConnectionRefusedError()
        if isinstance(answer, Exception):
            return fail(answer)
        return answer if isinstance(answer, Deferred) else succeed(answer)

    def connected(self, spread: float = 0.0) -> FakeLink:
        """Dial, now if stopped or when the wait is over, and be welcomed."""
        link = FakeLink(self)
        self.answers.append(link)
        if self.dialler.state is DiallerState.STOPPED:
            self.dialler.start()
        else:
            self.clock.advance(self.wait())
        self.dialler.welcomed(link, spread)
        self.assertIs(DiallerState.CONNECTED, self.dialler.state)
        return link

    def wait(self) -> float:
        """How long until the next attempt; exactly one timer is set."""
        self.assertIs(DiallerState.WAITING, self.dialler.state)
        (call,) = self.clock.getDelayedCalls()
        return call.getTime() - self.clock.seconds()

    def told(self, link: FakeLink, code: str, **fields: Any) -> float:
        """The gateway says GOAWAY and closes; return the wait."""
        self.dialler.goaway_received(link, GoAway(code=code, **fields))
        self.dialler.lost(link, f"the peer said {code}")
        return self.wait()


class BackoffTests(DiallerCase):
    def test_doubles_to_the_cap(self) -> None:
        """C6: the upper end of the wait is 1 s, doubling to 120 s."""
        self.dialler.start()
        waits = []
        for _ in range(9):
            waits.append(self.wait())
            self.clock.advance(waits[-1])
        self.assertEqual([1, 2, 4, 8, 16, 32, 64, 120, 120], waits)
        self.assertEqual(list(range(1, 11)), [number for _, number in self.dials])

    def test_nothing_before_its_time(self) -> None:
        """No attempt is made a moment before the wait is over."""
        self.dialler.start()
        self.clock.advance(0.999)
        self.assertEqual(1, len(self.dials))
        self.clock.advance(0.001)
        self.assertEqual(2, len(self.dials))

    def test_tcp_is_not_success(self) -> None:
        """P6: a link that ends before WELCOME leaves the back-off where it was."""
        self.dialler.start()
        for expected in (2, 4, 8):
            link = FakeLink(self)
            self.answers.append(link)
            self.clock.advance(self.wait())
            self.assertIs(DiallerState.GREETING, self.dialler.state)
            self.dialler.lost(link, "closed")
            self.assertEqual(expected, self.wait())

    def test_reset_after_a_minute(self) -> None:
        """C6: only 60 s of a welcomed link reset the back-off."""
        self.dialler.start()
        self.clock.advance(1)
        self.clock.advance(2)
        link = self.connected()
        self.clock.advance(59.9)
        self.dialler.lost(link, "cut")
        self.assertEqual(8, self.wait())
        link = self.connected()
        self.clock.advance(60)
        self.dialler.lost(link, "cut")
        self.assertEqual(1, self.wait())

    def test_retry_spread(self) -> None:
        """The spread of WELCOME bounds the first retry after an unexpected loss, no later one."""
        link = self.connected(spread=25.0)
        self.clock.advance(100)
        self.dialler.lost(link, "cut")
        self.assertEqual(25, self.wait())
        self.clock.advance(25)
        self.assertEqual(2, self.wait())


class MinimumTests(DiallerCase):
    random = Lowest()

    def test_minimum(self) -> None:
        """C6: even the shortest draw waits 0.2 s."""
        self.dialler.start()
        self.assertEqual(0.2, self.wait())

    def test_refused_for_good(self) -> None:
        """C6: after auth, revoked and version 15 min at least."""
        link = self.connected()
        for code in ("auth", "revoked", "version", "clone-suspected"):
            self.assertEqual(900, self.told(link, code))
            link = self.connected()


class GoAwayTests(DiallerCase):
    def test_refused_for_good(self) -> None:
        """C6: after auth 60 min at most, also when it comes before WELCOME."""
        link = FakeLink(self)
        self.answers.append(link)
        self.dialler.start()
        self.assertEqual(3600, self.told(link, "auth"))

    def test_duplicate_doubles(self) -> None:
        """H3: duplicate on the current link waits 60 s, doubling to 15 min."""
        waits = []
        for _ in range(6):
            waits.append(self.told(self.connected(), "duplicate"))
        self.assertEqual([60, 120, 240, 480, 900, 900], waits)

    def test_duplicate_forgotten(self) -> None:
        """A link that lived half an hour shows that there is no clone any more."""
        self.told(self.connected(), "duplicate")
        link = self.connected()
        self.clock.advance(1800)
        self.assertEqual(60, self.told(link, "duplicate"))

    def test_duplicate_before_welcome(self) -> None:
        """H2: a HELLO refused as duplicate is an ordinary failure."""
        link = FakeLink(self)
        self.answers.append(link)
        self.dialler.start()
        self.assertEqual(1, self.told(link, "duplicate"))

    def test_hints(self) -> None:
        """GOAWAY's hints: retry_min plus a share of retry_spread."""
        link = self.connected()
        wait = self.told(link, "overload", retry_min_ms=5_000, retry_spread_ms=17_000)
        self.assertEqual(22, wait)

    def test_hints_are_bounded(self) -> None:
        """No gateway can put a device to sleep for longer than an hour."""
        link = self.connected()
        self.assertEqual(3600, self.told(link, "overload", retry_min_ms=2**31))

    def test_drains(self) -> None:
        """A planned end: we dial anew while the old link lives, which goes when it is replaced."""
        old = self.connected()
        self.dialler.goaway_received(old, GoAway(code="shutdown", retry_spread_ms=3000))
        self.assertEqual(3, self.wait())
        self.assertEqual([], old.goodbyes)
        new = self.connected()
        self.assertEqual(["none"], old.goodbyes)
        self.assertEqual([], new.goodbyes)
        self.assertIs(DiallerState.CONNECTED, self.dialler.state)

    def test_old_link_is_not_the_current_one(self) -> None:
        """What an older link still says or does changes nothing."""
        old = self.connected()
        self.dialler.goaway_received(old, GoAway(code="none"))
        self.connected()
        self.dialler.goaway_received(old, GoAway(code="duplicate"))
        self.dialler.lost(old, "gone")
        self.assertIs(DiallerState.CONNECTED, self.dialler.state)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_alternatives(self) -> None:
        """An alternative comes first only if our own configuration lists it."""
        self.gateways = ("gw:7411", "other:7411")
        self.hosts["other"] = ["192.0.2.9"]
        link = self.connected()
        self.told(link, "shutdown", alternatives=["evil:7411", "other:7411"])
        self.connected()
        self.assertEqual("other", self.dials[-1][0].host)


class AddressTests(DiallerCase):
    def test_all_addresses(self) -> None:
        """Each attempt takes one address, until all of all gateways were tried."""
        self.gateways = ("gw:1", "other:2")
        self.hosts = {"gw": ["192.0.2.1", "2001:db8::1"], "other": ["192.0.2.2"]}
        self.dialler.start()
        for _ in range(3):
            self.clock.advance(self.wait())
        self.assertEqual(
            [
                ("gw", "192.0.2.1", 1),
                ("gw", "2001:db8::1", 1),
                ("other", "192.0.2.2", 2),
                ("gw", "192.0.2.1", 1),
            ],
            [(target.host, target.address, target.port) for target, _ in self.dials],
        )

    def test_one_name_fails(self) -> None:
        """A gateway that cannot be resolved does not hinder the others."""
        self.gateways = ("gw:7411", "other:7411")
        self.hosts = {"gw": OSError(-2, "Name or service not known"), "other": ["192.0.2.2"]}
        self.connected()
        self.assertEqual("192.0.2.2", self.dials[0][0].address)

    def test_no_name_resolves(self) -> None:
        """Without any address the attempt fails, and says which name is wrong."""
        self.hosts = {"gw": OSError(-2, "Name or service not known")}
        self.dialler.start()
        self.assertEqual(1, self.wait())
        self.assertIn("gw:7411: Name or service not known", self.dialler.last_error)

    def test_no_gateway(self) -> None:
        """An empty list is an error to be read, not a busy loop."""
        self.gateways = ()
        self.dialler.start()
        self.assertEqual(1, self.wait())
        self.assertIn("no gateway", self.dialler.last_error)


class WatchdogTests(DiallerCase):
    def test_lookup_hangs(self) -> None:
        """45 s after its begin an attempt ends, even one that waits for a name."""
        self.hosts["gw"] = Deferred()
        self.dialler.start()
        self.clock.advance(44.9)
        self.assertIs(DiallerState.RESOLVING, self.dialler.state)
        self.clock.advance(0.1)
        self.assertEqual(1, self.wait())

    def test_connect_hangs(self) -> None:
        """So does one that waits for TCP; what comes later is not used."""
        self.answers.append(Deferred())
        self.dialler.start()
        self.clock.advance(45)
        self.assertEqual(1, self.wait())
        self.assertIn("45 s", self.dialler.last_error)

    def test_welcome_hangs(self) -> None:
        """So does one that waits for WELCOME."""
        link = FakeLink(self)
        self.answers.append(link)
        self.dialler.start()
        self.clock.advance(45)
        self.assertEqual(1, len(link.aborted))
        self.assertEqual(1, self.wait())

    def test_welcomed_in_time(self) -> None:
        """A welcomed link is left in peace: no timer of the dialler's is set."""
        self.connected()
        self.assertEqual([], self.clock.getDelayedCalls())


class StopTests(DiallerCase):
    def test_stop_while_connected(self) -> None:
        """Stopping says goodbye and leaves no timer."""
        link = self.connected()
        self.dialler.stop(GoAway(code="shutdown"))
        self.assertEqual(["shutdown"], link.goodbyes)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertIs(DiallerState.STOPPED, self.dialler.state)

    def test_stop_while_waiting_or_dialling(self) -> None:
        """Stopping ends the wait, the lookup and the connect, whichever it is."""
        self.dialler.start()
        self.dialler.stop(GoAway(code="shutdown"))
        self.answers.append(Deferred())
        self.dialler.start()
        self.dialler.stop(GoAway(code="shutdown"))
        self.hosts["gw"] = Deferred()
        self.dialler.start()
        self.dialler.stop(GoAway(code="shutdown"))
        self.clock.advance(1000)
        self.assertEqual(2, len(self.dials))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_redial(self) -> None:
        """New credentials: close the link, dial again at once."""
        link = self.connected()
        self.dialler.redial("renewed")
        self.assertEqual(["none"], link.goodbyes)
        self.assertEqual(0.2, self.wait())
