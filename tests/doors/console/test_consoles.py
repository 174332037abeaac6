"""Consoles in a fleet in memory: who may, what is written down, how they end."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet.defer import Deferred

from rshell.doors.console.door import MAX_CONSOLES
from rshell.doors.console.screen import RESTORE
from rshell.doors.console.session import MAX_HELD_BYTES
from rshell.identity.join_string import token_hash
from rshell.identity.keys import fingerprint, make_csr, new_key, spki_hash
from rshell.link.core.messages import Join
from rshell.store.records import Grant, NewToken
from tests.doors.console.ends import ConsoleTestCase, Person
from tests.gateway.ends import DeviceEnd


class RightTests(ConsoleTestCase):
    def test_role(self) -> None:
        """Without a role that grants it there is no console, and the refusal is written down."""
        self.fleet.add_role("everything", Grant(handlers=("*",), logins=("*",)), Grant(admin=True))
        self.fleet.add_operator("bob", "everything")
        session, person = self.sit("bob")
        assert person.outcome is not None
        self.assertFalse(person.opened)
        self.assertEqual((person.outcome.status, person.outcome.code), ("refused", "policy"))
        (row,) = self.fleet.audit("console", operator="bob")
        self.assertEqual((row.record.status, row.record.code), ("refused", "policy"))
        self.type(session, "1+1\r")
        self.assertEqual(self.fleet.audit("console.line"), [])

    def test_role_lost(self) -> None:
        """The grant gives a console; who loses the role loses the console within a second."""
        self.fleet.add_role("python", Grant(console=True))
        self.fleet.add_operator("bob", "python")
        session, person = self.sit("bob")
        self.type(session, "fleet.devices()\r")
        self.assertIn(b"pump-1  never", person.seen)
        self.fleet.run(self.fleet.gateway.rights.assign("bob", (), ("python",)))
        self.type(session, "'ra' + 'n'\r")
        self.assertNotIn(b"'ran'", person.seen)
        self.fleet.advance(0.9)
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "policy")

    def test_revoked(self) -> None:
        """Revoking ends a console within a second, and its link."""
        _, person = self.sit()
        self.assertEqual(self.consoles.count, 1)
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("ann"))
        self.fleet.advance(0.9)
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "revoked")
        self.assertEqual((self.consoles.count, self.watchdog.inside), (0, 0))

    def test_limits(self) -> None:
        """A console at which nobody types ends by its role's limit, after a warning; so by time."""
        self.fleet.add_role("python", Grant(console=True, idle_limit=60, time_limit=180))
        self.fleet.add_operator("bob", "python")
        session, person = self.sit("bob")
        self.fleet.advance(50)
        self.assertIn(b"rshell: this session ends in 15 seconds: nobody types here", person.seen)
        self.type(session, "1\r")
        self.fleet.advance(58)
        self.assertIsNone(person.outcome)
        self.fleet.advance(3)
        assert person.outcome is not None
        self.assertEqual((person.outcome.status, person.outcome.code), ("timeout", "idle-limit"))
        self.assertIn("the limit of python/1", person.outcome.message or "")
        session, person = self.sit("bob")
        for _ in range(4):
            self.fleet.advance(46)
            self.type(session, "1\r")
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "time-limit")

    def test_limit_in_a_shell(self) -> None:
        """A console that ends while a device has its terminal leaves that in order."""
        self.fleet.add_role("python", Grant(console=True, idle_limit=60))
        self.fleet.add_operator("bob", "python")
        device: DeviceEnd = self.fleet.dial(self.fleet.enrol("pump-5"))
        session, person = self.sit("bob")
        self.type(session, 'fleet["pump-5"].shell()\r')
        device.accept()
        self.turn()
        self.assertIn(b"has the terminal", person.seen)
        self.assertNotIn(RESTORE, person.seen)
        self.fleet.advance(65)
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "idle-limit")
        self.assertTrue(person.seen.endswith(RESTORE), person.seen)

    def test_too_many(self) -> None:
        """The number of consoles is limited, and a closed one makes room."""
        sessions = [self.sit()[0] for _ in range(MAX_CONSOLES)]
        _, person = self.sit()
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "overload")
        sessions[0].detach()
        self.turn()
        _, person = self.sit()
        self.assertTrue(person.opened)

    def test_unreadable_request(self) -> None:
        """A request that cannot be read is refused, whatever is wrong with it."""
        for request in (
            {"terminal": 3},
            {"terminal": {"rows": -1}},
            {"terminal": {"term": "\x1b"}},
            {"line": 5},
            {"line": base64.b64encode(b"x" * 100_000).decode()},
        ):
            _, person = self.sit(**request)
            assert person.outcome is not None
            self.assertEqual(person.outcome.code, "bad-request", request)

    def test_vouched_link(self) -> None:
        """A link that is vouched for may what its operator may; it has no key to renew."""
        session, _ = self.sit()
        client = session._client
        assert client is not None
        found: list[Any] = []
        Deferred.fromCoroutine(client.whoami()).addBoth(found.append)
        self.turn()
        self.assertEqual(found[0].name, "ann")
        Deferred.fromCoroutine(client.call_gateway("renew", {"csr": ""})).addBoth(found.append)
        self.turn()
        self.assertEqual(found[1].value.code, "bad-request")


