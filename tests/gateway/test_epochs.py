"""Which link is the device: the newest, and never a ghost (rule H2)."""

from __future__ import annotations

from typing import Any

from twisted.logger import formatEvent, globalLogPublisher

from rshell.link.core.constants import SILENCE_SECONDS
from rshell.link.core.messages import GoAway
from tests.gateway.fleet import FleetTestCase

OTHER = b"J" * 16


class EpochTests(FleetTestCase):
    def test_newest_wins(self) -> None:
        """The newest link is the device; the older is told duplicate and closed."""
        first = self.fleet.dial(self.pump, dial=1)
        second = self.fleet.dial(self.pump, dial=2)
        self.assertGreater(second.welcome.epoch, first.welcome.epoch)
        self.assertEqual(first.told, "duplicate")
        self.assertIsNotNone(first.lost)
        self.assertIsNone(second.told)

    def test_another_process_wins(self) -> None:
        """An agent process started later wins whatever its dial count is."""
        first = self.fleet.dial(self.pump, dial=9)
        second = self.fleet.dial(self.pump, dial=1, instance=OTHER)
        self.assertEqual(first.told, "duplicate")
        self.assertIsNone(second.told)

    def test_lower_dial_is_refused(self) -> None:
        """Of one process a lower dial is refused: a late HELLO displaces nothing."""
        first = self.fleet.dial(self.pump, dial=5)
        for dial in (4, 5):
            late = self.fleet.dial(self.pump, dial=dial)
            self.assertEqual(late.told, "duplicate")
            self.assertIsNone(late.welcome)
        self.assertIsNone(first.told)

    def test_hellos_overtake_each_other(self) -> None:
        """Two HELLOs judged in the wrong order leave the higher dial connected."""
        self.fleet.threads.hold("read")
        old = self.fleet.dial(self.pump, dial=1)
        new = self.fleet.dial(self.pump, dial=2)
        self.fleet.threads._held.rotate(1)
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(old.told, "duplicate")
        self.assertIsNone(new.told)
        self.assertIsNotNone(new.welcome)

    def test_older_end_removes_nothing(self) -> None:
        """The end of a displaced link, however late, does not remove the newer entry."""
        first = self.fleet.dial(self.pump, dial=1)
        first.wire.held = True
        second = self.fleet.dial(self.pump, dial=2)
        first.wire.held = False
        first.wire.cut()
        self.fleet.pump()
        live = self.fleet.gateway.presence.find("pump-1")
        assert live is not None
        self.assertEqual(live.epoch, second.welcome.epoch)
        row = self.fleet.device("pump-1")
        self.assertEqual(row.epoch, second.welcome.epoch)

    def test_displaced_link_that_stalls_is_cut_off(self) -> None:
        """A displaced peer that takes no bytes is cut off after two seconds."""
        first = self.fleet.dial(self.pump, dial=1)
        first.wire.held = True
        self.fleet.dial(self.pump, dial=2)
        self.assertTrue(first.wire.gateway.disconnecting)
        self.fleet.clock.advance(2.5)
        self.assertTrue(first.wire.gateway.aborted)

    def test_late_words_of_the_displaced(self) -> None:
        """What a displaced link still says is dropped."""
        first = self.fleet.dial(self.pump, dial=1)
        first.wire.held = True
        second = self.fleet.dial(self.pump, dial=2)
        talk = first.call("gateway.renew", request={"csr": ""})
        first.link.go_away(GoAway(code="none"), close=False)
        first.wire.held = False
        self.fleet.pump()
        self.assertEqual(talk.code, "link-lost")
        live = self.fleet.gateway.presence.find("pump-1")
        assert live is not None
        self.assertEqual(live.epoch, second.welcome.epoch)

    def test_epochs_rise_over_restarts(self) -> None:
        """After a restart every epoch is above every earlier one, though the count begins anew."""
        before = [self.fleet.dial(self.pump, dial=n).welcome.epoch for n in (1, 2, 3)]
        self.fleet.crash()
        after = self.fleet.dial(self.pump, dial=4).welcome.epoch
        self.assertEqual(before, sorted(set(before)))
        self.assertGreater(after, before[-1])
        self.assertEqual(after >> 32, (before[-1] >> 32) + 1)

    def test_goaway_departs(self) -> None:
        """A device that says GOAWAY is not live, and its last seen is when it was heard last."""
        end = self.fleet.dial(self.pump)
        before = self.fleet.device("pump-1").last_seen
        end.link.go_away(GoAway(code="none"), close=False)
        self.fleet.pump()
        self.assertIsNone(self.fleet.gateway.presence.find("pump-1"))
        self.fleet.advance(30)
        end.wire.cut()
        after = self.fleet.device("pump-1").last_seen
        assert before is not None
        assert after is not None
        # A heartbeat came at 25 s.
        self.assertGreater(after - before, 20_000_000)
        self.assertLess(after - before, 29_000_000)

    def test_links_that_leave_do_not_pile_up(self) -> None:
        """Rounds of connect and GOAWAY leave one link: the next one ends what was there."""
        for dial in range(1, 20):
            end = self.fleet.dial(self.pump, dial=dial)
            self.assertIsNotNone(end.welcome)
            end.link.go_away(GoAway(code="none"), close=False)
            self.fleet.pump()
        self.fleet.advance(5)
        self.assertLessEqual(len(self.fleet.gateway.devices.links()), 1)
        self.fleet.advance(70)
        self.assertEqual(self.fleet.gateway.devices.links(), [])

    def test_goaway_flood_costs_one_timer(self) -> None:
        """A device that says GOAWAY over and over gets its grace once."""
        end = self.fleet.dial(self.pump)
        end.link.go_away(GoAway(code="none"), close=False)
        self.fleet.pump()
        link = self.fleet.gateway.devices.links()[0]
        timers = len(self.fleet.wheel._slots)
        for _ in range(100):
            self.fleet.gateway.devices.goaway_received(link, GoAway(code="none"))
        self.fleet.clock.advance(1)
        self.assertLessEqual(len(self.fleet.wheel._slots), timers)
        self.assertEqual(len(self.fleet.gateway.devices._draining), 1)
        end.wire.cut()
        self.assertEqual(self.fleet.gateway.devices._draining, {})

    def test_rows_of_one_device_are_bounded(self) -> None:
        """A device that reconnects all the time adds a bounded number of audit rows."""
        for dial in range(1, 100):
            self.fleet.dial(self.pump, dial=dial).wire.cut()
        rows = len(self.fleet.audit("device.live")) + len(self.fleet.audit("device.lost"))
        self.assertLessEqual(rows, 70)

    def test_lines_about_one_peer_are_bounded(self) -> None:
        """A device that comes all the time, or a revoked key that does, does not fill the log."""
        lines: list[Any] = []
        globalLogPublisher.addObserver(lines.append)
        self.addCleanup(globalLogPublisher.removeObserver, lines.append)
        strange = self.fleet.enrol("pump-2").changed(spki=b"x" * 32)
        nobody = self.fleet.add_operator("eve").changed(spki=b"y" * 32)
        for peer, burst in ((self.pump, 100), (strange, 100), (nobody, 500)):
            lines.clear()
            for dial in range(1, burst + 51):
                self.fleet.dial(peer, dial=dial)
            self.assertLessEqual(len(lines), burst)
            self.assertGreater(len(lines), 10)
        lines.clear()
        self.fleet.advance(2)
        self.fleet.dial(strange, dial=1_000)
        self.assertIn("lines about this device left out", formatEvent(lines[-1]))

    def test_renamed_while_live(self) -> None:
        """A new name finds the live device; the old one finds nobody, and can be used again."""
        self.fleet.dial(self.pump)
        presence = self.fleet.gateway.presence
        presence.refresh(self.fleet.got(self.fleet.store.rename("pump-1", "pump-9")))
        self.assertIsNone(presence.find("pump-1"))
        heir = self.fleet.dial(self.fleet.enrol("pump-1"))
        live = presence.find("pump-1")
        assert live is not None
        self.assertIs(live.link, heir.gateway_link)
        presence.refresh(self.fleet.got(self.fleet.store.rename("pump-9", "pump-8")))
        self.assertIsNotNone(presence.find("pump-1"))
        self.assertIsNotNone(presence.find("pump-8"))


