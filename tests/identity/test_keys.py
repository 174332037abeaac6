"""Keys, requests, names, join strings: what is accepted and what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.join_string import BadJoinString, JoinString, new_token, token_hash
from rshell.identity.keys import (
    BadCertificateRequest,
    BadKey,
    key_from_pem,
    key_to_pem,
    load_key,
    make_csr,
    new_key,
    read_csr,
    save_key,
    spki_hash,
)
from rshell.identity.names import BadPeerName, PeerName, new_fleet_label, peer_name_of
from tests.identity.dev_fleet import fleet

FLEET = "86e576be-3e89-4e36-bb7c-222a5ecaa428"
DEVICE = "b166f084-07d6-42eb-b4b1-03feb245e542"


class KeyTests(SynchronousTestCase):
    def test_spki_hash(self) -> None:
        """It is the SHA-256 of the DER SubjectPublicKeyInfo."""
        public = new_key().public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(spki_hash(public), hashlib.sha256(der).digest())

    def test_pem(self) -> None:
        """P-256 and Ed25519 keys survive encoding."""
        for key in (new_key(), ed25519.Ed25519PrivateKey.generate()):
            again = key_from_pem(key_to_pem(key))
            self.assertEqual(spki_hash(again.public_key()), spki_hash(key.public_key()))

    def test_bad_pem(self) -> None:
        """Nonsense and other kinds of key are refused; the message quotes no key."""
        pem = key_to_pem(new_key())
        self.assertRaises(BadKey, key_from_pem, b"")
        error = self.assertRaises(BadKey, key_from_pem, pem.replace(b"M", b"!", 3))
        self.assertNotIn("!", str(error))
        k1 = ec.generate_private_key(ec.SECP256K1())
        self.assertRaises(BadKey, key_from_pem, key_to_pem(k1))

    def test_file(self) -> None:
        """A saved key is readable by its owner only; one open to others is refused."""
        path = Path(self.mktemp())
        key = new_key()
        save_key(path, key)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(spki_hash(load_key(path).public_key()), spki_hash(key.public_key()))
        path.chmod(0o640)
        self.assertRaises(BadKey, load_key, path)
        os.unlink(path)
        self.assertRaises(FileNotFoundError, load_key, path)


class RequestTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """P-256, P-384 and Ed25519 are accepted; the request names nobody."""
        p384 = ec.generate_private_key(ec.SECP384R1())
        for key in (new_key(), p384, ed25519.Ed25519PrivateKey.generate()):
            der = make_csr(key)
            self.assertEqual(spki_hash(read_csr(der)), spki_hash(key.public_key()))
            self.assertEqual(len(list(x509.load_der_x509_csr(der).subject)), 0)

    def test_other_keys(self) -> None:
        """RSA and other curves are refused, well signed or not."""
        builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
        for key in (
            rsa.generate_private_key(65537, 2048),
            ec.generate_private_key(ec.SECP521R1()),
            ec.generate_private_key(ec.SECP256K1()),
        ):
            der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            self.assertRaises(BadCertificateRequest, read_csr, der)

    def test_stolen_key(self) -> None:
        """Somebody else's public key, without the private one, is refused."""
        mine, theirs = make_csr(new_key()), new_key().public_key()
        point = x509.load_der_x509_csr(mine).public_key()
        old, new = (
            key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for key in (point, theirs)
        )
        self.assertIn(old, mine)
        error = self.assertRaises(BadCertificateRequest, read_csr, mine.replace(old, new))
        self.assertIn("not signed by its own key", str(error))

    def test_length(self) -> None:
        """At most 4,096 bytes are looked at."""
        error = self.assertRaises(BadCertificateRequest, read_csr, bytes(4097))
        self.assertIn("4096", str(error))

    @settings(deadline=None, derandomize=True)
    @given(st.binary(max_size=300), st.integers(0, 200), st.booleans())
    def test_garbage(self, noise: bytes, position: int, valid: bool) -> None:
        """Any bytes give a key or BadCertificateRequest, nothing else."""
        der = _REQUEST[:position] + noise + _REQUEST[position:] if valid else noise
        try:
            read_csr(der)
        except BadCertificateRequest:
            pass


_REQUEST = make_csr(new_key())


class NameTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """Names survive as URIs."""
        for name in (PeerName("device", FLEET, DEVICE), PeerName("operator", FLEET, "al.ice-2_x")):
            self.assertEqual(PeerName.parse(name.uri), name)
        self.assertEqual(PeerName("device", FLEET, DEVICE).uri, f"rshell://{FLEET}/device/{DEVICE}")
        PeerName("operator", new_fleet_label(), "a")

    def test_bad(self) -> None:
        """Anything but the exact shape is refused."""
        good = f"rshell://{FLEET}/device/{DEVICE}"
        for uri in (
            "",
            good + "/",
            good + "\n",
            good + "?x",
            good.upper(),
            good.replace("rshell", "https"),
            good.replace("device", "gateway"),
            good.replace(FLEET, "fleet"),
            good.replace(FLEET, "u@" + FLEET),
            good.replace(DEVICE, "pump-7"),
            good.replace(DEVICE, DEVICE.upper()),
            f"rshell://{FLEET}/operator/",
            f"rshell://{FLEET}/operator/.hidden",
            f"rshell://{FLEET}/operator/" + "a" * 64,
            f"rshell://{FLEET}/operator/al%69ce",
        ):
            self.assertRaises(BadPeerName, PeerName.parse, uri)

    def test_certificates(self) -> None:
        """A name is read from a certificate with exactly one URI, so not from a gateway's."""
        leaves = fleet().leaves
        self.assertEqual(peer_name_of(leaves["operator"].certificate).name, "alice")
        self.assertRaises(BadPeerName, peer_name_of, leaves["gateway"].certificate)
        self.assertRaises(BadPeerName, peer_name_of, fleet().keys.root.certificate)


class JoinStringTests(SynchronousTestCase):
    def string(self, host: str = "gw.example.org", port: int = 7411) -> JoinString:
        return JoinString(host, port, b"\xff" * 32, b"\x01" * 8, b"\xfb" * 20)

    def test_format(self) -> None:
        """It is version, address, pin, token id and secret, separated by dots."""
        parts = [
            base64.urlsafe_b64encode(data).decode().rstrip("=")
            for data in (b"\xff" * 32, b"\x01" * 8, b"\xfb" * 20)
        ]
        self.assertEqual(self.string().encode(), "rsh1.gw.example.org:7411." + ".".join(parts))

    def test_hosts(self) -> None:
        """Names, IPv4 and bracketed IPv6 addresses survive."""
        for host in ("gw", "a.b.c.example", "192.0.2.7", "::1", "2001:db8::7"):
            string = self.string(host)
            self.assertEqual(JoinString.parse(f" {string.encode()}\n"), string)
        self.assertIn("[::1]:7411", self.string("::1").encode())

    @settings(deadline=None, derandomize=True)
    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20))
    def test_bytes(self, pin: bytes, secret: bytes) -> None:
        """Any pin and secret survive."""
        string = JoinString("gw", 1, pin, b"\0" * 8, secret)
        self.assertEqual(JoinString.parse(string.encode()), string)

    def test_secret_hidden(self) -> None:
        """The secret shows neither in the repr nor in a refusal."""
        string = self.string()
        secret = string.encode().rpartition(".")[2]
        self.assertNotIn("xfb", repr(string))
        text = string.encode()
        for broken in (text[:-3], text + "A", text.replace("rsh1", "rsh2"), "x" + text, text + "!"):
            error = self.assertRaises(BadJoinString, JoinString.parse, broken)
            self.assertNotIn(secret[:10], str(error))
            self.assertNotIn("\n", str(error))

    def test_reasons(self) -> None:
        """A person is told what is wrong."""
        text = self.string().encode()
        table = {
            "": "not a join string",
            "hello world": "not a join string",
            "rsh1": "incomplete",
            "rsh1.": "incomplete",
            text[:60]: "incomplete",
            text[:-1]: "incomplete",
            text.rpartition(".")[0]: "incomplete",
            "rsh2" + text[4:]: "version",
            text.replace(":7411", ":0"): "port",
            text.replace(":7411", ":65536"): "port",
            text.replace(":7411", ":+741"): "port",
            text.replace("gw.", "g w."): "host",
            text.replace("gw.example.org", "::1"): "host",
            text.replace("gw.example.org", "[gw]"): "host",
            text.replace("gw.example.org", "[fe80::1%1]"): "host",
            text[:-4] + "****": "characters",
            text[:-1] + "t": "damaged",
            text + "A" * 600: "not a join string",
        }
        for broken, reason in table.items():
            error = self.assertRaises(BadJoinString, JoinString.parse, broken)
            self.assertIn(reason, str(error), broken)

    @settings(deadline=None, derandomize=True)
    @given(st.text(max_size=200))
    def test_garbage(self, text: str) -> None:
        """Any text is a join string or BadJoinString, with or without the right beginning."""
        for candidate in (text, f"rsh1.{text}", f"rsh1.gw:1.{text}.{text}.{text}"):
            try:
                JoinString.parse(candidate)
            except BadJoinString:
                pass

    def test_token(self) -> None:
        """Tokens are random and stored as SHA-256."""
        token_id, secret = new_token()
        self.assertEqual((len(token_id), len(secret)), (8, 20))
        self.assertNotEqual(secret, new_token()[1])
        self.assertEqual(token_hash(secret), hashlib.sha256(secret).digest())