class LineTests(ConsoleTestCase):
    def test_committed_before_it_runs(self) -> None:
        """A line runs once its row is on disk, not before."""
        session, person = self.sit()
        self.fleet.threads.hold("write")
        self.type(session, "'ra' + 'n'\r")
        self.assertNotIn(b"'ran'", person.seen)
        self.fleet.threads.release()
        self.turn()
        self.assertIn(b"'ran'", person.seen)
        (row,) = self.fleet.audit("console.line")
        self.assertEqual(dict(row.record.details), {"line": "'ra' + 'n'", "number": 1})
        self.assertEqual((row.record.operator, row.record.door), ("ann", "ssh"))

    def test_not_written_not_run(self) -> None:
        """What cannot be written down is not run, and that is told."""
        session, person = self.sit()
        self.fleet.got(self.fleet.store.close())
        self.type(session, "'ra' + 'n'\r")
        self.assertNotIn(b"'ran'", person.seen)
        self.assertIn(b"not run, because it cannot be written down", person.seen)

    def test_end_is_written(self) -> None:
        """How a console ended is written, with the number of its lines."""
        session, person = self.sit()
        self.type(session, "1\r2\r")
        self.type(session, b"\x04")
        assert person.outcome is not None
        self.assertEqual(person.outcome.status, "ok")
        opened, ended = self.fleet.audit(session=session.session)[0::3]
        self.assertEqual((opened.record.kind, ended.refers), ("console", opened.seq))
        self.assertEqual(dict(ended.record.details)["lines"], 2)

    def test_typed_ahead(self) -> None:
        """What is typed while a line runs waits for it."""
        session, person = self.sit()
        self.fleet.threads.hold("write")
        self.type(session, "1+1\r")
        self.type(session, "2+3\r")
        self.fleet.threads.release()
        self.turn()
        self.assertRegex(person.seen, rb"(?s)\n2\r\n.*\n5\r\n")

    def test_gone_while_it_opens(self) -> None:
        """Somebody who leaves before the row is written leaves nothing open."""
        self.fleet.threads.hold("write")
        session, person = self.sit()
        session.detach()
        self.fleet.threads.release()
        self.turn()
        self.assertFalse(person.opened)
        self.assertEqual(self.consoles.count, 0)
        self.assertEqual(self.fleet.got(self.fleet.store.unfinished_audit()), [])

    def test_nobody_reads(self) -> None:
        """What is printed for a terminal that takes nothing is bounded, and the loss is told."""
        session, person = self.sit()
        session.pause()
        self.type(session, "for n in range(400): print('x' * 9000)\r\r")
        self.assertLessEqual(len(session._held), MAX_HELD_BYTES)
        session.resume()
        self.turn()
        self.assertIn(b"bytes of output were dropped", person.seen)

    def test_program_nobody_reads(self) -> None:
        """A program whose output was dropped says so at its end, on standard error."""
        person = Person()
        line = "for n in range(400): print('x' * 9000)\nawait client.whoami()"
        request = {"line": base64.b64encode(line.encode()).decode()}
        session = self.consoles.for_door(self.caller(), "exec", request, person)
        session.pause()
        session.start()
        self.turn()
        self.assertLessEqual(len(person.seen), MAX_HELD_BYTES)
        self.assertIn(b"bytes of output were dropped", person.errors)

    def test_idle(self) -> None:
        """A console nobody types at lives on: its link keeps itself alive."""
        session, person = self.sit()
        self.fleet.advance(300)
        self.assertIsNone(person.outcome)
        self.type(session, "(await client.whoami()).name\r")
        self.assertIn(b"\n'ann'\r\n", person.seen)

    def test_gateway_stops(self) -> None:
        """A gateway that goes down on purpose ends its consoles, and says why."""
        _, person = self.sit()
        stopping = Deferred.fromCoroutine(self.fleet.gateway.stop())
        self.fleet.advance(5)
        self.successResultOf(stopping)
        assert person.outcome is not None
        self.assertEqual(person.outcome.code, "shutdown")

    def test_interrupt_while_committing(self) -> None:
        """Ctrl-C before the row is written keeps the line from running."""
        session, person = self.sit()
        self.fleet.threads.hold("write")
        self.type(session, "'ra' + 'n'\r")
        self.type(session, b"\x03")
        self.fleet.threads.release()
        self.turn()
        self.assertNotIn(b"'ran'", person.seen)
        self.assertIn(b"interrupted", person.seen)

    def test_deferreds(self) -> None:
        """Deferreds are numbered, and told when they fire or fail."""
        session, person = self.sit()
        self.type(session, "from twisted.internet.defer import Deferred\r")
        self.type(session, "d, e = Deferred(), Deferred()\rd\rd\re\r")
        self.assertEqual(person.seen.count(b"<Deferred #1>"), 2)
        self.type(session, "d.callback('x\\x1b')\r")
        self.assertIn(b"Deferred #1 fired: 'x\\x1b'", person.seen)
        self.type(session, "e.errback(ValueError('no\\x07'))\r")
        self.assertIn("Deferred #2 failed: no\ufffd".encode(), person.seen)

    def test_coroutine(self) -> None:
        """A coroutine that is typed alone is awaited; a Call that is kept is not begun."""
        session, person = self.sit()
        self.type(session, "async def answer(): return 41 + 1\r\ranswer()\r")
        self.assertIn(b"\n42\r\n", person.seen)
        self.type(session, "[fleet['pump-1'].run('id')]\r")
        self.assertIn(b"not begun; await it", person.seen)

    def test_leaving(self) -> None:
        """exit, exit(), quit() and SystemExit leave."""
        for line in ("exit", "exit()", "quit()", "raise SystemExit"):
            session, person = self.sit()
            self.type(session, f"{line}\r")
            self.assertIsNotNone(person.outcome, line)


