"""What the gateway itself answers; to whom, the golden table of tests.access says."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet.defer import Deferred

from rshell.gateway.door_services import SshAddress
from rshell.gateway.verbs import VERBS
from rshell.identity.fleet_home import certificates_from_pem
from rshell.identity.keys import PrivateKey, make_csr, new_key, spki_hash
from rshell.store.records import Grant
from tests.access.matrix import MatrixTestCase, asks
from tests.gateway.ends import End, Talk
from tests.gateway.fleet import FleetTestCase


def csr(key: PrivateKey | None = None) -> str:
    """Return a certificate request as it travels in JSON."""
    return base64.b64encode(make_csr(key or new_key())).decode()


#: Verbs whose every use has a row; who may use which is in ``tests/access/matrix.toml``.
CHANGING = {
    "gateway.accept",
    "gateway.end-session",
    "gateway.invite",
    "gateway.invite-keys",
    "gateway.keys.add",
    "gateway.keys.add-ca",
    "gateway.keys.remove",
    "gateway.keys.remove-ca",
    "gateway.keys.revoke",
    "gateway.label",
    "gateway.quarantine",
    "gateway.reject",
    "gateway.rename",
    "gateway.renew",
    "gateway.revoke",
    "gateway.roles.assign",
    "gateway.roles.remove",
    "gateway.roles.set",
}


class VerbTestCase(FleetTestCase):
    def ask(self, end: End, handler: str, /, **request: Any) -> Talk:
        """Ask the gateway; returns the finished stream."""
        talk = end.call(handler, request=request)
        self.fleet.pump()
        return talk

    def refused(self, end: End, handler: str, /, **request: Any) -> tuple[str, str]:
        """Ask for something that must be refused; returns code and text."""
        talk = self.ask(end, handler, **request)
        self.assertIsNone(talk.opened, bytes(talk.data))
        assert talk.closed is not None
        return talk.closed


class MatrixTests(MatrixTestCase, VerbTestCase):
    def test_changing(self) -> None:
        """Whether a verb changes something is decided here, too."""
        self.assertEqual({name for name, verb in VERBS.items() if verb.changes}, CHANGING)

    def test_revoked_operator(self) -> None:
        """Nothing that a revoked operator asked is answered, though it was under way."""
        end = self.fleet.dial(self.ann)
        end.wire.held = True
        talks = [end.call(name, request=asks(name)) for name in VERBS]
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("ann"))
        end.wire.held = False
        self.fleet.pump()
        self.assertEqual([talk.opened for talk in talks], [None] * len(VERBS))
        self.assertEqual(end.told, "revoked")
        self.assertEqual(self.fleet.audit("gateway.rename"), [])
        self.assertEqual(self.fleet.dial(self.ann).told, "revoked")

    def test_changes_are_audited(self) -> None:
        """Every changing verb leaves a row with who, from where, and what was asked."""
        end = self.fleet.dial(self.ann)
        for name in sorted(CHANGING):
            request = asks(name)
            self.ask(end, name, **request)
            row, _ = self.fleet.audit(name)
            self.assertEqual((row.record.operator, row.record.door), ("ann", "link"), name)
            mine = VERBS[name].open_to_all or (request.get("operator") == "ann" and VERBS[name].own)
            rule = "anyone" if mine else "admin"
            self.assertEqual(row.record.details, {"request": request, "rule": rule})

    def ends(self, name: str) -> list[tuple[str | None, str | None]]:
        """Return how each use of a verb ended, the first row of which must be there, open."""
        rows = self.fleet.audit(name)
        began = [row for row in rows if row.record.opens]
        ended = {row.refers: row.record for row in rows if row.refers is not None}
        self.assertEqual([row.record.status for row in began], [None] * len(began), name)
        self.assertEqual(sorted(ended), [row.seq for row in began], name)
        self.assertEqual(len(rows), 2 * len(began), name)
        return [(ended[row.seq].status, ended[row.seq].code) for row in began]

    def test_each_has_its_end(self) -> None:
        """Every use of a changing verb has one end in the log, of its operator: ok, or why not."""
        end = self.fleet.dial(self.ann)
        for name in sorted(CHANGING):
            told = self.ask(end, name, **asks(name))
            self.assertIsNotNone(told.opened, name)
            # Nobody waits in this fleet: each answer is that, for each that was named.
            none = name in ("gateway.accept", "gateway.reject")
            expected = ("error", "not-found") if none else ("ok", None)
            self.assertEqual(self.ends(name), [expected], name)
            self.assertEqual(self.fleet.audit(name)[-1].record.operator, "ann", name)
        self.assertTrue(self.fleet.got(self.fleet.store.verify_audit()).sound)

    def test_failures_have_their_end(self) -> None:
        """A changing verb that fails after its row was written says so, with its code."""
        self.fleet.enrol("valve-7")
        end = self.fleet.dial(self.ann)
        self.fleet.add_role("held", Grant(select="pump-1", handlers=("exec",)))
        self.fleet.add_operator("bob", "held")
        none = "0" * 16
        fails: list[tuple[str, str, dict[str, Any]]] = [
            ("accept", "not-found", {"devices": ["nobody"]}),
            ("end-session", "not-found", {"session": "e7" * 16}),
            ("invite", "name-taken", {"kind": "device", "name": "valve-7"}),
            ("invite-keys", "not-found", {"invite": none, "keys": []}),
            ("keys.add", "bad-request", {"operator": "ann", "keys": "no key"}),
            ("keys.add-ca", "bad-request", {"name": "A", "key": ""}),
            ("keys.remove", "not-found", {"operator": "ann", "fingerprint": "SHA256:none"}),
            ("keys.remove-ca", "not-found", {"name": "none"}),
            ("keys.revoke", "not-found", {"name": "none", "serial": "1"}),
            ("label", "not-found", {"device": "nobody", "set": {"a": "b"}}),
            ("quarantine", "not-found", {"device": "nobody"}),
            ("reject", "not-found", {"devices": ["nobody"]}),
            ("rename", "name-taken", {"device": "pump-1", "name": "valve-7"}),
            ("renew", "bad-request", {"csr": "AAAA"}),
            ("revoke", "not-found", {"kind": "device", "name": "nobody"}),
            ("roles.assign", "not-found", {"operator": "nobody", "add": ["held"]}),
            ("roles.remove", "in-use", {"name": "held"}),
            ("roles.set", "bad-request", {"name": "X Y", "grants": [{}]}),
        ]
        self.assertEqual({f"gateway.{name}" for name, _, _ in fails}, CHANGING)
        for verb, code, request in fails:
            name = f"gateway.{verb}"
            self.ask(end, name, **request)
            self.assertEqual(self.ends(name), [("error", code)], name)

    def test_unexpected(self) -> None:
        """A verb that fails in a way nobody thought of has its end, too; so has each device's."""

        def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        self.patch(self.fleet.store, "rename", broken)
        self.patch(self.fleet.store, "renew_key", broken)
        ann, pump = self.fleet.dial(self.ann), self.fleet.dial(self.pump)
        refused = self.refused(ann, "gateway.rename", device="pump-1", name="pump-7")
        self.assertEqual(refused, ("internal", "the gateway failed; its log says why"))
        self.assertEqual(self.refused(pump, "gateway.renew", csr=csr())[0], "internal")
        self.assertEqual(self.ends("gateway.rename"), [("error", "internal")])
        self.assertEqual(self.ends("gateway.renew"), [("error", "internal")])
        self.assertEqual(self.fleet.audit("gateway.renew")[1].record.device, self.pump.owner)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_lost_meanwhile(self) -> None:
        """Who loses the role, or is revoked, while the row is written, is refused by its end."""
        self.fleet.add_operator("root", "admin")
        for name, change, code in (
            ("bob", lambda: self.fleet.gateway.rights.assign("bob", (), ("admin",)), "policy"),
            ("eve", lambda: self.fleet.gateway.revocation.revoke_operator("eve"), "revoked"),
        ):
            end = self.fleet.dial(self.fleet.add_operator(name, "admin"))
            self.fleet.threads.hold("write")
            end.call("gateway.rename", request={"device": "pump-1", "name": "pump-7"})
            self.fleet.pump()
            held = self.fleet.threads
            Deferred.fromCoroutine(change())
            held.release()
            self.fleet.pump()
            (last,) = self.fleet.audit("gateway.rename", operator=name, opens=False)
            self.assertEqual((last.record.status, last.record.code), ("refused", code))
        self.assertIsNotNone(self.fleet.got(self.fleet.store.device("pump-1")))

    def test_killed_between(self) -> None:
        """What was under way when the gateway was killed is interrupted at the next start."""
        end = self.fleet.dial(self.ann)
        self.patch(self.fleet.store, "rename", lambda *_: Deferred())
        end.call("gateway.rename", request={"device": "pump-1", "name": "pump-7"})
        self.fleet.pump()
        self.fleet.crash()
        self.assertEqual(self.ends("gateway.rename"), [("interrupted", None)])
        self.fleet.crash()
        self.assertEqual(self.ends("gateway.rename"), [("interrupted", None)])

    def test_some_of_many(self) -> None:
        """Of a verb about many devices the end says for which it failed."""
        self.ask(self.fleet.dial(self.ann), "gateway.reject", devices=["a", "b\x1b"])
        (last,) = self.fleet.audit("gateway.reject", opens=False)
        self.assertEqual(last.record.message, "2 of 2 failed")
        wanted = [one["wanted"] for one in last.record.details["failed"]]
        self.assertEqual(wanted, ["a", "b\N{REPLACEMENT CHARACTER}"])

    def test_too_long(self) -> None:
        """A value beyond its limit is refused in words, with its name."""
        end = self.fleet.dial(self.ann)
        refused = self.refused(end, "gateway.rename", device="x" * 65, name="pump-7")
        text = "device is too long: it has at most 64 characters"
        self.assertEqual(refused, ("bad-request", text))
        refused = self.refused(end, "gateway.keys.add-ca", name="a b", key="")
        self.assertIn("a CA's name has", refused[1])
        refused = self.refused(end, "gateway.invite", kind="operator", name="a b", roles=["admin"])
        self.assertIn("an operator's name has", refused[1])

    def test_row_before_the_change(self) -> None:
        """A change whose row cannot be written is not made (fail closed)."""
        end = self.fleet.dial(self.ann)
        self.fleet.threads.hold("write")
        self.ask(end, "gateway.rename", device="pump-1", name="pump-7")
        self.fleet.threads.release_one()
        self.assertEqual(len(self.fleet.audit("gateway.rename")), 1)
        self.assertIsNotNone(self.fleet.got(self.fleet.store.device("pump-1")))
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertIsNotNone(self.fleet.got(self.fleet.store.device("pump-7")))

    def test_unknown_verb(self) -> None:
        """A name in the gateway's space that is no verb is not found, never looked up elsewhere."""
        end = self.fleet.dial(self.ann)
        for name in ("gateway.nope", "gateway.init", "gateway.work", "gateway."):
            self.assertEqual(self.refused(end, name)[0], "not-found")

    def test_unknown_keys(self) -> None:
        """Every verb refuses a request with a key it does not know."""
        ends = {"operator": self.fleet.dial(self.ann), "device": self.fleet.dial(self.pump)}
        for name in VERBS:
            for kind in VERBS[name].peers:
                code = self.refused(ends[kind], name, **asks(name), extra=1)[0]
                self.assertEqual(code, "bad-request", name)

    def test_renewals_are_bounded(self) -> None:
        """However often a device asks to renew, and with whatever, ten rows are added at once."""
        end = self.fleet.dial(self.pump)
        codes = [
            self.ask(end, "gateway.renew", csr=base64.b64encode(b"no request").decode()).code
            for _ in range(30)
        ]
        self.assertEqual(codes[0], "bad-request")
        self.assertEqual(codes[-1], "overload")
        self.assertEqual(len(self.fleet.audit("gateway.renew", status=None)), 10)

    def test_report(self) -> None:
        """A device's report changes what is listed of it; only its current link may, and rarely."""
        operator, end = self.fleet.dial(self.ann), self.fleet.dial(self.pump)
        policy = {"digest": "d", "error": "agent.toml: bad \x1b[2J"}
        self.ask(end, "gateway.report", policy=policy, catalogue="")
        shown = self.fleet.listed(operator)["pump-1"]["policy_error"]
        self.assertIn("agent.toml: bad", shown)
        self.assertNotIn("\x1b", shown)
        self.ask(end, "gateway.report", policy={"digest": "e"}, catalogue="")
        self.assertIsNone(self.fleet.listed(operator)["pump-1"]["policy_error"])
        codes = [self.ask(end, "gateway.report", policy={}, catalogue="").code for _ in range(20)]
        self.assertEqual(codes[-1], "overload")
        renewing = self.fleet.dial(self.pump.changed(expired=True), instance=b"J" * 16)
        code = self.refused(renewing, "gateway.report", policy={}, catalogue="")[0]
        self.assertEqual(code, "offline")


