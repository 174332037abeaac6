"""Devices that wait to be let in: from the first JOIN to the certificate (rules J7 to J10)."""

from __future__ import annotations

import base64
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway import invite_services
from rshell.gateway.joining import OVERLOAD_TEXT, REFUSED_TEXT, WAIT_TEXT
from rshell.gateway.pending import poll_seconds
from rshell.identity.join_string import JoinString
from rshell.identity.keys import (
    PrivateKey,
    fingerprint,
    make_csr,
    new_key,
    read_fingerprint,
    spki_hash,
)
from rshell.link.core.messages import GoAway, Join, Joined
from rshell.store import pending as rows
from tests.gateway.test_verbs import VerbTestCase

_REFUSED = GoAway(code="auth", message=REFUSED_TEXT)
DAY = 86_400
HERE = "192.0.2.9:1"


def shown(key: PrivateKey) -> str:
    """Return a key's fingerprint."""
    return fingerprint(spki_hash(key.public_key()))


class PollTests(SynchronousTestCase):
    def test_poll_seconds(self) -> None:
        """Soon at first, ever more rarely, and never more in all than the gateway can afford."""
        for age, count, seconds in (
            (0, 1, 10),
            (99, 1, 10),
            (3600, 1, 360),
            (86_400, 1, 600),
            (-5, 1, 10),
            (0, 5_000, 100),
        ):
            self.assertEqual(poll_seconds(age, count), seconds)


