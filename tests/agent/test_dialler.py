"""Unit tests of rshell_agent.dialler: each rule of waiting, on a fake clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.messages import GoAway
from rshell.link.proxy import ProxyFailed
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


class RenewTests(DiallerCase):
    def test_new_beside_the_old(self) -> None:
        """A link that is to prove something is dialled at once; the old one stays until it is."""
        old = self.connected()
        self.dialler.renew(old, "proof")
        self.assertEqual([], old.goodbyes + old.aborted)
        self.assertLess(self.wait(), 1.0)
        self.connected()
        self.assertEqual(["none"], old.goodbyes)

    def test_fails(self) -> None:
        """While that cannot be dialled the old link stays, and it is tried again."""
        old = self.connected()
        self.dialler.renew(old, "proof")
        self.clock.advance(self.wait())
        self.assertIs(DiallerState.WAITING, self.dialler.state)
        self.assertEqual([], old.goodbyes + old.aborted)
        self.connected()
        self.assertEqual(["none"], old.goodbyes)

    def test_old_one_dies(self) -> None:
        """The old link's end meanwhile, or its being told duplicate, disturbs nothing."""
        old = self.connected()
        self.dialler.renew(old, "proof")
        before = self.wait()
        self.dialler.goaway_received(old, GoAway(code="duplicate"))
        self.dialler.lost(old, "gone")
        self.assertEqual(before, self.wait())

    def test_not_the_current_one(self) -> None:
        """A link that is not the current one any more, or not welcomed yet, renews nothing."""
        old = self.connected()
        self.dialler.renew(old, "proof")
        new = self.connected()
        self.dialler.renew(old, "proof")
        self.assertIs(DiallerState.CONNECTED, self.dialler.state)
        self.assertEqual([], new.goodbyes + new.aborted)


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
        """C6: from an unexpected loss to the next WELCOME waits may be as long as the spread."""
        link = self.connected(spread=25.0)
        self.clock.advance(100)
        self.dialler.lost(link, "cut")
        waits = []
        for _ in range(7):
            waits.append(self.wait())
            self.clock.advance(waits[-1])
        self.assertEqual([25, 25, 25, 25, 25, 32, 64], waits)
        self.connected(spread=0.0)
        self.assertIs(DiallerState.CONNECTED, self.dialler.state)

    def test_spread_ends_with_welcome(self) -> None:
        """C6: a later WELCOME that tells no spread ends it."""
        link = self.connected(spread=25.0)
        self.clock.advance(100)
        self.dialler.lost(link, "cut")
        link = self.connected(spread=0.0)
        self.clock.advance(100)
        self.dialler.lost(link, "cut")
        self.assertEqual(1, self.wait())

    def test_advice(self) -> None:
        """L4: ADVICE replaces the spread that WELCOME told; of another link it means nothing."""
        link = self.connected(spread=1.0)
        self.dialler.advised(link, 40.0)
        self.dialler.advised(FakeLink(self), 80.0)
        self.dialler.lost(link, "cut")
        self.assertEqual(40, self.wait())

    def test_useless(self) -> None:
        """Addresses that give no WELCOME are useless since the first of them was found."""
        self.clock.advance(5)
        self.dialler.start()
        self.clock.advance(1)
        self.clock.advance(2)
        self.assertEqual(5, self.dialler.useless_since)
        self.connected()
        self.assertIsNone(self.dialler.useless_since)


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
        """One attempt races all addresses of all gateways, IPv6 and IPv4 in turn."""
        self.gateways = ("gw:1", "other:2")
        self.hosts = {"gw": ["192.0.2.1", "2001:db8::1"], "other": ["192.0.2.2"]}
        self.dialler.start()
        self.assertEqual(
            [("gw", "2001:db8::1", 1), ("gw", "192.0.2.1", 1), ("other", "192.0.2.2", 2)],
            [(target.host, target.address, target.port) for target, _ in self.dials],
        )
        self.assertEqual([1, 2, 3], [number for _, number in self.dials])
        self.assertEqual(1, self.wait())
        for address in ("2001:db8::1", "192.0.2.1", "192.0.2.2"):
            self.assertIn(address, self.dialler.last_error)

    def test_fastest_wins(self) -> None:
        """An address that hangs costs a quarter of a second; it is given up then."""
        self.gateways = ("gw:1", "other:2")
        self.hosts["other"] = ["192.0.2.2"]
        cancelled: list[str] = []
        link = FakeLink(self)
        self.answers += [Deferred(lambda _: cancelled.append("gw")), link]
        self.dialler.start()
        self.clock.advance(0.25)
        self.assertIs(DiallerState.GREETING, self.dialler.state)
        assert self.dialler.target is not None
        self.assertEqual((["gw"], "other"), (cancelled, self.dialler.target.host))
        self.dialler.welcomed(link, 0.0)
        self.assertEqual([], self.clock.getDelayedCalls())

    def two_gateways(self) -> None:
        self.gateways = ("gw:1", "other:2")
        self.hosts["other"] = ["192.0.2.2"]

    def hosts_dialled(self) -> list[str]:
        dials, self.dials = self.dials, []
        return [target.host for target, _ in dials]

    def test_no_welcome(self) -> None:
        """What takes the connection and gives no WELCOME is tried last from then on."""
        self.two_gateways()
        for expected in (["gw"], ["other"], ["gw"]):
            link = FakeLink(self)
            self.answers.append(link)
            if self.dialler.state is DiallerState.STOPPED:
                self.dialler.start()
            else:
                self.clock.advance(self.wait())
            self.assertEqual(expected, self.hosts_dialled())
            self.dialler.lost(link, "no WELCOME in time")

    def test_struck_is_a_last_resort(self) -> None:
        """One that gave no WELCOME is tried when the others have failed, in the same attempt."""
        self.two_gateways()
        link = FakeLink(self)
        self.answers.append(link)
        self.dialler.start()
        self.dialler.lost(link, "no WELCOME in time")
        self.hosts_dialled()
        self.answers += [ConnectionRefusedError(), FakeLink(self)]
        self.clock.advance(self.wait())
        self.assertEqual(["other", "gw"], self.hosts_dialled())
        self.assertIs(DiallerState.GREETING, self.dialler.state)

    def test_last_good_first(self) -> None:
        """The address of a link that lasted is dialled first; of a short one it is not."""
        self.two_gateways()
        for lived, expected in ((60, "other"), (59, "gw")):
            self.gateways = ("other:2",)
            link = self.connected()
            self.gateways = ("gw:1", "other:2")
            self.clock.advance(lived)
            self.dialler.lost(link, "cut")
            self.hosts_dialled()
            link = FakeLink(self)
            self.answers.append(link)
            self.clock.advance(self.wait())
            self.assertEqual([expected], self.hosts_dialled())
            self.dialler.welcomed(link, 0.0)
            self.dialler.lost(link, "cut")

    def test_planned_end_elsewhere_first(self) -> None:
        """Make before break: with several gateways the one that goes is dialled last.

        What it asks to wait for its own restart does not hold us back from another gateway.
        """
        self.two_gateways()
        old = self.connected()
        self.clock.advance(100)
        self.hosts_dialled()
        self.dialler.goaway_received(
            old, GoAway(code="shutdown", retry_min_ms=30_000, retry_spread_ms=3000)
        )
        self.assertEqual(3, self.wait())
        new = FakeLink(self)
        self.answers.append(new)
        self.clock.advance(3)
        self.assertEqual(["other"], self.hosts_dialled())
        self.assertEqual([], old.goodbyes)
        self.dialler.welcomed(new, 0.0)
        self.assertEqual(["none"], old.goodbyes)

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