class RequestTests(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.end = self.fleet.dial(self.ann)

    def test_invites(self) -> None:
        """Invites outside their bounds are refused."""
        good = {"kind": "operator", "name": "eve", "roles": ["admin"]}
        for bad in (
            {},
            {"kind": "robot"},
            {"kind": "device\n"},
            {"kind": "device", "ttl_s": 0},
            {"kind": "device", "ttl_s": 30 * 86_400 + 1},
            {"kind": "device", "ttl_s": "60"},
            {"kind": "device", "ttl_s": True},
            {"kind": "device", "uses": 0},
            {"kind": "device", "uses": 100_001},
            {"kind": "device", "uses": 1.5},
            {"kind": "device", "roles": ["admin"]},
            {"kind": "device", "name": "Pump"},
            {"kind": "device", "name": "console"},
            {"kind": "device", "name": "-x"},
            {"kind": "device", "name": "p", "uses": 2},
            {"kind": "device", "name": "00000000-0000-4000-8000-000000000000"},
            {"kind": "device", "labels": {"a b": "c"}},
            {"kind": "device", "labels": {"a": "b c"}},
            {"kind": "device", "labels": {"name": "x"}},
            {"kind": "device", "labels": {f"k{n}": "v" for n in range(65)}},
            good | {"labels": {"a": "b"}},
            good | {"roles": ["god"]},
            good | {"roles": []},
            good | {"name": None},
            good | {"name": "Eve"},
            good | {"name": "a/b"},
            good | {"name": "e" * 65},
        ):
            self.assertEqual(self.refused(self.end, "gateway.invite", **bad)[0], "bad-request", bad)
        self.assertEqual(self.fleet.got(self.fleet.store.tokens())[0].name, "pump-1")

    def test_invite_for_a_taken_name(self) -> None:
        """An invite that fixes a name in use is refused as taken."""
        closed = self.refused(self.end, "gateway.invite", kind="device", name="pump-1")
        self.assertEqual(closed[0], "name-taken")

    def test_bad_selector(self) -> None:
        """A selector that cannot be read is a bad request with its reason."""
        for bad in ("a b", "site in", ",", "a,,b", "x" * 5000):
            code, text = self.refused(self.end, "gateway.devices", selector=bad)
            self.assertEqual(code, "bad-request", bad)
            self.assertTrue(text)

    def test_selector(self) -> None:
        """A selector picks by name, label and state."""
        self.fleet.enrol("valve-1")
        self.ask(self.end, "gateway.label", device="valve-1", set={"site": "b"})
        self.fleet.dial(self.pump)
        for selector, names in (
            ("", ["pump-1", "valve-1"]),
            ("  ", ["pump-1", "valve-1"]),
            ("pump-*", ["pump-1"]),
            ("site=b", ["valve-1"]),
            ("state=live", ["pump-1"]),
            ("state=never", ["valve-1"]),
            ("site=none", []),
        ):
            rows = self.ask(self.end, "gateway.devices", selector=selector).answer()
            self.assertEqual([row["name"] for row in rows], names, selector)

    def test_labels(self) -> None:
        """Labels are set and removed; bad ones and unknown devices are refused."""
        put = {"site": "berlin", "tier": "test"}
        self.ask(self.end, "gateway.label", device="pump-1", set=put)
        row = self.ask(self.end, "gateway.label", device="pump-1", remove=["tier"]).answer()
        self.assertEqual(row["labels"], {"site": "berlin"})
        for bad in (
            {"set": {"a=b": ""}},
            {"set": {"": "x"}},
            {"set": {"a": "\n"}},
            {"remove": ["?"]},
        ):
            code, _ = self.refused(self.end, "gateway.label", device="pump-1", **bad)
            self.assertEqual(code, "bad-request", bad)
        code, _ = self.refused(self.end, "gateway.label", device="nope", set=put)
        self.assertEqual(code, "not-found")

    def test_rename(self) -> None:
        """A device is renamed while live; bad and taken names are refused."""
        self.fleet.enrol("pump-2")
        self.fleet.dial(self.pump)
        row = self.ask(self.end, "gateway.rename", device="pump-1", name="pump-9").answer()
        self.assertEqual((row["name"], row["state"]), ("pump-9", "live"))
        for bad, code in (
            ("A", "bad-request"),
            ("console", "bad-request"),
            ("", "bad-request"),
            ("pump-2", "name-taken"),
        ):
            closed = self.refused(self.end, "gateway.rename", device="pump-9", name=bad)
            self.assertEqual(closed[0], code)

    def test_revoke(self) -> None:
        """Revoking answers who and how many links; the last administrator stays."""
        self.fleet.dial(self.pump)
        answer = self.ask(self.end, "gateway.revoke", kind="device", name="pump-1").answer()
        self.assertEqual(answer, {"revoked": "pump-1", "links_closed": 1})
        closed = self.refused(self.end, "gateway.revoke", kind="device", name="pump-1")
        self.assertEqual(closed[0], "not-found")
        self.ask(self.end, "gateway.revoke", kind="operator", name="admin")
        code, text = self.refused(self.end, "gateway.revoke", kind="operator", name="ann")
        self.assertEqual(code, "policy")
        self.assertIn("last administrator", text)

    def test_audit(self) -> None:
        """The audit is listed newest first, in pages; bounds are checked."""
        for name in ("a", "b", "c"):
            self.ask(self.end, "gateway.rename", device="pump-1", name=f"pump-{name}")
            self.ask(self.end, "gateway.rename", device=f"pump-{name}", name="pump-1")
        rows = self.ask(self.end, "gateway.audit", limit=3).answer()
        self.assertEqual(len(rows), 3)
        older = self.ask(self.end, "gateway.audit", limit=2, before=rows[-1]["seq"]).answer()
        numbers = [row["seq"] for row in rows + older]
        self.assertEqual(numbers, sorted(numbers, reverse=True))
        for bad in ({"limit": 0}, {"limit": 10_001}, {"before": 0}, {"limit": "1"}):
            self.assertEqual(self.refused(self.end, "gateway.audit", **bad)[0], "bad-request")

    def test_names_of_nobody(self) -> None:
        """A listing for an operator or device that does not exist says so: empty is of who does."""
        for name in ("audit", "keys.list", "recordings", "sessions"):
            more = {"all": True} if name == "sessions" else {}
            verb = f"gateway.{name}"
            refused = self.refused(self.end, verb, operator="nobody\x1b", **more)
            self.assertEqual(refused[0], "not-found", name)
            self.assertIn("there is no operator", refused[1])
            self.assertNotIn("\x1b", refused[1])
            if name in ("audit", "recordings"):
                code, text = self.refused(self.end, verb, device="nobody")
                self.assertEqual((code, "nobody" in text), ("not-found", True), name)
        self.fleet.enrol("idle-1")
        role = self.fleet.add_role("pumps", Grant(select="pump-1", handlers=("exec",)))
        bob = self.fleet.dial(self.fleet.add_operator("bob", role))
        for verb, request in (
            ("keys.list", {"operator": "bob"}),
            ("recordings", {"operator": "bob"}),
            ("recordings", {"device": "idle-1"}),
            ("sessions", {"operator": "bob", "all": True}),
        ):
            answer = self.ask(self.end, f"gateway.{verb}", **request).answer()
            self.assertEqual(answer, [], verb)
        # Who is no administrator learns of nobody whether they exist.
        for name in ("idle-1", "nobody"):
            code, text = self.refused(bob, "gateway.audit", device=name)
            self.assertEqual(code, "not-found")
            self.assertTrue(text.startswith(f"no device is called '{name}'"), text)
        self.assertEqual(self.refused(bob, "gateway.keys.list", operator="nobody")[0], "policy")
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("bob"))
        self.assertEqual(self.ask(self.end, "gateway.keys.list", operator="bob").answer(), [])

    def test_handlers(self) -> None:
        """The gateway describes its own verbs; of a device only what it has told."""
        own = self.ask(self.end, "gateway.handlers").answer()
        asked = {name for name, entry in VERBS.items() if "operator" in entry.peers}
        self.assertEqual({entry["name"] for entry in own}, asked)
        self.assertEqual(self.refused(self.end, "gateway.handlers", device="pump-1")[0], "offline")
        self.assertEqual(self.refused(self.end, "gateway.handlers", device="x")[0], "not-found")


