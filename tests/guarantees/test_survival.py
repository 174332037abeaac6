"""What survives the death of each process, and what is said when something does not."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from rshell.testing import Recorder, pattern
from tests.guarantees.case import GuaranteeCase

SIZE = 600_000


class GatewayDeathTests(GuaranteeCase):
    def test_killed(self) -> None:
        """A gateway is killed, another takes its place: a transfer goes on, and ran once."""
        exchange = self.exchange(SIZE, signals=("USR1",))
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        self.fleet.crash("gateway")
        self.fleet.advance(5)
        self.assertIsNotNone(exchange.session.away)
        self.fleet.start("gateway")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])
        attempts = [row.record.attempt or 0 for row in self.fleet.audit("session")]
        self.assertEqual(attempts, sorted(attempts))
        self.assertGreater(attempts[-1], 1)
        self.assert_nothing_left()

    def test_killed_again_and_again(self) -> None:
        """Gateways that die every few seconds only make it slower."""
        exchange = self.exchange(SIZE)
        for _ in range(6):
            self.fleet.advance(1.5)
            self.fleet.crash("gateway")
            self.fleet.advance(0.5)
            self.fleet.start("gateway")
        self.finish(exchange, limit_seconds=600)
        self.assertEqual(self.pump.runs, [exchange.argv])

    def test_before_the_row(self) -> None:
        """A gateway that dies before a command's row is on disk has run nothing."""
        self.fleet.crash_at("store.before-commit")
        exchange = self.exchange(1000)
        self.fleet.advance(1)
        self.assertFalse(self.fleet.gateway.alive)
        self.assertEqual(self.pump.runs, [])
        self.fleet.start("gateway")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])

    def test_after_the_row(self) -> None:
        """A gateway that dies just after the row: the command runs once, by the next attempt."""
        self.fleet.crash_at("store.committed")
        exchange = self.exchange(1000)
        self.fleet.advance(1)
        self.assertFalse(self.fleet.gateway.alive)
        self.assertEqual(self.pump.runs, [])
        self.fleet.start("gateway")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])
        rows = self.fleet.audit("session")
        self.assertEqual(rows[0].record.attempt, 1)

    def test_planned(self) -> None:
        """A gateway that is restarted on purpose costs a shell nothing."""
        received = Recorder()
        session = self.ann.client.open("pump-1", "shell", {}, received)
        self.fleet.run_until(lambda: b"$ " in received.stdout)
        self.fleet.restart_gateway()
        session.write(b"after\n")
        self.fleet.run_until(lambda: b"said: after" in received.stdout, 60)
        session.write(b"exit 3\n")
        outcome: Any = self.fleet.run(session.outcome)
        self.assertEqual((outcome.status, outcome.exit_code), ("exit", 3))
        self.assertEqual(bytes(received.stdout), b"$ said: after\n$ ")


class AgentDeathTests(GuaranteeCase):
    def test_killed(self) -> None:
        """An agent is killed and started again: the keeper's command goes on, and ran once."""
        exchange = self.exchange(SIZE, signals=("USR2",))
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        self.fleet.crash("pump-1")
        self.fleet.advance(3)
        self.fleet.start("pump-1")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])
        self.assertEqual(self.pump.keepers_ever, 1)
        self.assert_nothing_left()

    def test_killed_at_every_frame(self) -> None:
        """An agent may be killed after any number of bytes of the stream."""
        for offset in range(50, 2600, 150):
            runs = len(self.pump.runs)
            self.fleet.cut("pump-1", offset, "down")
            wire = self.fleet.wire("pump-1")
            exchange = self.exchange(1500, offset)
            self.await_cut(wire, exchange)
            if not exchange.over:
                self.fleet.crash("pump-1")
                self.fleet.advance(1)
                self.fleet.start("pump-1")
            self.finish(exchange)
            self.assertEqual(self.pump.runs[runs:], [exchange.argv], offset)
            self.settle()

    def test_handler_in_the_agent(self) -> None:
        """What runs in the agent itself dies with it, and the operator is told so."""
        received = Recorder()
        session = self.ann.client.open("pump-1", "steps", {"count": 2, "size": 10}, received)
        self.fleet.run_until(lambda: len(received.events) == 2)
        self.fleet.crash("pump-1")
        self.fleet.advance(1)
        self.fleet.start("pump-1")
        outcome: Any = self.fleet.run(session.outcome)
        self.assertEqual((outcome.status, outcome.code), ("lost", "lost"))
        self.assertEqual(self.steps.runs, 1)

    def test_keeper_killed(self) -> None:
        """A keeper that is killed takes its sessions along, and the operator is told so."""
        received = Recorder()
        session = self.ann.client.open("pump-1", "shell", {}, received)
        self.fleet.run_until(lambda: b"$ " in received.stdout)
        self.fleet.crash("pump-1/keeper")
        outcome: Any = self.fleet.run(session.outcome)
        self.assertEqual((outcome.status, outcome.code), ("lost", "lost"))
        # The next one serves.
        self.settle()
        self.finish(self.exchange(1000))
        self.assertEqual(self.pump.keepers_ever, 2)


