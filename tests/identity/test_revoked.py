"""The list of revoked gateways: who may sign it, which one counts, and what is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.authority import FleetKeys, KeyAbsent, new_fleet
from rshell.identity.keys import spki_hash
from rshell.identity.revoked import (
    MAX_REVOKED,
    BadRevokedList,
    RevokedGateways,
    RevokedMemory,
    check_revoked,
    list_from_bytes,
    list_to_bytes,
    sign_revoked,
)
from rshell.link.core import messages
from rshell.link.core.constants import MAX_PAYLOAD
from rshell.link.core.messages import Advice, Welcome
from tests.identity.dev_fleet import fleet

ROOT = fleet().keys.root
CERTIFICATE = ROOT.certificate
A, B, C = (bytes([number]) * 32 for number in (0xA1, 0xB2, 0xC3))


@cache
def stranger() -> FleetKeys:
    """Return another fleet."""
    return new_fleet(datetime.now(UTC))


class SignTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """The root's list is believed, through a file too, whatever order it was asked in."""
        told = sign_revoked(ROOT, 7, [B, A, B])
        self.assertEqual(check_revoked(told, CERTIFICATE), {A, B})
        self.assertEqual(list_from_bytes(list_to_bytes(told)), told)
        self.assertEqual(told.keys, [A.hex(), B.hex()])

    def test_empty(self) -> None:
        """A list may be empty."""
        self.assertEqual(check_revoked(sign_revoked(ROOT, 1, []), CERTIFICATE), frozenset())

    def test_changed(self) -> None:
        """Another number, key or order, or other letters, are not what the root signed."""
        told = sign_revoked(ROOT, 7, [A, B])
        for changed in (
            msgspec.structs.replace(told, number=8),
            msgspec.structs.replace(told, keys=[A.hex()]),
            msgspec.structs.replace(told, keys=[A.hex(), C.hex()]),
            msgspec.structs.replace(told, keys=[B.hex(), A.hex()]),
            msgspec.structs.replace(told, keys=[A.hex(), A.hex(), B.hex()]),
            msgspec.structs.replace(told, keys=[A.hex().upper(), B.hex().upper()]),
            msgspec.structs.replace(told, keys=["é" * 64]),
            msgspec.structs.replace(told, signature=b""),
            msgspec.structs.replace(told, signature=told.signature[:-1]),
            msgspec.structs.replace(told, number=0),
        ):
            self.assertRaises(BadRevokedList, check_revoked, changed, CERTIFICATE)

    def test_other_signers(self) -> None:
        """Neither another fleet's root nor this fleet's gateway CA makes lists."""
        for signer in (stranger().root, fleet().keys.gateway, fleet().keys.device):
            told = sign_revoked(signer, 7, [A])
            self.assertRaises(BadRevokedList, check_revoked, told, CERTIFICATE)

    def test_a_certificate_is_no_list(self) -> None:
        """The root's signature of a certificate does not pass for one of a list."""
        ca = fleet().keys.gateway.certificate
        told = RevokedGateways(number=1, keys=[A.hex()], signature=ca.signature)
        self.assertRaises(BadRevokedList, check_revoked, told, CERTIFICATE)

    def test_ed25519(self) -> None:
        """A root with an Ed25519 key signs lists too."""
        key = ed25519.Ed25519PrivateKey.generate()

        class Certificate:
            def public_key(self) -> ed25519.Ed25519PublicKey:
                return key.public_key()

        told = sign_revoked(attrs.evolve(ROOT, key=key), 3, [A])
        certificate = Certificate()
        self.assertEqual(check_revoked(told, certificate), {A})  # type: ignore[arg-type]  # all it uses

    def test_limits(self) -> None:
        """A full list fits into WELCOME and ADVICE; a longer one is not made, nor number 0."""
        keys = [number.to_bytes(32, "big") for number in range(MAX_REVOKED)]
        told = sign_revoked(ROOT, 2**62, keys)
        welcome = Welcome(
            protocol=1,
            software="x" * 64,
            features=["f" * 32] * 64,
            name="n" * 64,
            time_ms=2**62,
            heartbeat_ms=25_000,
            max_streams=64,
            window=262_144,
            revoked_gateways=told,
        )
        for message in (welcome, Advice(retry_spread_ms=1, revoked_gateways=told)):
            self.assertLess(len(messages.encode(message)), MAX_PAYLOAD)
            self.assertEqual(messages.decode(messages.encode(message), type(message)), message)
        self.assertRaises(BadRevokedList, sign_revoked, ROOT, 1, [*keys, b"z" * 32])
        for number in (0, -1, 2**63):
            self.assertRaises(BadRevokedList, sign_revoked, ROOT, number, [])

    def test_without_the_key(self) -> None:
        """Without the root's key there is no list."""
        bare = attrs.evolve(ROOT, key=None)
        self.assertRaises(KeyAbsent, sign_revoked, bare, 1, [A])

    def test_not_told_is_not_sent(self) -> None:
        """Without a list ADVICE is what it always was: older peers know no other."""
        self.assertEqual(messages.encode(Advice(retry_spread_ms=5)), b'{"retry_spread_ms":5}')

    @given(st.binary(max_size=400))
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes do more than to be refused."""
        for text in (data, b'{"number":1,"keys":[],"signature":"' + data + b'"}'):
            try:
                check_revoked(list_from_bytes(text), CERTIFICATE)
            except BadRevokedList:
                pass
            else:
                self.fail("it was believed")


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.memory = self.again()

    def again(self) -> RevokedMemory:
        """Return what a new process knows."""
        return RevokedMemory(self.path, CERTIFICATE)

    def test_none(self) -> None:
        """At first nobody is revoked."""
        self.assertEqual((self.memory.number, self.memory.keys), (0, frozenset()))
        self.assertIsNone(self.memory.current)
        self.assertFalse(self.memory.learn(None))

    def test_kept(self) -> None:
        """What was learned is known to the next process, and is news once."""
        told = sign_revoked(ROOT, 5, [A])
        self.assertTrue(self.memory.learn(told))
        self.assertFalse(self.memory.learn(told))
        again = self.again()
        self.assertEqual((again.number, again.keys, again.current), (5, {A}, told))
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_newer_only(self) -> None:
        """A lower number, and another list of the same one, change nothing."""
        self.memory.learn(sign_revoked(ROOT, 5, [A, B]))
        for number in (4, 5, 1):
            self.assertFalse(self.memory.learn(sign_revoked(ROOT, number, [])))
        self.assertEqual(self.again().keys, {A, B})
        self.assertTrue(self.memory.learn(sign_revoked(ROOT, 6, [C])))
        self.assertEqual(self.again().keys, {C})

    def test_not_believed(self) -> None:
        """A foreign root's list, and a broken one, change nothing, however high their number."""
        self.memory.learn(sign_revoked(ROOT, 5, [A]))
        foreign = sign_revoked(stranger().root, 2**60, [])
        broken = msgspec.structs.replace(sign_revoked(ROOT, 9, [A]), keys=[])
        for told in (foreign, broken):
            self.assertFalse(self.memory.learn(told))
        self.assertEqual((self.again().number, self.again().keys), (5, {A}))

    def test_damaged_file(self) -> None:
        """A file that cannot be used counts as none, and the next list replaces it."""
        for content in (b"", b"nonsense", b"x" * 50_000, b'{"number":1,"keys":[],"signature":""}'):
            self.path.write_bytes(content)
            memory = self.again()
            self.assertEqual(memory.number, 0)
            self.assertTrue(memory.learn(sign_revoked(ROOT, 5, [A])))
            self.assertEqual(self.again().number, 5)

    def test_another_process(self) -> None:
        """Two commands of one operator: the newer list stays, whoever writes last."""
        other = self.again()
        other.learn(sign_revoked(ROOT, 9, [A, B]))
        self.memory.learn(sign_revoked(ROOT, 5, [A]))
        self.assertEqual(self.again().number, 9)
        self.assertEqual(self.memory.keys, {A, B})

    def test_disk_that_takes_nothing(self) -> None:
        """Where it cannot be kept it holds in this process all the same."""
        memory = RevokedMemory(Path(self.mktemp()) / "absent" / "x", CERTIFICATE)
        self.assertTrue(memory.learn(sign_revoked(ROOT, 5, [A])))
        self.assertEqual(memory.keys, {A})

    def test_lists(self) -> None:
        """It knows a revoked certificate by its key."""
        leaf = fleet().leaves["gateway"].certificate
        self.assertFalse(self.memory.lists(leaf))
        self.memory.learn(sign_revoked(ROOT, 1, [spki_hash(leaf.public_key())]))
        self.assertTrue(self.memory.lists(leaf))
        self.assertFalse(self.memory.lists(None))
        self.assertFalse(self.memory.lists(fleet().leaves["device-1"].certificate))
