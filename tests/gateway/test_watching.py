"""Other people's sessions: who may look on, who may take over, and what their owners are told."""

from __future__ import annotations

from typing import Any

from rshell.access.recordings import RecordingPolicy
from rshell.link.core.messages import Outcome, Positions
from rshell.store.records import Grant
from tests.gateway.ends import OperatorEnd, Talk
from tests.gateway.fleet import Fleet
from tests.gateway.gate import SESSION, GateTestCase

FEATURES = ["resume", "notices"]
TERMINAL: dict[str, Any] = {"terminal": {"rows": 24, "columns": 80, "term": "xterm"}}
RESUME = Positions(0, 262144, 0)


class AnothersSessionCase(GateTestCase):
    """Ann's session; bob has what a test gives him."""

    def setUp(self) -> None:
        super().setUp()
        self.fleet.add_role("ops", Grant(handlers=("*",), logins=("*",)))
        self.fleet.add_role("eyes", Grant(select="pump-*", watch=True))
        self.zoe = self.fleet.add_operator("zoe", "ops")
        self.operator: OperatorEnd = self.fleet.dial(self.zoe, features=FEATURES)

    def dial(self, name: str, *roles: str) -> OperatorEnd:
        end: OperatorEnd = self.fleet.dial(self.fleet.add_operator(name, *roles), features=FEATURES)
        return end

    def join(self, end: OperatorEnd, **fields: Any) -> tuple[Talk, Talk]:
        talk = end.call("shell", device="pump-1", **fields)
        self.fleet.pump()
        far = self.device.accept()
        self.fleet.pump()
        return talk, far

    def notices(self, end: OperatorEnd) -> list[tuple[str, str]]:
        return [(one.code, one.message) for all in end.answers for one in all.notices]

    def ended(self) -> list[bytes]:
        """Return the sessions that the device was told to end."""
        return [session for all in self.device.answers for session in all.end]

    def rows(self, end: OperatorEnd, **request: Any) -> list[dict[str, Any]]:
        talk = end.call("gateway.sessions", session=b"V" * 16, request=request)
        self.fleet.pump()
        found: list[dict[str, Any]] = talk.answer()
        return found


