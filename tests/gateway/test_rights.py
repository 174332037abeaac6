"""Roles at the gate: what is not granted does not exist, and what is granted no more ends."""

from __future__ import annotations

from typing import Any

import attrs

from rshell.identity.keys import new_key, spki_hash
from rshell.store.records import Grant
from tests.gateway.ends import DeviceEnd, OperatorEnd, Talk
from tests.gateway.fleet import FleetTestCase, Peer

BERLIN = Grant(select="site=berlin", handlers=("exec", "shell"))
SESSION = b"S" * 16


class RightsTestCase(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.admin: OperatorEnd = self.fleet.dial(self.ann)
        self.fleet.got(self.fleet.store.set_labels("pump-1", {"site": "berlin"}))
        self.far: DeviceEnd = self.fleet.dial(self.pump)
        self.valve: DeviceEnd = self.fleet.dial(self.fleet.enrol("valve-1"))
        self.fleet.add_role("ops", BERLIN)
        self.bob: OperatorEnd = self.fleet.dial(self.fleet.add_operator("bob", "ops"))

    def ask(self, verb: str, end: OperatorEnd | None = None, /, **request: Any) -> Talk:
        """Ask the gateway, as an administrator if nobody is named."""
        talk = (end or self.admin).call(f"gateway.{verb}", request=request, session=b"V" * 16)
        self.fleet.pump()
        return talk

    def open(self, /, **fields: Any) -> Talk:
        """Open bob's session."""
        talk = self.bob.call(fields.pop("handler", "shell"), **{"device": "pump-1", **fields})
        self.fleet.pump()
        return talk

    def begin(self, **fields: Any) -> Talk:
        """Open bob's session, which the device accepts."""
        talk = self.open(**fields)
        self.far.accept()
        self.fleet.pump()
        self.assertIsNotNone(talk.opened)
        return talk

    def another_machine(self) -> Peer:
        """Return bob with one more key."""
        spki = spki_hash(new_key().public_key())
        self.fleet.got(self.fleet.store.add_key("bob", spki))
        name = self.fleet.certificate("operator", "bob", spki).name
        return self.ann.changed(name=name, spki=spki)

    def ended(self, talk: Talk) -> None:
        """Check that a session has ended for the role, at both ends."""
        self.assertEqual(talk.code, "policy", talk.closed)
        self.assertIn("no longer granted", (talk.closed or ("", ""))[1])
        self.assertEqual(len(self.fleet.gateway.switchboard), 0)
        told = [session for message in self.far.answers for session in message.end]
        self.assertIn(SESSION, told)


class SeeingTests(RightsTestCase):
    def test_same_words(self) -> None:
        """A device that is not theirs and one that is not there are refused in the same words."""
        answers = []
        for name in ("valve-1", "valve-9"):
            texts = [(self.open(device=name).closed or ("", ""))]
            for verb, request in (
                ("probe", {}),
                ("why", {}),
                ("facts", {}),
                ("handlers", {}),
                ("roles.check", {"operator": "bob", "handler": "exec"}),
            ):
                talk = self.ask(verb, self.bob, device=name, **request)
                texts.append(talk.closed or ("", ""))
            self.assertEqual({code for code, _ in texts}, {"not-found"})
            answers.append([text.replace(name, "X") for _, text in texts])
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(self.valve.requests, [])

    def test_by_id(self) -> None:
        """Nor does knowing an id help."""
        device = self.fleet.device("valve-1").id
        self.assertEqual(self.open(device=device).code, "not-found")

    def test_audit_knows(self) -> None:
        """The audit tells the administrator what was refused, and why; and not the operator."""
        self.open(device="valve-1")
        self.open(device="valve-9")
        rows = self.fleet.audit("session", operator="bob")
        self.assertEqual([row.record.code for row in rows], ["policy", "not-found"])
        self.assertEqual([row.record.device_name for row in rows], ["valve-1", "valve-9"])
        self.assertIn("role ops grants no shell on valve-1", rows[0].record.message or "")
        seen = self.ask("audit", self.bob).answer()
        self.assertEqual([row for row in seen if row["kind"] == "session"], [])
        self.assertEqual(self.ask("audit", self.bob, operator="ann").code, "policy")
        self.assertEqual({row["operator"] for row in seen}, {"bob"})

    def test_rule_in_the_audit(self) -> None:
        """The row of what was granted says by which grant."""
        self.begin()
        (row,) = self.fleet.audit("session", operator="bob", opens=True)
        self.assertEqual(row.record.details["rule"], "ops/1")
        (told,) = (r for r in self.ask("audit", self.bob).answer() if r["kind"] == "session")
        self.assertEqual(told["rule"], "ops/1")

    def test_listings(self) -> None:
        """Devices and sessions are those on which something is granted."""
        rows = self.ask("devices", self.bob).answer()
        self.assertEqual([row["name"] for row in rows], ["pump-1"])
        for selector in ("valve-1", "valve-*", "!site", "facts.os=arch"):
            self.assertEqual(self.ask("devices", self.bob, selector=selector).answer(), [])
        self.begin()
        (row,) = self.ask("sessions", self.bob).answer()
        self.assertEqual(row["device"], "pump-1")
        self.assertEqual(self.ask("sessions", self.bob, all=True).code, "policy")

    def test_anothers_session(self) -> None:
        """Another operator's session cannot be ended, attached or told from none."""
        self.admin.call("shell", device="pump-1", session=b"A" * 16)
        self.fleet.pump()
        self.far.accept()
        self.fleet.pump()
        texts = [
            self.ask("end-session", self.bob, session=session.hex()).closed
            for session in (b"A" * 16, b"N" * 16)
        ]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(self.open(session=b"A" * 16, attempt=2).code, "policy")

    def test_provisional(self) -> None:
        """A name that nobody accepted matches no role, whatever labels there are."""
        self.fleet.add_role("all", Grant(handlers=("*",)))
        self.fleet.run(self.fleet.gateway.rights.assign("bob", ("all",)))
        device = self.fleet.device("valve-1")
        self.assertTrue(self.fleet.gateway.rights.sees(self._bob(), device))
        provisional = attrs.evolve(device, name_provisional=True)
        self.assertFalse(self.fleet.gateway.rights.sees(self._bob(), provisional))

    def _bob(self) -> Any:
        return self.fleet.got(self.fleet.store.operator("bob"))

    def test_forward(self) -> None:
        """Forwarding goes to the targets that the role names, and is judged at the gate."""
        self.fleet.add_role("ops", BERLIN, Grant(select="pump-*", forward=("localhost:80",)))
        for port, code in ((80, None), (22, "policy")):
            request = {"host": "localhost", "port": port}
            talk = self.open(handler="forward", request=request, session=bytes([port]) * 16)
            self.assertEqual(talk.code, code, talk.closed)
        self.assertEqual(len(self.far.requests), 1)


class EndingTests(RightsTestCase):
    def test_unassigned(self) -> None:
        """Losing the role ends what it granted, at once."""
        talk = self.begin()
        self.ask("roles.assign", operator="bob", remove=["ops"])
        self.ended(talk)
        self.assertEqual(self.open(session=b"T" * 16).code, "not-found")
        self.assertEqual(self.ask("devices", self.bob).answer(), [])

    def test_changed_role(self) -> None:
        """A role that grants less ends what it granted; what it still grants goes on."""
        talk = self.begin()
        other = self.begin(handler="exec", session=b"E" * 16)
        grants = [{"select": "site=berlin", "handlers": ["exec"]}]
        self.ask("roles.set", name="ops", grants=grants)
        self.assertEqual((talk.code, other.code), ("policy", None))
        self.assertEqual(self.open(session=b"T" * 16).code, "policy")

    def test_another_login(self) -> None:
        """A login that is granted no more ends sessions as that login."""
        any_login = {"select": "site=berlin", "handlers": ["shell"], "logins": ["*"]}
        self.ask("roles.set", name="ops", grants=[any_login])
        talk = self.begin(login="root")
        other = self.begin(login="web", session=b"E" * 16)
        self.ask("roles.set", name="ops", grants=[any_login | {"logins": ["web"]}])
        self.assertEqual((talk.code, other.code), ("policy", None))

    def test_another_target(self) -> None:
        """A forward target that is granted no more ends connections there."""
        grant = {"select": "pump-*", "forward": ["localhost:80", "localhost:81"]}
        self.ask("roles.set", name="ops", grants=[grant])
        talks = [
            self.begin(
                handler="forward",
                request={"host": "localhost", "port": port},
                session=bytes([port]) * 16,
            )
            for port in (80, 81)
        ]
        self.ask("roles.set", name="ops", grants=[grant | {"forward": ["localhost:81"]}])
        self.assertEqual([talk.code for talk in talks], ["policy", None])

    def test_removed_role(self) -> None:
        """A role that operators have is removed by force only, and that ends its sessions."""
        talk = self.begin()
        self.assertEqual(self.ask("roles.remove", name="ops").code, "in-use")
        self.assertIsNone(talk.code)
        answer = self.ask("roles.remove", name="ops", force=True).answer()
        self.assertEqual(answer["operators"], ["bob"])
        self.ended(talk)
        self.fleet.add_role("ops", BERLIN)  # a new one of that name is not his
        self.assertEqual(self.open(session=b"T" * 16).code, "not-found")

    def test_relabelled(self) -> None:
        """A device that moves out of the selector takes its sessions along; other devices' stay."""
        talk = self.begin()
        self.ask("label", device="valve-1", set={"site": "berlin"})
        other = self.open(device="valve-1", session=b"E" * 16)
        self.valve.accept()
        self.fleet.pump()
        self.ask("label", device="pump-1", set={"site": "oslo"})
        self.assertEqual(talk.code, "policy", talk.closed)
        self.assertIsNone(other.code)
        self.assertEqual(self.open(session=b"T" * 16).code, "not-found")

    def test_renamed(self) -> None:
        """So does one whose new name the selector does not pick."""
        self.fleet.add_role("ops", Grant(select="pump-*", handlers=("shell",)))
        talk = self.begin()
        self.ask("rename", device="pump-1", name="tank-1")
        self.assertEqual(talk.code, "policy", talk.closed)

    def test_in_flight(self) -> None:
        """A role lost while the audit row is written keeps the OPEN from leaving."""
        self.fleet.threads.hold("write")
        talk = self.open()
        self.bob_loses()
        self.assertEqual(talk.code, "policy")
        self.assertEqual(self.far.requests, [])

    def bob_loses(self) -> None:
        rights = self.fleet.gateway.rights
        operator = self.fleet.got(self.fleet.store.operator("bob"))
        assert operator is not None
        # As `assign` does once its write is done; that write waits behind the row's.
        rights._changed["bob"] = attrs.evolve(operator, roles=())
        self.fleet.run(rights.enforce())
        self.fleet.threads.release()
        self.fleet.pump()

    def test_parked(self) -> None:
        """A session that waits for its device is refused as soon as the role is lost."""
        self.begin()
        self.far.wire.cut()
        self.fleet.pump()
        asked = self.bob.ask("shell", attempt=2)
        self.fleet.pump()
        self.assertIsNone(asked.code)
        self.ask("roles.assign", operator="bob", remove=["ops"])
        self.assertEqual(asked.code, "policy")

    def test_parked_and_relabelled(self) -> None:
        """So is one whose device is moved out of the selector while it is away."""
        self.begin()
        self.far.wire.cut()
        self.fleet.pump()
        asked = self.bob.ask("shell", attempt=2)
        self.fleet.pump()
        self.ask("label", device="pump-1", set={"site": "oslo"})
        self.assertEqual(asked.code, "policy")

    def test_left_alone(self) -> None:
        """A session that nobody is attached to ends on its device."""
        self.begin()
        self.bob.wire.cut()
        self.fleet.pump()
        self.ask("roles.assign", operator="bob", remove=["ops"])
        told = [session for message in self.far.answers for session in message.end]
        self.assertEqual(told, [SESSION])
        self.assertEqual(self.fleet.gateway.sessions.entries(), [])

    def test_left_alone_and_granted(self) -> None:
        """One that is still granted stays, by any change of roles."""
        self.begin()
        self.bob.wire.cut()
        self.fleet.pump()
        self.fleet.add_role("new", BERLIN)
        self.assertEqual(len(self.fleet.gateway.sessions.entries()), 1)

    def test_other_names_for_it(self) -> None:
        """A session is joined by what it was opened for, whatever the attempt calls itself."""
        wide = {"select": "site=berlin", "handlers": ["exec", "shell"], "logins": ["*"]}
        self.ask("roles.set", name="ops", grants=[wide])
        self.begin(login="root")
        self.far.wire.cut()
        self.fleet.pump()
        self.bob.wire.cut()
        self.fleet.pump()
        self.ask("roles.set", name="ops", grants=[wide | {"logins": ["web"]}])
        end: OperatorEnd = self.fleet.dial(self.another_machine())
        asked = end.ask("shell", attempt=2, login="web")
        self.fleet.pump()
        self.assertEqual(asked.code, "policy")


class NobodyTests(RightsTestCase):
    def test_no_such_operator(self) -> None:
        """Who names an operator whom nobody knows is told where they are listed."""
        for verb, request in (
            ("roles.assign", {"operator": "eve", "add": ["ops"]}),
            ("roles.check", {"operator": "eve", "device": "pump-1", "handler": "exec"}),
            ("revoke", {"kind": "operator", "name": "eve"}),
        ):
            talk = self.ask(verb, **request)
            self.assertEqual(talk.code, "not-found", verb)
            assert talk.closed is not None
            self.assertIn("(see: rshell operators)", talk.closed[1], verb)


class LastAdministratorTests(RightsTestCase):
    def test_stays(self) -> None:
        """Nobody can take the last administrator's rights away, in any way."""
        self.ask("revoke", kind="operator", name="admin")
        self.fleet.add_role("boss", Grant(admin=True))
        self.assertEqual(self.ask("roles.assign", operator="ann", remove=["admin"]).code, "policy")
        self.ask("roles.assign", operator="ann", add=["boss"])
        self.assertEqual(self.ask("roles.assign", operator="ann", remove=["admin"]).code, "none")
        grants = [{"handlers": ["exec"]}]
        for verb, request in (
            ("roles.assign", {"operator": "ann", "remove": ["boss"]}),
            ("roles.remove", {"name": "boss", "force": True}),
            ("roles.set", {"name": "boss", "grants": grants}),
            ("revoke", {"kind": "operator", "name": "ann"}),
        ):
            self.assertEqual(self.ask(verb, **request).code, "policy", verb)
        self.assertEqual(self.ask("roles.set", name="boss", grants=grants, add=True).code, "none")
        self.assertEqual(self.ask("operators").code, "none")

    def test_admin_by_another_name(self) -> None:
        """A role with admin administrates; losing it holds for the link that stands."""
        self.fleet.add_role("boss", Grant(admin=True))
        self.assertEqual(self.ask("operators", self.bob).code, "policy")
        self.ask("roles.assign", operator="bob", add=["boss"])
        self.assertEqual(self.ask("operators", self.bob).code, "none")
        self.assertTrue(self.ask("whoami", self.bob).answer()["admin"])
        self.ask("roles.assign", operator="bob", remove=["boss"])
        self.assertEqual(self.ask("operators", self.bob).code, "policy")

    def test_lost_while_the_row_is_written(self) -> None:
        """A verb whose asker lost the role meanwhile changes nothing."""
        boss: OperatorEnd = self.fleet.dial(self.fleet.add_operator("eve"))
        self.fleet.threads.hold("write")
        talk = boss.call("gateway.rename", request={"device": "pump-1", "name": "pump-7"})
        self.fleet.pump()
        eve = self.fleet.got(self.fleet.store.operator("eve"))
        assert eve is not None
        self.fleet.gateway.rights._changed["eve"] = attrs.evolve(eve, roles=())
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(talk.code, "policy")
        self.assertIsNotNone(self.fleet.got(self.fleet.store.device("pump-1")))


class RoleVerbTests(RightsTestCase):
    def test_bad(self) -> None:
        """What is no role, grant, operator or target is refused, and nothing changes."""
        good = {"handlers": ["exec"]}
        for verb, request, code in (
            ("roles.set", {"name": "Ops", "grants": [good]}, "bad-request"),
            ("roles.set", {"name": "admin", "grants": [good]}, "bad-request"),
            ("roles.set", {"name": "ops", "grants": []}, "bad-request"),
            ("roles.set", {"name": "ops", "grants": [{}]}, "bad-request"),
            ("roles.set", {"name": "ops", "grants": [good | {"x": 1}]}, "bad-request"),
            ("roles.set", {"name": "ops", "grants": [good] * 65}, "bad-request"),
            (
                "roles.set",
                {"name": "ops", "grants": [good | {"select": "facts.os=a"}]},
                "bad-request",
            ),
            ("roles.remove", {"name": "nope"}, "not-found"),
            ("roles.remove", {"name": "admin"}, "bad-request"),
            ("roles.list", {"name": "nope"}, "not-found"),
            ("roles.assign", {"operator": "bob", "add": ["nope"]}, "not-found"),
            ("roles.assign", {"operator": "nope", "add": ["ops"]}, "not-found"),
            ("roles.assign", {"operator": "bob", "add": ["ops"], "remove": ["ops"]}, "bad-request"),
            (
                "roles.check",
                {"operator": "nope", "device": "pump-1", "handler": "exec"},
                "not-found",
            ),
            (
                "roles.check",
                {"operator": "bob", "device": "pump-1", "handler": "forward", "target": "x"},
                "bad-request",
            ),
            (
                "roles.check",
                {"operator": "bob", "device": "pump-1", "handler": "exec", "target": "x:1"},
                "bad-request",
            ),
            ("invite", {"kind": "operator", "name": "eve", "roles": ["nope"]}, "bad-request"),
            ("invite", {"kind": "operator", "name": "eve", "roles": []}, "bad-request"),
        ):
            self.assertEqual(self.ask(verb, **request).code, code, request)
        (role,) = self.ask("roles.list", name="ops").answer()
        self.assertEqual(len(role["grants"]), 1)
        self.assertEqual(role["grants"][0]["handlers"], ["exec", "shell"])

    def test_adding(self) -> None:
        """A grant is added besides those there are, once."""
        tail = {"select": "*", "handlers": ["tail", "acme"]}
        for _ in range(2):
            answer = self.ask("roles.set", name="ops", grants=[tail], add=True).answer()
        self.assertEqual(len(answer["grants"]), 2)
        self.assertEqual((answer["operators"], answer["unknown_handlers"]), (1, ["acme"]))

    def test_check(self) -> None:
        """A check tells by which grant, or what is missing; others' only to administrators."""
        request = {"operator": "bob", "device": "pump-1", "handler": "shell"}
        for end in (self.admin, self.bob):
            answer = self.ask("roles.check", end, **request).answer()
            self.assertEqual((answer["allowed"], answer["rule"]), (True, "ops/1"))
            answer = self.ask("roles.check", end, **request, login="root").answer()
            self.assertFalse(answer["allowed"])
            self.assertEqual(answer["grants"][0]["missing"], ["it does not allow the login root"])
        closed = self.ask("roles.check", self.bob, **request | {"operator": "ann"})
        self.assertEqual(closed.code, "policy")
        forward = request | {"handler": "forward", "target": "localhost:80"}
        self.assertFalse(self.ask("roles.check", **forward).answer()["allowed"])

    def test_operators(self) -> None:
        """Operators are listed with roles, links, and when they were last seen."""
        rows = {row["name"]: row for row in self.ask("operators").answer()}
        bob = rows["bob"]
        self.assertEqual((bob["roles"], bob["links"], bob["admin"]), (["ops"], 1, False))
        self.assertIsNotNone(bob["last_seen"])
        self.assertTrue(rows["ann"]["admin"])
        self.assertIsNone(rows["admin"]["last_seen"])

    def test_survives_a_restart(self) -> None:
        """Roles are there again after a crash, and judge from the first request on."""
        self.fleet.crash()
        self.far = self.fleet.dial(self.pump, dial=2)
        end: OperatorEnd = self.fleet.dial(self.another_machine())
        rows = end.call("gateway.devices")
        self.fleet.pump()
        self.assertEqual([row["name"] for row in rows.answer()], ["pump-1"])