class DoorsTests(VerbTestCase):
    def test_doors(self) -> None:
        """Any operator is told where the ssh door is, if it is open, and its host key."""
        end = self.fleet.dial(self.fleet.add_operator("bob"))
        self.assertEqual(self.ask(end, "gateway.doors").answer(), {"ssh": None})
        self.fleet.gateway.ssh_door = SshAddress("gw.example.net", 2222, ("ssh-ed25519 AAAA",))
        expected = {"host": "gw.example.net", "port": 2222, "host_keys": ["ssh-ed25519 AAAA"]}
        self.assertEqual(self.ask(end, "gateway.doors").answer(), {"ssh": expected})


class RenewTests(VerbTestCase):
    def _renew(self, end: End, key: PrivateKey) -> Any:
        return self.ask(end, "gateway.renew", csr=csr(key)).answer()

    def test_device(self) -> None:
        """A device gets a certificate for its new key and its own id, and comes in with it."""
        key = new_key()
        end = self.fleet.dial(self.pump)
        answer = self._renew(end, key)
        leaf = certificates_from_pem(answer["chain"].encode())[0]
        self.assertEqual(spki_hash(leaf.public_key()), spki_hash(key.public_key()))
        self.assertIn(self.pump.owner, leaf.subject.rfc4514_string())
        self.assertEqual(answer["gateways"], ["gw.example.net:7411"])
        renewed = self.pump.changed(spki=spki_hash(key.public_key()))
        self.assertIsNotNone(self.fleet.dial(renewed, dial=2).welcome)

    def test_lost_answer(self) -> None:
        """The same key asked for again, by the old key, is answered again."""
        key = new_key()
        end = self.fleet.dial(self.pump)
        self._renew(end, key)
        again = self.fleet.dial(self.pump, dial=2)
        leaf = certificates_from_pem(self._renew(again, key)["chain"].encode())[0]
        self.assertEqual(spki_hash(leaf.public_key()), spki_hash(key.public_key()))
        keys = self.fleet.got(self.fleet.store.keys_of("device", self.pump.owner))
        self.assertEqual(sorted(k.status for k in keys), ["active", "retired"])

    def test_anothers_key(self) -> None:
        """A device cannot take over a key that is registered to somebody else."""
        end = self.fleet.dial(self.pump)
        closed = self.refused(end, "gateway.renew", csr=csr(self.ann.key))
        self.assertEqual(closed[0], "store")
        self.assertIsNotNone(self.fleet.dial(self.ann).welcome)

    def test_bad_requests(self) -> None:
        """What is no certificate request is refused."""
        end = self.fleet.dial(self.pump)
        unproven = bytearray(make_csr(new_key()))
        unproven[-1] ^= 1
        for bad in ("", "????", "AAAA", base64.b64encode(unproven).decode(), 7, "A" * 8000):
            self.assertEqual(self.refused(end, "gateway.renew", csr=bad)[0], "bad-request", bad)

    def test_expired_device_renews(self) -> None:
        """A device whose certificate has expired renews and is then live (rule E4)."""
        key = new_key()
        end = self.fleet.dial(self.pump.changed(expired=True))
        self._renew(end, key)
        renewed = self.pump.changed(spki=spki_hash(key.public_key()))
        self.assertFalse(self.fleet.dial(renewed, dial=2).welcome.renew_only)