class WatchTests(AnothersSessionCase):
    def test_watching(self) -> None:
        """Who may watch gets the device's copy, in the owner's name, and the owner is told."""
        talk, _ = self.begin()
        bobs = self.dial("bob", "eyes")
        _, copy = self.join(bobs, view=True)
        _, told = self.device.requests[-1]
        self.assertEqual((told.operator, told.view), ("zoe", True))
        ((code, message),) = self.notices(self.operator)
        self.assertEqual(code, "watched")
        self.assertRegex(message, r"^bob \(link, 192\.0\.2\.\d+:\d+\) watches this session$")
        (row,) = self.rows(bobs, all=True)
        self.assertEqual([one["operator"] for one in row["watchers"]], ["bob"])
        self.assertEqual((row["operator"], row["driver"]), ("zoe", "zoe"))
        copy.channel.reset("cancelled", "")
        self.fleet.pump()
        self.assertRegex(self.notices(self.operator)[-1][1], "bob .* does not watch any more")
        self.assertIsNone(talk.code)

    def test_audited(self) -> None:
        """Beginning and end are in the log: who, whose, by which grant."""
        self.begin()
        talk, _ = self.join(self.dial("bob", "eyes"), view=True)
        talk.channel.reset("cancelled", "seen enough")
        self.fleet.pump()
        (row,) = self.fleet.audit("session", operator="bob", opens=True)
        details = row.record.details
        self.assertEqual(
            (details["view"], details["session_of"], details["rule"]), (True, "zoe", "eyes/1")
        )
        (end,) = [one for one in self.fleet.audit("session") if one.refers == row.seq]
        self.assertEqual((end.record.status, end.record.code), ("viewed", "left"))

    def test_administrator(self) -> None:
        """An administrator watches without a grant of its own."""
        self.begin()
        self.join(self.dial("bob"), view=True)
        (row,) = self.fleet.audit("session", operator="bob", opens=True)
        self.assertEqual(row.record.details["rule"], "admin")

    def test_who_may_not(self) -> None:
        """Handlers let nobody watch; of a device that is not theirs they learn nothing."""
        self.begin()
        seen = len(self.device.requests)
        other = self.fleet.add_role("valves", Grant(select="valve-*", watch=True))
        for name, role, code in (("bob", "ops", "policy"), ("eve", other, "not-found")):
            end = self.dial(name, role)
            self.assertEqual(self.ask(end, view=True).code, code)
            self.assertEqual(self.ask(end, attempt=2, resume=RESUME).code, code)
        self.assertEqual(len(self.device.requests), seen)
        self.assertEqual(self.notices(self.operator), [])

    def test_own(self) -> None:
        """One's own session on a second screen is nobody's business."""
        self.begin()
        self.join(self.operator, view=True)
        self.assertEqual(self.notices(self.operator), [])

    def test_driver_who_comes_later(self) -> None:
        """Whoever attaches is told who watches already."""
        self.begin()
        self.join(self.dial("bob", "eyes"), view=True)
        self.operator.answers.clear()
        self.join(self.operator, attempt=2, resume=RESUME)
        self.assertEqual([code for code, _ in self.notices(self.operator)], ["watched"])

    def test_losing_the_right(self) -> None:
        """A grant to watch that is taken away ends the watching, not what is watched."""
        talk, _ = self.begin()
        copy, _ = self.join(self.dial("bob", "eyes"), view=True)
        self.fleet.run(self.fleet.gateway.rights.assign("bob", (), ("eyes",)))
        self.fleet.pump()
        self.assertEqual((copy.code, talk.code, self.ended()), ("policy", None, []))

    def test_owner_loses_the_right(self) -> None:
        """With its owner's right the session ends for everybody."""
        talk, _ = self.begin()
        copy, _ = self.join(self.dial("bob", "eyes"), view=True)
        self.fleet.run(self.fleet.gateway.rights.assign("zoe", (), ("ops",)))
        self.fleet.pump()
        self.assertEqual((talk.code, copy.code), ("policy", "policy"))
        self.assertIn(SESSION, self.ended())

    def test_not_told(self) -> None:
        """The configuration may say that drivers are not told."""
        self.fleet = Fleet(self, tell_watched=False)
        self.pump = self.fleet.enrol("pump-1")
        self.device = self.fleet.dial(self.pump)
        self.operator = self.dial("zoe")
        self.begin()
        bobs = self.dial("bob")
        self.join(bobs, view=True)
        self.assertEqual(self.notices(self.operator), [])
        self.assertEqual(self.rows(bobs, all=True)[0]["viewers"], 1)