class ProgramTests(ConsoleTestCase):
    def run_line(self, line: str) -> tuple[bytes, bytes, int | None]:
        _, person = self.sit(line=base64.b64encode(line.encode()).decode())
        assert person.outcome is not None
        return person.seen, person.errors, person.outcome.exit_code

    def test_line(self) -> None:
        """A program's output is plain, its error goes to stderr with status 1."""
        self.assertEqual(
            self.run_line("fleet\n1+1"), (self.run_line("fleet")[0] + b"2\n", b"", None)
        )
        seen, errors, status = self.run_line("print(1)\n1/0\nprint(2)")
        self.assertEqual((seen, status), (b"1\n", 1))
        self.assertTrue(errors.endswith(b"ZeroDivisionError: division by zero\n"))
        self.assertNotIn(b"\x1b", errors)

    def test_no_terminal_to_take(self) -> None:
        """A shell needs a terminal."""
        self.assertIn(b"a shell needs a terminal", self.run_line("fleet['pump-1'].shell()")[1])

    def test_from_link(self) -> None:
        """An operator's link opens one as ``gateway.console``; without the right it is refused."""
        ann = self.fleet.dial(self.ann)
        line = base64.b64encode(b"6*7").decode()
        talk = ann.call("gateway.console", request={"line": line})
        self.turn()
        self.assertEqual((bytes(talk.data), talk.outcome), (b"42\n", {"status": "ok"}))
        self.fleet.add_role("watch", Grant(handlers=("tail",)))
        bob = self.fleet.dial(self.fleet.add_operator("bob", "watch"))
        talk = bob.call("gateway.console", request={"line": line})
        self.turn()
        self.assertEqual(talk.code, "policy")

    def test_link_lost(self) -> None:
        """A console ends with the link that carries it."""
        ann = self.fleet.dial(self.ann)
        ann.call("gateway.console", request={"terminal": {}})
        self.turn()
        self.assertEqual(self.consoles.count, 1)
        ann.wire.cut()
        self.turn()
        self.assertEqual(self.consoles.count, 0)


class PendingTests(ConsoleTestCase):
    def test_lets_devices_in(self) -> None:
        """A device that waits is listed by its fingerprint, and let in or refused from there."""
        token = NewToken(
            id=b"12345678",
            secret_hash=token_hash(b""),
            kind="device",
            expires_at=self.fleet.gateway.now_us() + 3_600_000_000,
            created_by="ann",
            uses_max=9,
            mode="accept",
        )
        self.fleet.got(self.fleet.store.add_token(token))
        keys = [new_key(), new_key()]
        for key in keys:
            request = Join(kind="device", id=token.id, secret=b"", csr=make_csr(key), name="tap")
            self.fleet.run(self.fleet.gateway.joins.join(request, "192.0.2.7:1"))
        session, person = self.sit()
        self.type(session, "pending\r")
        one, two = (fingerprint(spki_hash(key.public_key())) for key in keys)
        for text in (one, two, "192.0.2.7:1"):
            self.assertIn(text.encode(), person.seen)
        self.type(session, f"pending.accept({one!r}, name='tap-7', site='b')\r")
        self.type(session, f"pending.reject({two!r}, 'nobody')\r")
        self.assertIn(b"no device waits as 'nobody'", person.seen)
        self.assertEqual(dict(self.fleet.device("tap-7").labels), {"site": "b"})
        self.assertEqual(self.fleet.gateway.pending.count, 0)