class OperatorDeathTests(GuaranteeCase):
    def shell(self) -> tuple[Any, Recorder]:
        """Open a shell and see its prompt."""
        received = Recorder()
        session = self.ann.client.open("pump-1", "shell", {}, received)
        self.fleet.run_until(lambda: b"$ " in received.stdout)
        return session, received

    def test_attach(self) -> None:
        """A client is killed; its shell lives on and is continued from another machine."""
        self.shell()
        self.fleet.crash("ann")
        self.fleet.advance(300)
        other = self.fleet.another_client("ann")
        (info,) = self.fleet.run(other.client.sessions())
        self.assertEqual((info.device, info.state), ("pump-1", "detached"))
        received = Recorder()
        session = other.client.attach(info, received)
        session.write(b"again\n")
        self.fleet.run_until(lambda: b"said: again" in received.stdout)
        session.write(b"exit\n")
        outcome: Any = self.fleet.run(session.outcome)
        self.assertEqual(outcome.status, "ok")
        self.assertEqual(self.pump.runs, [[]])
        self.assertEqual(self.fleet.run(other.client.sessions()), [])

    def test_command(self) -> None:
        """A command whose client was killed waits like a pipe, and is collected from elsewhere."""
        exchange = self.exchange(SIZE)
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        self.fleet.crash("ann")
        self.fleet.advance(120)
        other = self.fleet.another_client("ann")
        (info,) = self.fleet.run(other.client.sessions())
        received = Recorder()
        session = other.client.attach(info, received)
        session.cancel()
        outcome: Any = self.fleet.run(session.outcome)
        self.assertEqual((outcome.status, outcome.signal), ("signal", "TERM"))
        # What the dead client had acknowledged is gone; what follows it is whole.
        self.assertGreater(len(received.stdout), 0)
        self.assertIn(bytes(received.stdout), pattern(SIZE))
        self.assertEqual(self.pump.runs, [exchange.argv])

    def vanish(self, count: int = 2) -> None:
        """Begin a handler that runs in the agent, and lose its operator's client for good."""
        received = Recorder()
        self.ann.client.open("pump-1", "steps", {"count": count, "size": 10}, received)
        self.fleet.run_until(lambda: len(received.events) == count)
        self.fleet.crash("ann")

    def told(self) -> list[tuple[Any, ...]]:
        """Return the outcomes that the device reported."""
        rows = [row.record for row in self.fleet.audit("session.outcome")]
        return [(row.operator, row.handler, row.status, row.code) for row in rows]

    def test_handler_in_the_agent(self) -> None:
        """A handler in the agent whose client was killed is lost, and that is known everywhere."""
        self.vanish()
        self.fleet.advance(30)
        other = self.fleet.another_client("ann")
        (info,) = self.fleet.run(other.client.sessions())
        self.assertEqual((info.handler, info.state), ("steps", "detached"))
        self.fleet.advance(150)
        self.assertEqual(self.fleet.run(other.client.sessions()), [])
        self.assertEqual(self.told(), [("ann", "steps", "lost", "link-lost")])
        self.assertEqual(self.pump.service._links.dispatcher.session_reports(), [])
        self.fleet.advance(300)
        self.assertEqual(len(self.told()), 1)

    def test_handler_in_the_agent_of_an_absent_device(self) -> None:
        """Its device may be away when the grace ends: it tells when it is back."""
        self.vanish()
        self.fleet.freeze("pump-1")
        self.fleet.advance(200)
        self.assertEqual(self.told(), [])
        self.fleet.crash("gateway")
        self.fleet.start("gateway")
        self.fleet.thaw("pump-1")
        self.fleet.run_until(self.connected, 300)
        self.fleet.advance(5)
        self.assertEqual(self.told(), [("ann", "steps", "lost", "link-lost")])
        other = self.fleet.another_client("ann")
        self.assertEqual(self.fleet.run(other.client.sessions()), [])

    def test_revoked_while_away(self) -> None:
        """An operator is revoked while the device is away: on its return the shell is ended."""
        bob = self.fleet.add_operator("bob")
        received = Recorder()
        bob.client.open("pump-1", "shell", {}, received)
        self.fleet.run_until(lambda: b"$ " in received.stdout)
        self.fleet.freeze("pump-1")
        self.fleet.advance(100)
        self.fleet.run(self.ann.client.revoke("operator", "bob"))
        assert self.pump.keeper is not None
        self.assertEqual(len(self.pump.keeper.running), 1)
        self.fleet.thaw("pump-1")
        self.fleet.run_until(self.connected, 300)
        self.fleet.advance(10)
        self.assertEqual(self.pump.keeper.running, [])
        self.assertFalse(bob.uplink.link)

    def test_handler_in_the_agent_revoked(self) -> None:
        """An operator is revoked behind a dead link: on the device's return it is ended."""
        bob = self.fleet.add_operator("bob")
        received = Recorder()
        bob.client.open("pump-1", "steps", {"count": 1, "size": 10}, received)
        self.fleet.run_until(lambda: len(received.events) == 1)
        self.fleet.freeze(self.fleet.wire("pump-1"))
        self.fleet.run(self.ann.client.revoke("operator", "bob"))
        self.fleet.cut("pump-1")
        self.fleet.advance(20)
        self.assertTrue(self.connected())
        reports = self.pump.service._links.dispatcher.session_reports()
        self.assertEqual([each.outcome and each.outcome.code for each in reports], ["cancelled"])
        self.fleet.advance(150)
        self.assertEqual(self.told(), [("bob", "steps", "error", "cancelled")])

    def test_grace_is_over(self) -> None:
        """A link that stays away for longer than the grace: the client says what is not known."""
        self.settle()
        exchange = self.exchange(SIZE)
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        self.fleet.freeze("pump-1")
        self.fleet.run_until(lambda: exchange.over, 200)
        assert exchange.outcome is not None
        self.assertEqual((exchange.outcome.status, exchange.outcome.code), ("lost", "link-lost"))
        # And yet it can be gone on with.
        self.fleet.thaw("pump-1")
        self.settle()
        infos = self.fleet.run(self.ann.client.sessions())
        self.assertEqual([info.device for info in infos], ["pump-1"])

    def test_everything_at_once(self) -> None:
        """Gateway and agent are killed while the operator's link is frozen: it still goes on."""
        exchange = self.exchange(SIZE)
        self.fleet.run_until(lambda: len(exchange.recorder.stdout) > 0)
        self.fleet.freeze("ann")
        self.fleet.crash("gateway")
        self.fleet.crash("pump-1")
        self.fleet.advance(8)
        self.fleet.start("gateway")
        self.fleet.start("pump-1")
        self.fleet.advance(2)
        self.fleet.thaw("ann")
        self.finish(exchange)
        self.assertEqual(self.pump.runs, [exchange.argv])
        self.assert_nothing_left()


class AskingTests(GuaranteeCase):
    def test_calls_are_asked_again(self) -> None:
        """A listing whose link breaks is asked again and answered."""
        self.fleet.freeze(self.fleet.wire("ann"))
        listing: Deferred[Any] = Deferred.fromCoroutine(self.ann.client.devices())
        self.fleet.advance(1)
        self.fleet.cut("ann")
        devices = self.fleet.run(listing)
        self.assertEqual([device.name for device in devices], ["pump-1"])