class TakeOverTests(AnothersSessionCase):
    def test_taken_over(self) -> None:
        """An administrator goes on with it, as its owner's; who held it is told by whom."""
        talk, _ = self.begin()
        bobs = self.dial("bob")
        mine, far = self.join(bobs, attempt=2, resume=RESUME)
        _, told = self.device.requests[-1]
        self.assertEqual((told.operator, told.attempt), ("zoe", 2))
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "duplicate")
        self.assertRegex(talk.closed[1], r"^taken over by bob \(link, ")
        (row,) = self.rows(bobs, all=True)
        self.assertEqual((row["operator"], row["driver"]), ("zoe", "bob"))
        mine.channel.write(b"whoami\n")
        self.fleet.pump()
        self.assertEqual(bytes(far.data), b"whoami\n")
        (opened,) = self.fleet.audit("session", operator="bob", opens=True)
        self.assertEqual(opened.record.details["session_of"], "zoe")

    def test_only_joined(self) -> None:
        """Nothing is asked of a device in another's name but to join what runs."""
        self.begin(login="web", request={"environment": []})
        bobs = self.dial("bob")
        seen = len(self.device.requests)
        self.assertEqual(self.ask(bobs, attempt=2).code, "bad-request")
        self.assertEqual(len(self.device.requests), seen)
        claims = {"login": "root", "request": {"line": "cm0gLXJmIC8="}, "resume": RESUME}
        bobs.ask("exec", attempt=2, **claims)
        self.fleet.pump()
        _, told = self.device.requests[-1]
        self.assertEqual((told.handler, told.login, told.request), ("shell", "web", {}))

    def test_revoked_administrator(self) -> None:
        """Revoking who had joined another's session does not end that, once they are gone."""
        self.begin()
        end = self.dial("bob")
        _, far = self.join(end, attempt=2, resume=RESUME)
        self.fleet.gateway.sessions.forget(self.pump.owner, SESSION)
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual((end.told, far.code, self.ended()), ("revoked", "link-lost", []))

    def test_taken_back(self) -> None:
        """Its owner takes it back by a higher attempt."""
        self.begin()
        mine, _ = self.join(self.dial("bob"), attempt=2, resume=RESUME)
        self.join(self.operator, attempt=3, resume=RESUME)
        self.assertEqual(mine.code, "duplicate")

    def test_no_administrator_any_more(self) -> None:
        """Who took it over as an administrator loses it with that role; it is left to its owner."""
        self.begin()
        self.fleet.add_role("boss", Grant(admin=True))
        mine, far = self.join(self.dial("bob", "boss", "ops"), attempt=2, resume=RESUME)
        self.fleet.run(self.fleet.gateway.rights.assign("bob", (), ("boss",)))
        self.fleet.pump()
        assert mine.closed is not None
        self.assertEqual(mine.closed[0], "duplicate")
        self.assertIn("no longer granted", mine.closed[1])
        self.assertEqual((far.code, self.ended()), ("link-lost", []))
        self.assertEqual(self.rows(self.operator)[0]["state"], "detached")

    def test_owner_is_revoked(self) -> None:
        """With its owner a session goes, whoever drives it."""
        self.begin()
        mine, _ = self.join(self.dial("bob"), attempt=2, resume=RESUME)
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("zoe"))
        self.fleet.pump()
        self.assertEqual(mine.code, "revoked")

    def test_outcome(self) -> None:
        """Its outcome is the session's, and nothing of it stays behind."""
        self.begin()
        mine, far = self.join(self.dial("bob"), attempt=2, resume=RESUME)
        far.channel.finish(Outcome(status="exit", exit_code=3))
        self.fleet.pump()
        self.assertEqual(mine.outcome, {"status": "exit", "exit_code": 3})
        self.assertEqual(len(self.board), 0)
        self.assertEqual(self.fleet.gateway.sessions.entries(), [])