class StateTests(FleetTestCase):
    def _state(self) -> str:
        operator = self.fleet.dial(self.ann)
        state: str = self.fleet.listed(operator)["pump-1"]["state"]
        operator.wire.cut()
        return state

    def test_never_live_lost(self) -> None:
        """A device is never, then live, then lost; a cut link is no ghost in the next listing."""
        self.assertEqual(self._state(), "never")
        end = self.fleet.dial(self.pump)
        self.assertEqual(self._state(), "live")
        end.wire.cut()
        self.assertEqual(self._state(), "lost")

    def test_suspect_then_lost_by_silence(self) -> None:
        """A silent device is suspect after a missed heartbeat, and lost at a minute."""
        end = self.fleet.dial(self.pump)
        end.wire.held = True
        self.fleet.advance(44)
        self.assertEqual(self._state(), "live")
        self.fleet.advance(2)
        self.assertEqual(self._state(), "suspect")
        self.fleet.advance(SILENCE_SECONDS - 46 + 1)
        self.assertTrue(end.wire.gateway.aborted)
        self.assertEqual(self._state(), "lost")

    def test_last_seen_is_when_it_was_heard(self) -> None:
        """A device lost by silence was seen when it was heard last, not when that was noticed."""
        end = self.fleet.dial(self.pump)
        began = self.fleet.device("pump-1").last_seen
        end.wire.held = True
        self.fleet.advance(70)
        self.assertTrue(end.wire.gateway.aborted)
        row = self.fleet.device("pump-1")
        self.assertEqual(row.last_seen, began)
        metrics = self.fleet.gateway.metrics
        self.assertEqual(metrics.registry.get_sample_value("rshell_heartbeats_lost_total"), 1)

    def test_silence_of_a_live_device(self) -> None:
        """A listing says for how long a live device was silent, and nothing of a lost one."""
        end = self.fleet.dial(self.pump)
        operator = self.fleet.dial(self.ann)
        self.fleet.clock.advance(7)
        row = self.fleet.listed(operator)["pump-1"]
        self.assertAlmostEqual(row["silent_ms"], 7000, delta=300)
        end.wire.cut()
        self.assertIsNone(self.fleet.listed(operator)["pump-1"]["silent_ms"])

    def test_suspect_is_asked_once(self) -> None:
        """A device that falls silent gets one PING, and its answer ends the suspicion."""
        end = self.fleet.dial(self.pump)
        end.link._heartbeat.stop()
        sent = len(end.wire.gateway.sent)
        self.fleet.advance(44)
        self.assertEqual(len(end.wire.gateway.sent), sent)
        self.fleet.advance(8)
        self.assertEqual(len(end.wire.gateway.sent), sent + 1)
        self.assertEqual(self._state(), "live")
        self.fleet.advance(40)
        self.assertIsNone(end.lost)

    def test_heartbeats_keep_it_live(self) -> None:
        """Heartbeats alone keep a device live for an hour."""
        end = self.fleet.dial(self.pump)
        self.fleet.advance(3600, step=1)
        self.assertIsNone(end.lost)
        self.assertEqual(self._state(), "live")

    def test_listing(self) -> None:
        """A live device's row names its gateway, epoch, address and times."""
        end = self.fleet.dial(self.pump, software="rshell-agent/9")
        row = self.fleet.listed(self.fleet.dial(self.ann))["pump-1"]
        self.assertEqual(row["epoch"], end.welcome.epoch)
        self.assertEqual(row["address"], "192.0.2.1:40000")
        self.assertEqual(row["gateway"], self.fleet.gateway.name)
        self.assertEqual(row["agent_version"], "rshell-agent/9")
        for field in ("connected_at", "last_seen"):
            self.assertRegex(row[field], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*Z$")


class StopTests(FleetTestCase):
    def test_goaway_at_stop(self) -> None:
        """A stopping gateway tells everybody when to come back, and waits until they heard."""
        operator, device = self.both()
        from twisted.internet.defer import Deferred

        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.assertNoResult(stopped)
        self.fleet.advance(1)
        self.fleet.got(stopped)
        for end in (operator, device):
            self.assertEqual(end.told, "shutdown")
            assert end.goaway is not None
            self.assertEqual(end.goaway.retry_min_ms, 2000)

    def test_peers_that_do_not_hear(self) -> None:
        """Peers that take no bytes hold a stop up for three seconds at most."""
        from twisted.internet.defer import Deferred

        device = self.fleet.dial(self.pump)
        device.wire.held = True
        stopped = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.fleet.clock.pump([0.25] * 16)
        self.fleet.got(stopped)
