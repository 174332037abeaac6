"""A gateway's certificate made elsewhere: request, answer, judgement; and the journal of it all."""

from __future__ import annotations

import base64
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.authority import KeyAbsent, new_fleet
from rshell.identity.ca_journal import note, taken, untake, waiting
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.gateway_leaf import (
    BadLeaf,
    answer,
    fingerprint,
    judge_chain,
    make_request,
    names_of,
    read_chain,
    read_request,
)
from rshell.identity.keys import BadCertificateRequest, new_key, spki_hash
from tests.identity.dev_fleet import fleet

NOW = datetime.now(UTC)
KEYS = fleet().keys
YEAR = timedelta(days=365)


class RequestTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """A request proves its key and proposes names."""
        key = new_key()
        found = read_request(make_request(key, ["gw.example.net", "10.0.0.5", "fe80::1"]))
        self.assertEqual(found.names, ("gw.example.net", "10.0.0.5", "fe80::1"))
        self.assertEqual(spki_hash(found.public_key), spki_hash(key.public_key()))

    def test_bad_names(self) -> None:
        """No name, too many and no names at all are refused before anything is signed."""
        for names in ([], ["a b"], [""], ["x" * 300], ["gw/../x"], ["gw:7411"], ["é"], ["g"] * 51):
            self.assertRaises(ValueError, make_request, new_key(), names)

    def test_bad_requests(self) -> None:
        """Noise, certificates, cut and forged requests and weak kinds of keys are refused."""
        good = make_request(new_key(), ["gw"])
        forged = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
        forged[-3] ^= 1
        weak = (
            x509.CertificateSigningRequestBuilder(x509.Name([]))
            .sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%b-----END CERTIFICATE REQUEST-----\n"
        for data in (
            b"",
            b"nonsense",
            good[: len(good) // 2],
            b"x" * 100_000,
            chain_to_pem((KEYS.root.certificate,)),
            pem % base64.encodebytes(bytes(forged)),
            weak,
        ):
            self.assertRaises(BadCertificateRequest, read_request, data)


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.key = new_key()
        self.request = read_request(make_request(self.key, ["gw.example.net"]))

    def chain(self, **more: object) -> tuple[x509.Certificate, ...]:
        """Return what certify makes."""
        fields: dict[str, object] = {"names": ["gw"], "life": timedelta(days=30), "now": NOW}
        return answer(KEYS.gateway, KEYS.root.certificate, self.request, **(fields | more))  # type: ignore[arg-type]  # by keyword

    def judge(self, chain: tuple[x509.Certificate, ...], now: datetime = NOW) -> None:
        """Judge a chain as the gateway does."""
        judge_chain(chain, self.key, KEYS.gateway.certificate, KEYS.root.certificate, now)

    def test_fits(self) -> None:
        """What is answered can be put in place, with the names and life that were granted."""
        chain = read_chain(chain_to_pem(self.chain()))
        self.judge(chain)
        self.assertEqual(names_of(chain[0]), ("gw",))
        self.assertEqual(fingerprint(chain[0]), spki_hash(self.key.public_key()).hex())
        self.assertLess(chain[0].not_valid_after_utc, NOW + timedelta(days=30))

    def test_clock_of_1970(self) -> None:
        """A signer whose clock stands at 1970, or decades ahead, is told to set it."""
        for now in (datetime(1970, 1, 1, tzinfo=UTC), NOW + timedelta(days=4000)):
            error = self.assertRaises(ValueError, self.chain, now=now)
            self.assertIn("set the clock", str(error))

    def test_gateway_at_1970(self) -> None:
        """A gateway whose own clock stands at 1970 takes a good certificate."""
        self.judge(self.chain(), datetime(1970, 1, 1, tzinfo=UTC))

    def test_without_the_key(self) -> None:
        """Without the gateway CA's key nothing is granted."""
        bare = attrs.evolve(KEYS.gateway, key=None)
        self.assertRaises(
            KeyAbsent, answer, bare, KEYS.root.certificate, self.request, ["gw"], YEAR, NOW
        )

    def test_not_put_in_place(self) -> None:
        """Another key's, fleet's, CA's or kind of certificate, and an ended one, are refused."""
        mine = self.chain()
        other = new_fleet(NOW)
        foreign = answer(other.gateway, other.root.certificate, self.request, ["gw"], YEAR, NOW)
        other_key = read_request(make_request(new_key(), ["gw"]))
        device = KEYS.issue_device(
            self.key.public_key(), "b166f084-07d6-42eb-b4b1-03feb245e542", NOW
        )
        for chain in (
            foreign,
            (foreign[0], *mine[1:]),
            (mine[0], mine[2], mine[1]),
            answer(KEYS.gateway, KEYS.root.certificate, other_key, ["gw"], YEAR, NOW),
            (device, *mine[1:]),
            (device, KEYS.device.certificate, mine[2]),
        ):
            self.assertRaises(BadLeaf, self.judge, chain)
        self.assertRaises(BadLeaf, self.judge, mine, NOW + timedelta(days=31))

    def test_bad_chains(self) -> None:
        """Noise, a single certificate and a heap of them are no chain."""
        one = chain_to_pem((KEYS.root.certificate,))
        for data in (b"", b"nonsense", one, one * 4, one[:-40], b"x" * 100_000):
            self.assertRaises(BadLeaf, read_chain, data)


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()

    def kinds(self) -> list[str]:
        """Return what the gateway would take."""
        return [found.kind for found in taken(self.home)]

    def test_taken_once(self) -> None:
        """Notes are taken in order, and are gone when the log has them."""
        self.assertFalse(waiting(self.home))
        for kind in ("ca.a", "ca.b"):
            note(self.home, kind, 5, {"x": 1})
        self.assertTrue(waiting(self.home))
        self.assertEqual(self.kinds(), ["ca.a", "ca.b"])
        untake(self.home)
        self.assertEqual((self.kinds(), waiting(self.home)), ([], False))

    def test_crash(self) -> None:
        """What was taken and not written to the log comes again, before what came meanwhile."""
        note(self.home, "ca.a", 5, {})
        self.kinds()
        note(self.home, "ca.b", 6, {})
        self.assertEqual(self.kinds(), ["ca.a"])
        untake(self.home)
        self.assertEqual(self.kinds(), ["ca.b"])

    def test_cut_line(self) -> None:
        """A line that a power cut shortened costs no other."""
        note(self.home, "ca.a", 5, {})
        with (self.home / "ca.journal").open("ab") as file:
            file.write(b'{"kind":"ca.b","at"')
        note(self.home, "ca.c", 6, {})
        self.assertEqual(self.kinds(), ["ca.a", "ca.c"])

    def test_full(self) -> None:
        """A full journal takes no more: then the thing is not done."""
        (self.home / "ca.journal").write_bytes(b"\n" * (2 * 1024 * 1024))
        self.assertRaises(OSError, note, self.home, "ca.a", 5, {})

    def test_disk_takes_a_part(self) -> None:
        """A note of which only a part could be written is none: then the thing is not done."""
        note(self.home, "ca.a", 5, {})
        size = (self.home / "ca.journal").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
        try:
            self.assertRaises(OSError, note, self.home, "ca.b", 6, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        note(self.home, "ca.c", 7, {})
        self.assertEqual(self.kinds(), ["ca.a", "ca.c"])

    def test_link_in_its_place(self) -> None:
        """A link in its place is not followed."""
        (self.home / "ca.journal").symlink_to(self.home / "elsewhere")
        self.assertRaises(OSError, note, self.home, "ca.a", 5, {})
        self.assertEqual(sorted(os.listdir(self.home)), ["ca.journal"])