class ResumeTests(DiallerCase):
    """What follows when the machine has slept (K6)."""

    def test_connected(self) -> None:
        """The link is dead: it is dropped without a word, and dialled anew at once."""
        link = self.connected(spread=60.0)
        self.dialler.resumed("the machine slept")
        self.assertEqual((["the machine slept"], []), (link.aborted, link.goodbyes))
        self.assertEqual(3, self.wait())

    def test_waiting(self) -> None:
        """A long wait becomes a short one, a short one stays."""
        self.dialler.start()
        self.dialler.resumed("slept")
        self.assertEqual(1, self.wait())
        for _ in range(4):
            self.clock.advance(self.wait())
        self.assertEqual(16, self.wait())
        self.dialler.resumed("slept")
        self.assertEqual(3, self.wait())

    def test_told_to_wait(self) -> None:
        """A wait that a gateway asked for is kept."""
        self.told(self.connected(), "auth")
        self.dialler.resumed("slept")
        self.assertEqual(3600, self.wait())

    def test_dialling(self) -> None:
        """An attempt under way is given up: its path is that of before the sleep."""
        for hang in ("resolve", "dial"):
            self.hosts["gw"] = Deferred() if hang == "resolve" else ["192.0.2.1"]
            self.answers = [Deferred()]
            if self.dialler.state is DiallerState.STOPPED:
                self.dialler.start()
            else:
                self.clock.advance(self.wait())
            self.dialler.resumed("slept")
            self.assertEqual(3, self.wait())

    def test_stopped(self) -> None:
        """A dialler that was not started stays so."""
        self.dialler.resumed("slept")
        self.assertIs(DiallerState.STOPPED, self.dialler.state)


class JournalTests(DiallerCase):
    def test_notes(self) -> None:
        """What failed is told by kind, with the address it is about."""
        notes: list[tuple[str, str, str]] = []

        class Notes:
            def note(self, kind: str, message: str = "", *, target: str = "", **more: Any) -> None:
                notes.append((kind, target, message))

        self.gateways = ("gw:1", "lost:1")
        self.hosts["lost"] = OSError(-2, "Name or service not known")
        self.answers = [ConnectionRefusedError(), ProxyFailed("the proxy p:1 refuses: 403")]
        self.dialler = Dialler(
            self.clock, lambda: self.gateways, self.resolve, self.dial, self.random, journal=Notes()
        )
        self.dialler.start()
        self.clock.advance(self.wait())
        self.assertEqual(
            [("dns", "lost:1"), ("tcp", "gw (192.0.2.1)")],
            [(kind, target) for kind, target, _ in notes[:2]],
        )
        self.assertEqual(("proxy", "gw (192.0.2.1)", "the proxy p:1 refuses: 403"), notes[3])


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