class ListingTests(AnothersSessionCase):
    def test_what_is_seen(self) -> None:
        """Own sessions; with a grant to watch, those on its devices; as administrator, all."""
        self.begin()
        for name, roles, count in (("ann2", (), 1), ("bob", ("eyes",), 1)):
            end = self.dial(name, *roles)
            self.assertEqual(len(self.rows(end, all=True)), count)
            self.assertEqual(self.rows(end), [])
        other = self.fleet.add_role("valves", Grant(select="valve-*", watch=True))
        self.assertEqual(self.rows(self.dial("eve", other), all=True), [])
        talk = self.dial("joe", "ops").call(
            "gateway.sessions", session=b"V" * 16, request={"all": True}
        )
        self.fleet.pump()
        self.assertEqual(talk.code, "policy")

    def test_filters(self) -> None:
        """By operator, door and state."""
        self.begin()
        for request, count in (
            ({"operator": "zoe"}, 1),
            ({"operator": "ann"}, 0),
            ({"door": "link"}, 1),
            ({"door": "ssh"}, 0),
            ({"state": "attached"}, 1),
            ({"state": "detached"}, 0),
            ({"state": "finished"}, 0),
        ):
            self.assertEqual(len(self.rows(self.operator, **request)), count, request)
        talk = self.operator.call(
            "gateway.sessions", session=b"V" * 16, request={"state": "asleep"}
        )
        self.fleet.pump()
        self.assertEqual(talk.code, "bad-request")

    def test_bytes_and_idle_time(self) -> None:
        """What passed both ways is counted over all attempts; typing ends idleness."""
        talk, far = self.begin(request=TERMINAL)
        talk.channel.write(b"12345")
        far.channel.write(b"x" * 1000)
        self.fleet.advance(10)
        far.channel.write(b"y" * 500)
        self.fleet.pump()
        (row,) = self.rows(self.operator)
        self.assertEqual((row["bytes_in"], row["bytes_out"]), (5, 1500))
        self.assertGreaterEqual(row["idle_ms"], 7000)
        self.operator.wire.cut()
        self.fleet.pump()
        self.operator = self.fleet.dial(self.zoe, features=FEATURES)
        (row,) = self.rows(self.operator)
        self.assertEqual((row["bytes_in"], row["bytes_out"]), (5, 1500))
        self.assertEqual((row["state"], row["idle_ms"], row["driver"]), ("detached", None, None))
        self.assertEqual(row["door"], "link")

    def test_door_after_a_restart(self) -> None:
        """The audit log knows through which door a session came that a device lists."""
        from rshell.link.core.messages import SessionReport, Sessions

        self.begin()
        self.fleet.crash()
        self.operator = self.fleet.dial(self.zoe, features=FEATURES)
        self.device = self.fleet.dial(self.pump, dial=2)
        report = SessionReport(session=SESSION, operator="zoe", handler="shell", age_ms=5000)
        self.device.link.sessions(Sessions([report]))
        self.fleet.pump()
        (row,) = self.rows(self.operator)
        self.assertEqual((row["door"], row["state"]), ("link", "detached"))


class InputRecordedTests(AnothersSessionCase):
    def setUp(self) -> None:
        super().setUp()
        self.fleet = Fleet(self, recording=RecordingPolicy(mode="off"))
        self.pump = self.fleet.enrol("pump-1")
        self.device = self.fleet.dial(self.pump)
        self.fleet.add_role("shells", Grant(handlers=("shell",), record="input"))
        self.operator = self.dial("zoe", "shells")

    def test_told(self) -> None:
        """Where a role has the input recorded, whoever types is told before anything else."""
        self.begin(request=TERMINAL)
        ((code, message),) = self.notices(self.operator)
        self.assertEqual(code, "input-recorded")
        self.assertIn("passwords", message)
        (row,) = self.rows(self.operator)
        self.assertEqual((row["recorded"], row["terminal"]), ("input", True))

    def test_nothing_to_type_at(self) -> None:
        """Without a terminal nothing is recorded, and nothing told."""
        self.begin(request={"terminal": None})
        self.assertEqual(self.notices(self.operator), [])

    def test_too_old_to_say_so(self) -> None:
        """A client that cannot show it gets no such session."""
        self.operator = self.fleet.dial(self.fleet.add_operator("old", "shells"))
        talk, _ = self.begin(request=TERMINAL)
        self.fleet.advance(0.1)
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "version")
        self.assertIn("upgrade", talk.closed[1])

    def test_role_says_off(self) -> None:
        """A role may leave out what the configuration records."""
        self.fleet.gateway.recordings.policy = RecordingPolicy(mode="output")
        self.fleet.add_role("quiet", Grant(handlers=("shell",), record="off"))
        self.operator = self.dial("mia", "quiet")
        self.begin(request=TERMINAL)
        self.assertIsNone(self.rows(self.operator)[0]["recorded"])
