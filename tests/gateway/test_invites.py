"""Invite, join, connect: from the operator's verb to the device that is live (section 11)."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet.defer import Deferred

from rshell.gateway.joining import REFUSED_TEXT
from rshell.identity.join_string import JoinString
from rshell.identity.keys import PrivateKey, make_csr, new_key, spki_hash
from rshell.link.core.messages import GoAway, Join, Joined
from rshell.store.errors import StoreUnavailable
from tests.gateway.test_verbs import VerbTestCase

_REFUSED = GoAway(code="auth", message=REFUSED_TEXT)


class JoinVerbTests(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.end = self.fleet.dial(self.ann)
        self.joiner = self.fleet.gateway.joins

    def test_refused_joins_do_not_fill_the_audit(self) -> None:
        """However often a spent string is tried, it adds ten rows at once and one a minute."""
        string = self.invite(kind="device")
        self.join(string, new_key())
        for _ in range(40):
            self.assertEqual(self.join(string, new_key()), _REFUSED)
        self.assertEqual(len(self.fleet.audit("join.refused")), 10)

    def invite(self, **request: Any) -> JoinString:
        """Invite; returns the parsed join string."""
        answer = self.ask(self.end, "gateway.invite", **request).answer()
        return JoinString.parse(answer["join"])

    def join(
        self, string: JoinString, key: PrivateKey, kind: str = "device", **more: Any
    ) -> Joined | GoAway:
        """Join with a key."""
        request = Join(
            kind=kind,
            id=string.token_id,
            secret=more.pop("secret", string.secret),
            csr=make_csr(key),
            **more,
        )
        return self.fleet.run(self.joiner.join(request, "192.0.2.9:1"))

    def joined(self, *args: Any, **more: Any) -> Joined:
        """Join, which must work."""
        answer = self.join(*args, **more)
        assert isinstance(answer, Joined), answer
        return answer

    def test_join_string(self) -> None:
        """The join string names the advertised gateway and pins the fleet's root."""
        string = self.invite(kind="device")
        self.assertEqual((string.host, string.port), ("gw.example.net", 7411))
        self.assertEqual(string.root_pin, self.fleet.home.root_pin)

    def test_device_joins(self) -> None:
        """A device joins once, with its fixed name and labels, and can connect at once."""
        key = new_key()
        string = self.invite(kind="device", name="valve-3", labels={"site": "b"})
        answer = self.joined(string, key, name="ignored")
        self.assertEqual(answer.name, "valve-3")
        spki = spki_hash(key.public_key())
        certificate = self.fleet.certificate("device", answer.id, spki)
        peer = self.pump.changed(name=certificate.name, spki=spki)
        self.assertEqual(self.fleet.dial(peer).welcome.name, "valve-3")
        device = self.fleet.device("valve-3")
        self.assertEqual(dict(device.labels), {"site": "b"})
        self.assertFalse(device.name_provisional)

    def test_proposed_name_is_provisional(self) -> None:
        """A name the device chose is made valid and waits for an operator's consent."""
        string = self.invite(kind="device", uses=3, wait=False)
        first = self.joined(string, new_key(), name="Pump\x1b[2J 1")
        second = self.joined(string, new_key(), facts={"hostname": "console"})
        self.assertRegex(first.name, r"^[a-z0-9][a-z0-9-]*$")
        self.assertNotEqual(second.name, "console")
        device = self.fleet.device(first.id)
        self.assertTrue(device.name_provisional)

    def test_same_key_again(self) -> None:
        """The same string with the same key gives the same certificate for 15 minutes (J4)."""
        key = new_key()
        string = self.invite(kind="device", ttl_s=60)
        first = self.joined(string, key)
        self.fleet.clock.advance(15 * 60)
        self.assertEqual(self.joined(string, key).chain, first.chain)
        self.fleet.clock.advance(1)
        self.assertEqual(self.join(string, key), _REFUSED)
        self.assertEqual(len(self.fleet.got(self.fleet.store.find_devices())), 2)

    def test_every_refusal_reads_the_same(self) -> None:
        """Spent, expired, unknown, revoked, wrong secret and wrong kind give one text (J3)."""
        spent, unknown = self.invite(kind="device"), self.invite(kind="device")
        self.joined(spent, new_key())
        voided, old = self.invite(kind="device"), self.invite(kind="device", ttl_s=1)
        self.fleet.got(self.fleet.store.revoke_token(voided.token_id))
        self.fleet.clock.advance(2)
        unknown = JoinString(unknown.host, 1, unknown.root_pin, b"nobody's", unknown.secret)
        fresh = self.invite(kind="device")
        for string, more in (
            (spent, {}),
            (voided, {}),
            (old, {}),
            (unknown, {}),
            (fresh, {"secret": b"?" * 20}),
            (fresh, {"kind": "operator"}),
        ):
            self.assertEqual(self.join(string, new_key(), **more), _REFUSED)
        codes = {row.record.code for row in self.fleet.audit("join.refused")}
        self.assertEqual(codes, {"replay", "revoked", "expired", "wrong-secret", "wrong-kind"})
        self.joined(fresh, new_key())

    def test_strangers_do_not_fill_the_audit(self) -> None:
        """Who names no invite there is leaves a log line but no audit row."""
        string = self.invite(kind="device")
        nobody = JoinString("h", 1, string.root_pin, b"nobody's", string.secret)
        before = len(self.fleet.audit())
        self.join(nobody, new_key())
        self.assertEqual(len(self.fleet.audit()), before)

    def test_kind_that_is_none(self) -> None:
        """A kind that is neither device nor operator does not pass for a device."""
        answer = self.join(self.invite(kind="device"), new_key(), kind="gateway")
        assert isinstance(answer, GoAway), answer
        self.assertEqual(answer.code, "bad-request")

    def test_operator_joins(self) -> None:
        """An operator joins with the role of the invite, and can enter."""
        key = new_key()
        string = self.invite(kind="operator", name="eve", roles=["admin"])
        answer = self.joined(string, key, kind="operator")
        self.assertEqual((answer.id, answer.name), ("eve", "eve"))
        spki = spki_hash(key.public_key())
        name = self.fleet.certificate("operator", "eve", spki).name
        self.assertIsNotNone(self.fleet.dial(self.ann.changed(name=name, spki=spki)).welcome)

    def test_registered_key(self) -> None:
        """A key that is registered already cannot join as somebody else."""
        self.assertEqual(self.join(self.invite(kind="device"), self.ann.key), _REFUSED)

    def test_secret_is_nowhere(self) -> None:
        """Neither the secret nor the join string is in any file of the gateway's home."""
        string = self.invite(kind="device")
        self.joined(string, new_key())
        self.fleet.got(self.fleet.store.close())
        needles = [
            string.secret,
            string.secret.hex().encode(),
            base64.b64encode(string.secret),
            string.encode().rpartition(".")[2].encode(),
        ]
        for path in self.fleet.path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                for needle in needles:
                    self.assertNotIn(needle, content, str(path))

    def test_lost_store(self) -> None:
        """While the store cannot answer nobody joins."""
        string = self.invite(kind="device")
        self.fleet.got(self.fleet.store.close())
        request = Join(
            kind="device", id=string.token_id, secret=string.secret, csr=make_csr(new_key())
        )
        failed = Deferred.fromCoroutine(self.joiner.join(request, "x"))
        self.failureResultOf(failed, StoreUnavailable)