class PendingCase(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.end = self.fleet.dial(self.ann)

    def invite(self, **request: Any) -> JoinString:
        """Invite a device; returns the parsed join string."""
        answer = self.ask(self.end, "gateway.invite", kind="device", **request).answer()
        return JoinString.parse(answer["join"])

    def join(self, string: JoinString, key: PrivateKey, address: str = HERE, **more: Any) -> Any:
        """Present a join string with a key."""
        fields = {"id": string.token_id, "secret": string.secret, "csr": make_csr(key)}
        request = Join(**{"kind": "device", **fields, **more})
        return self.fleet.run(self.fleet.gateway.joins.join(request, address))

    def waits(self, string: JoinString, key: PrivateKey, **more: Any) -> float:
        """Present it, and be told to wait; returns for how many seconds."""
        answer = self.join(string, key, **more)
        self.assertEqual((answer.code, answer.message), ("pending", WAIT_TEXT))
        return float(answer.retry_min_ms / 1000)

    def joined(self, string: JoinString, key: PrivateKey, **more: Any) -> Joined:
        """Present it, and be let in."""
        answer = self.join(string, key, **more)
        assert isinstance(answer, Joined), answer
        return answer

    def pending(self) -> list[dict[str, Any]]:
        """Return what operators see."""
        found: list[dict[str, Any]] = self.ask(self.end, "gateway.pending").answer()
        return found

    def decide(self, verb: str, *devices: str, **more: Any) -> list[dict[str, Any]]:
        """Accept or reject."""
        talk = self.ask(self.end, f"gateway.{verb}", devices=list(devices), **more)
        answers: list[dict[str, Any]] = talk.answer()
        return answers


class SiteTests(PendingCase):
    def test_accepted(self) -> None:
        """A site's device waits, is compared and accepted, and connects; all of it is audited."""
        terms = {"labels": {"site": "b"}, "sources": ["192.0.2.0/24"]}
        string = self.invite(pattern="pump-*", uses=3, **terms)
        key = new_key()
        self.assertEqual(self.waits(string, key, name="pump-9"), 10)
        (row,) = self.pending()
        self.assertEqual(
            (row["fingerprint"], row["name"], row["within"], row["address"], row["invited_by"]),
            (shown(key), "pump-9", True, HERE, "ann"),
        )
        self.assertNotIn("pump-9", self.fleet.listed(self.end))
        (told,) = self.decide("accept", shown(key).lower(), labels={"tier": "x"})
        self.assertEqual((told["ok"], told["name"], told["provisional"]), (True, "pump-9", False))
        answer = self.joined(string, key, name="pump-9")
        self.assertEqual((answer.id, answer.name), (told["id"], "pump-9"))
        self.assertEqual(dict(self.fleet.device("pump-9").labels), {"site": "b", "tier": "x"})
        certificate = self.fleet.certificate("device", answer.id, spki_hash(key.public_key()))
        peer = self.pump.changed(name=certificate.name, spki=certificate.spki)
        self.assertEqual(self.fleet.dial(peer).welcome.name, "pump-9")
        for kind, operator in (
            ("join.pending", None),
            ("gateway.accept", "ann"),
            ("join.accepted", "ann"),
            ("join", None),
        ):
            audited, *ends = self.fleet.audit(kind)
            self.assertEqual(audited.record.operator, operator)
            ended = ["ok"] if kind == "gateway.accept" else []
            self.assertEqual([end.record.status for end in ends], ended)
            if kind.startswith("join"):
                self.assertEqual(audited.record.details["fingerprint"], shown(key))
        metrics = self.ask(self.end, "gateway.metrics").answer()["text"]
        for line in ('{result="pending"} 1', '{result="accepted"} 1', '{result="joined"} 1'):
            self.assertIn(f"rshell_joins_total{line}", metrics)
        self.assertIn("rshell_devices_pending 0.0", metrics)

    def test_operator_revoked(self) -> None:
        """With an operator those are turned away at once who wait by that operator's invites."""
        bob = self.fleet.dial(self.fleet.add_operator("bob"))
        made = self.ask(bob, "gateway.invite", kind="device", public=True).answer()
        string, key = JoinString.parse(made["join"]), new_key()
        self.waits(string, key)
        self.ask(self.end, "gateway.revoke", kind="operator", name="bob").answer()
        (audited,) = self.fleet.audit("join.expired")
        self.assertEqual(audited.record.details["fingerprint"], shown(key))
        metrics = self.ask(self.end, "gateway.metrics").answer()["text"]
        self.assertIn("rshell_devices_pending 0.0", metrics)

    def test_restart(self) -> None:
        """A gateway that died knows the devices that wait, and those accepted meanwhile."""
        string, one, two = self.invite(pattern="*", uses=2), new_key(), new_key()
        self.waits(string, one)
        self.waits(string, two)
        self.decide("accept", shown(one))
        self.fleet.crash()
        self.fleet.start()
        self.end = self.fleet.dial(self.ann)
        self.joined(string, one)
        self.assertEqual([row["fingerprint"] for row in self.pending()], [shown(two)])
        self.assertEqual(self.fleet.gateway.pending.count, 1)

    def test_rarely_after_a_while(self) -> None:
        """The longer it waits the more rarely it is to ask, and polls leave no rows."""
        string, key = self.invite(pattern="*"), new_key()
        self.waits(string, key)
        self.fleet.clock.advance(3000)
        before = len(self.fleet.audit())
        self.assertEqual(self.waits(string, key), 300)
        self.assertEqual(len(self.fleet.audit()), before)

    def test_auto_accept(self) -> None:
        """Told so, a site's devices are in at once; a name it does not expect is provisional."""
        string = self.invite(pattern="pump-*", uses=2, wait=False)
        self.assertEqual(self.joined(string, new_key(), name="pump-9").name, "pump-9")
        self.assertFalse(self.fleet.device("pump-9").name_provisional)
        self.joined(string, new_key(), name="valve-9")
        self.assertTrue(self.fleet.device("valve-9").name_provisional)
        self.assertEqual(len(self.fleet.audit("join")), 2)

    def test_one_device_does_not_wait(self) -> None:
        """An invite that names one device lets it in at once, also with a range."""
        string = self.invite(name="pump-9", sources=["192.0.2.0/24"])
        self.assertEqual(self.join(string, new_key(), "198.51.100.1:9"), _REFUSED)
        self.assertEqual(self.joined(string, new_key()).name, "pump-9")
        plain = self.invite()
        self.assertTrue(self.fleet.device(self.joined(plain, new_key()).id).name_provisional)

    def test_several_wait(self) -> None:
        """Whatever several may use, its devices wait, with a glob, a range or neither."""
        several, key = self.invite(uses=2), new_key()
        self.waits(several, key)
        self.decide("accept", shown(key))
        self.joined(several, key)
        self.waits(several, new_key())
        told = self.invite(uses=2, wait=False)
        self.assertTrue(self.fleet.device(self.joined(told, new_key()).id).name_provisional)

    def test_refusals_read_the_same(self) -> None:
        """Wrong place, rejected, revoked, expired, unknown, no secret: one text, and no row."""
        site = self.invite(pattern="*", sources=["10.0.0.0/8"])
        rejected, key = self.invite(pattern="*"), new_key()
        self.waits(rejected, key)
        self.decide("reject", shown(key))
        voided, late = self.invite(pattern="*"), self.invite(pattern="*", ttl_s=1)
        self.ask(self.end, "gateway.revoke", kind="invite", name=voided.token_id.hex())
        self.fleet.clock.advance(2)
        public = self.invite(public=True)
        nobody = JoinString("h", 1, site.root_pin, b"nobody's")
        for string, who in (
            (site, new_key()),
            (rejected, key),
            (voided, new_key()),
            (late, new_key()),
            (nobody, new_key()),
            (JoinString("h", 1, site.root_pin), new_key()),
            (JoinString("h", 1, site.root_pin, public.token_id, b"?" * 20), new_key()),
            (JoinString("h", 1, site.root_pin, rejected.token_id), new_key()),
            (public, self.ann.key),
        ):
            self.assertEqual(self.join(string, who), _REFUSED)
        self.assertEqual(self.pending(), [])
        codes = {row.record.code for row in self.fleet.audit("join.refused")}
        expected = {"wrong-source", "rejected", "revoked", "expired", "wrong-secret", "key-known"}
        self.assertEqual(codes, expected)

    def test_operator_by_a_public_string(self) -> None:
        """No string without a secret makes an operator."""
        public = self.invite(public=True)
        self.assertEqual(self.join(public, new_key(), kind="operator"), _REFUSED)

    def test_hostile_names(self) -> None:
        """A name with escapes, or that reads as a fingerprint, harms and hides nothing."""
        string, victim, other = self.invite(public=True, uses=9), new_key(), new_key()
        self.waits(string, victim)
        self.waits(string, other, name=shown(victim).lower())
        self.waits(string, new_key(), name="\x1b[2J\u202epump", facts={"hostname": "\x07"})
        self.waits(string, new_key(), name="console")
        names = sorted(row["name"] for row in self.pending())
        for name in names:
            self.assertRegex(name, r"\A[a-z0-9][a-z0-9-]{0,62}\Z")
        self.assertNotIn("console", names)
        (told,) = self.decide("accept", shown(victim).lower())
        self.assertEqual(told["fingerprint"], shown(victim))

    def test_bad_requests(self) -> None:
        """A certificate request that is huge or proves nothing is no device that waits."""
        string = self.invite(public=True)
        for csr in (b"", b"0" * 4096, b"\x30\x82" + b"\xff" * 4000, make_csr(new_key())[:-1]):
            self.assertEqual(self.join(string, new_key(), csr=csr).code, "bad-request")
        self.assertEqual(self.pending(), [])

    def test_guesses(self) -> None:
        """Fifty refusals from a source, then nothing from it is looked at; others are."""
        string, known = self.invite(pattern="*"), new_key()
        self.waits(string, known)
        for _ in range(50):
            self.assertEqual(self.join(string, new_key(), secret=b"?" * 20), _REFUSED)
        answer = self.join(string, new_key())
        self.assertEqual((answer.code, answer.message), ("overload", OVERLOAD_TEXT))
        self.assertEqual(answer.retry_min_ms, 60_000)
        self.assertEqual(self.join(string, new_key(), "[::ffff:192.0.2.9]:1").code, "overload")
        self.waits(string, new_key(), address="192.0.2.10:1")
        self.waits(string, known)
        self.decide("accept", shown(known))
        self.joined(string, known)
        self.fleet.clock.advance(60)
        self.assertEqual(self.join(string, new_key()), _REFUSED, "its one use is spent")

    def test_too_many_wait(self) -> None:
        """Beyond the bound the answer tells nothing else than too many tries do."""
        self.patch(rows, "MAX_FROM_SOURCE", 2)
        string, first = self.invite(public=True, uses=9), new_key()
        self.waits(string, first)
        self.waits(string, new_key())
        for _ in range(60):
            self.assertEqual(self.join(string, new_key()).message, OVERLOAD_TEXT)
        self.waits(string, first)
        self.waits(string, new_key(), address="192.0.2.10:1")
        self.assertEqual(len(self.fleet.audit("join.pending")), 3)

    def test_expiry(self) -> None:
        """Who asks no more is forgotten after a week, with a row that says so."""
        string, key = self.invite(public=True), new_key()
        self.waits(string, key)
        self.assertEqual(self.fleet.gateway.pending.count, 1)
        self.fleet.crash()
        self.fleet.clock.advance(7 * DAY)
        self.fleet.start()
        (row,) = self.fleet.audit("join.expired")
        self.assertEqual(row.record.details["fingerprint"], shown(key))
        self.assertEqual(self.fleet.gateway.pending.count, 0)


class DecisionTests(PendingCase):
    def test_each_on_its_own(self) -> None:
        """One that cannot be accepted takes no other along, and each is told of."""
        string, one, two = self.invite(public=True, uses=9), new_key(), new_key()
        self.waits(string, one, name="valve-1")
        self.waits(string, two, name="valve-2")
        self.fleet.enrol("valve-1")
        told = self.decide("accept", "valve-1", "nobody", shown(two), shown(new_key()))
        self.assertEqual([one["ok"] for one in told], [False, False, True, False])
        codes = [one.get("code") for one in told]
        self.assertEqual(codes, ["name-taken", "not-found", None, "not-found"])
        (told_one,) = self.decide("accept", "valve-1", name="valve-3")
        self.assertEqual(told_one["name"], "valve-3")

    def test_rejected(self) -> None:
        """A rejected device is refused for a day; the row says who did it."""
        string, key = self.invite(public=True), new_key()
        self.waits(string, key)
        self.assertTrue(self.decide("reject", shown(key))[0]["ok"])
        self.assertFalse(self.decide("reject", shown(key))[0]["ok"])
        self.assertEqual(self.join(string, key), _REFUSED)
        (row,) = self.fleet.audit("join.rejected")
        self.assertEqual((row.record.operator, row.record.details["from"]), ("ann", HERE))

    def test_bad_words(self) -> None:
        """What cannot be accepted so is said before anything is done."""
        for words in (
            {"devices": []},
            {"devices": ["a"] * 101},
            {"devices": ["x" * 65]},
            {"devices": ["a", "b"], "name": "pump-8"},
            {"devices": ["a"], "name": "console"},
            {"devices": ["a"], "name": "Pump\n"},
            {"devices": ["a"], "labels": {"no label": "x"}},
        ):
            self.assertEqual(self.refused(self.end, "gateway.accept", **words)[0], "bad-request")
        (told,) = self.decide("accept", "\x1b[2J")
        self.assertNotIn("\x1b", told["message"])

    def test_bad_invites(self) -> None:
        """Terms that contradict each other make no invite."""
        key = {"spki": base64.b64encode(bytes(32)).decode()}
        for terms in (
            {"pattern": "Pump *"},
            {"pattern": "pump-*", "name": "pump-9"},
            {"sources": ["10.0.0.1/8"]},
            {"sources": ["elsewhere"]},
            {"sources": [f"10.{n}.0.0/16" for n in range(17)]},
            {"public": True, "wait": False},
            {"public": True, "name": "pump-9"},
            {"wait": True, "name": "pump-9"},
            {"ttl_s": 31 * DAY},
            {"keys": [key], "uses": 2},
            {"keys": [key], "public": True},
            {"keys": [{**key, "name": "console"}]},
            {"keys": [{"spki": "AAAA"}]},
            {"keys": [key] * 101},
            {"uses": 0},
        ):
            answer = self.refused(self.end, "gateway.invite", kind="device", **terms)
            self.assertEqual(answer[0], "bad-request", terms)
        for terms in ({"pattern": "*"}, {"sources": ["10.0.0.0/8"]}, {"public": True}):
            more = {"kind": "operator", "name": "eve", "roles": ["admin"], **terms}
            self.assertEqual(self.refused(self.end, "gateway.invite", **more)[0], "bad-request")


class FullTests(PendingCase):
    def full(self) -> dict[str, list[str]]:
        return {row["source"]: row["full"] for row in self.pending()}

    def test_source(self) -> None:
        """Once a source has used up its room, the listing says so of it, and a metric counts."""
        self.patch(rows, "MAX_FROM_SOURCE", 2)
        site = self.invite(sources=["192.0.2.0/24"], uses=99)
        here, there = "192.0.2.9:1", "192.0.2.10:1"
        for address in (here, here, there):
            self.waits(site, new_key(), address=address)
        self.assertEqual(self.full(), {"192.0.2.9": ["source"], "192.0.2.10": []})
        metrics = self.ask(self.end, "gateway.metrics").answer()["text"]
        self.assertNotIn('result="full"', metrics)
        answer = self.join(site, new_key(), here)
        self.assertEqual((answer.code, answer.message), ("overload", OVERLOAD_TEXT))
        metrics = self.ask(self.end, "gateway.metrics").answer()["text"]
        self.assertIn('rshell_joins_total{result="full"} 1.0', metrics)
        self.assertNotIn('result="overload"', metrics)
        first = next(row for row in self.pending() if row["source"] == "192.0.2.9")
        self.decide("reject", first["fingerprint"])
        self.assertEqual(self.full(), {"192.0.2.9": [], "192.0.2.10": []})
        self.waits(site, new_key(), address=here)

    def test_invite_and_all(self) -> None:
        """So it does of an invite, and of the whole list."""
        self.patch(rows, "MAX_OF_INVITE", 1)
        self.waits(self.invite(public=True), new_key())
        self.assertEqual(self.full(), {"192.0.2.9": ["invite"]})
        self.patch(rows, "MAX_PENDING", 1)
        self.assertEqual(self.full(), {"192.0.2.9": ["invite", "all"]})


class KeyInviteTests(PendingCase):
    def invite_keys(self, *keys: PrivateKey, **more: Any) -> tuple[str, JoinString]:
        """Invite keys; returns the invite's id and the join string."""
        entries = [
            {"spki": base64.b64encode(spki_hash(key.public_key())).decode(), "name": f"tank-{n}"}
            for n, key in enumerate(keys, 1)
        ]
        request = {"kind": "device", "keys": entries, **more}
        answer = self.ask(self.end, "gateway.invite", **request).answer()
        return answer["id"], JoinString.parse(answer["join"])

    def test_joins(self) -> None:
        """A factory's device is in at once by its key, whatever it says it is called."""
        one, two = new_key(), new_key()
        invite, string = self.invite_keys(one, two, labels={"batch": "7"}, ttl_s=400 * DAY)
        self.assertEqual((string.public, string.token_id), (True, b""))
        self.assertEqual(self.joined(string, one, name="evil").name, "tank-1")
        self.assertEqual(dict(self.fleet.device("tank-1").labels), {"batch": "7"})
        self.assertEqual(self.join(string, new_key()), _REFUSED)
        (row,) = self.ask(self.end, "gateway.invites", invite=invite).answer()
        self.assertEqual(row["keys"], [{"fingerprint": shown(two), "name": "tank-2"}])
        self.assertEqual((row["uses"], row["uses_max"], row["mode"]), (1, 2, "keys"))
        (audited,) = self.fleet.audit("join")
        self.assertEqual(audited.record.details["invite"], invite)

    def test_id_like_a_fingerprint(self) -> None:
        """An invite whose id could be read as a fingerprint is revoked by it all the same."""
        token_id = bytes.fromhex("abcdef234567abcd")
        self.assertIsNotNone(read_fingerprint(token_id.hex()))
        self.patch(invite_services, "new_token", lambda: (token_id, bytes(16)))
        one = new_key()
        invite, string = self.invite_keys(one)
        self.assertEqual(token_id.hex(), invite)
        self.ask(self.end, "gateway.revoke", kind="invite", name=invite).answer()
        self.assertEqual(self.join(string, one), _REFUSED)

    def test_revoked(self) -> None:
        """One key can be taken back, and the rest with the invite."""
        one, two, three = new_key(), new_key(), new_key()
        invite, string = self.invite_keys(one, two, three)
        self.joined(string, one)
        for name in (shown(two), invite):
            self.ask(self.end, "gateway.revoke", kind="invite", name=name).answer()
        self.assertEqual(self.join(string, two), _REFUSED)
        self.assertEqual(self.join(string, three), _REFUSED)
        self.assertEqual(self.ask(self.end, "gateway.invites").answer(), [])
        every = self.ask(self.end, "gateway.invites", all=True).answer()
        self.assertIn((invite, "revoked"), [(row["id"], row["state"]) for row in every])
        self.assertTrue(self.fleet.device("tank-1").active)

    def test_more_keys(self) -> None:
        """Keys are added in parts; bad ids and keys are told."""
        one, two = new_key(), new_key()
        invite, string = self.invite_keys(one)
        more = {"spki": base64.b64encode(spki_hash(two.public_key())).decode(), "name": "tank-9"}
        self.ask(self.end, "gateway.invite-keys", invite=invite, keys=[more]).answer()
        self.assertEqual(self.joined(string, two).name, "tank-9")
        for bad in ("", "zz", "00" * 8, invite + "00"):
            code = self.refused(self.end, "gateway.invite-keys", invite=bad, keys=[])[0]
            self.assertIn(code, ("bad-request", "not-found"))
        again = self.refused(self.end, "gateway.invite-keys", invite=invite, keys=[more])
        self.assertIn("joined", again[1])

    def test_listing(self) -> None:
        """Listings tell terms and what is left of them, and no secret."""
        string = self.invite(pattern="pump-*", uses=3, sources=["10.0.0.0/8"], ttl_s=60)
        (row,) = self.ask(self.end, "gateway.invites").answer()
        expected = {"mode": "accept", "state": "open", "public": False, "pattern": "pump-*"}
        self.assertLessEqual(expected.items(), row.items())
        self.assertEqual((row["sources"], row["uses"], row["uses_max"]), (["10.0.0.0/8"], 0, 3))
        self.assertEqual(row["id"], string.token_id.hex())
        self.assertNotIn("secret", " ".join(row))
        self.fleet.clock.advance(61)
        self.assertEqual(self.ask(self.end, "gateway.invites").answer(), [])
