"""What a factory hands over, and what a site's invite says: keys in files, ranges, fingerprints."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.join_string import BadJoinString, JoinString
from rshell.identity.keys import (
    fingerprint,
    new_key,
    public_key_to_pem,
    read_fingerprint,
    spki_hash,
)
from rshell.identity.public_keys import (
    MAX_KEYS,
    MAX_KEYS_BYTES,
    BadPublicKeys,
    read_public_keys,
)
from rshell.identity.sources import BadSource, check_source, host_of, is_within

DER = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def line(key: object, name: str = "") -> str:
    """Return a key as a line of a file."""
    public = key.public_key()  # type: ignore[attr-defined]  # every kind of private key has it
    text = base64.b64encode(public.public_bytes(*DER)).decode()
    return f"{name}\t{text}\n" if name else f"{text}\n"


class FileTests(SynchronousTestCase):
    def test_lines_and_blocks(self) -> None:
        """Lines with and without a name and PEM blocks may stand in one file, with comments."""
        keys = [new_key(), ec.generate_private_key(ec.SECP384R1())]
        last = ed25519.Ed25519PrivateKey.generate()
        text = (
            f"# batch 7\r\n\n{line(keys[0], 'pump-1')}"
            f"{public_key_to_pem(keys[1].public_key())}{line(last)}"
        )
        found = read_public_keys(text.encode())
        self.assertEqual([one.name for one in found], ["pump-1", None, None])
        wanted = [spki_hash(key.public_key()) for key in (*keys, last)]
        self.assertEqual([one.spki for one in found], wanted)
        self.assertEqual([one.line for one in found], [3, 4, 9])

    def test_bad_files(self) -> None:
        """What is no public key that a device may have is refused by the number of its line."""
        good = line(new_key(), "pump-1")
        weak = rsa.generate_private_key(65537, 2048)
        odd = ec.generate_private_key(ec.SECP256K1())
        pem = public_key_to_pem(new_key().public_key())
        for text, said in (
            ("", "no public key"),
            ("# nothing\n", "no public key"),
            (good + "hello\n", "line 2: this is no public key"),
            (good + "pump-2\tAAAA\n", "line 2: this is no public key"),
            (good + "pump-2\x1b[2J\n", "line 2: this is no public key"),
            (good + line(weak), "line 2: the key is neither"),
            (good + line(odd), "line 2: the key is neither"),
            (good + good, "line 2: the key of line 1 again"),
            (good + line(new_key(), "pump-1"), "line 2: the name of line 1 again"),
            (pem.rpartition("-----END")[0], "line 1: this key has no end"),
            ("-----BEGIN PRIVATE KEY-----\n", "line 1: this is not a public key"),
            ("\n".join(["AAAA"] * 3), "line 1: this is no public key"),
        ):
            error = self.assertRaises(BadPublicKeys, read_public_keys, text.encode())
            self.assertIn(said, str(error))
            self.assertNotIn("\x1b", str(error))
        self.assertRaises(BadPublicKeys, read_public_keys, b"#" * (MAX_KEYS_BYTES + 1))
        self.assertRaises(BadPublicKeys, read_public_keys, b"\xff\xfe\x00")
        self.assertGreaterEqual(MAX_KEYS_BYTES // 250, MAX_KEYS)


class FingerprintTests(SynchronousTestCase):
    def test_shape(self) -> None:
        """Four groups of four letters, of the first 80 bits of the key's hash."""
        self.assertEqual(fingerprint(bytes(32)), "AAAA-AAAA-AAAA-AAAA")
        self.assertEqual(fingerprint(b"\xff" * 32), "7777-7777-7777-7777")

    @settings(deadline=None, derandomize=True)
    @given(st.binary(min_size=32, max_size=32))
    def test_read(self, spki: bytes) -> None:
        """It is read back however it was typed, and nothing else is."""
        text = fingerprint(spki)
        for typed in (text, text.lower(), text.replace("-", ""), f" {text.replace('-', ' ')} "):
            self.assertEqual(read_fingerprint(typed), spki[:10])
        self.assertIsNone(read_fingerprint(text[:-1]))
        self.assertIsNone(read_fingerprint(text + "A"))

    def test_names(self) -> None:
        """Usual names are no fingerprints."""
        for name in ("", "pump-1", "valve-17-berlin", "0189-0189-0189-0189", "a" * 63):
            self.assertIsNone(read_fingerprint(name), name)


class SourceTests(SynchronousTestCase):
    def test_ranges(self) -> None:
        """Ranges of both families are taken in their usual spelling, an address as itself."""
        for text, usual in (
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 192.0.2.7 ", "192.0.2.7/32"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ):
            self.assertEqual(check_source(text), usual)
        error = self.assertRaises(BadSource, check_source, "10.1.2.3/8")
        self.assertIn("10.0.0.0/8", str(error))
        for bad in ("", "here", "10.0.0.0/33", "10.0.0/8", "::1%eth0/64", "::ffff:10.0.0.0/104"):
            self.assertRaises(BadSource, check_source, bad)

    def test_within(self) -> None:
        """An address is in a range of its family; IPv4 within IPv6 counts as IPv4."""
        ranges = ["10.0.0.0/8", "2001:db8::/32"]
        for address, inside in (
            ("10.9.8.7:1", True),
            ("[::ffff:10.9.8.7]:1", True),
            ("11.0.0.1:1", False),
            ("[2001:db8::9]:1", True),
            ("[2001:db9::9]:1", False),
            ("[fe80::1%eth0]:1", False),
            ("?:0", False),
        ):
            self.assertIs(is_within(ranges, host_of(address)), inside, address)
            self.assertTrue(is_within([], host_of(address)))


class PublicStringTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """A public string has a mark of its own, and no secret or not even an id."""
        for token_id in (b"", b"12345678"):
            string = JoinString("::1", 7411, b"\1" * 32, token_id)
            self.assertTrue(string.encode().startswith("rsh1p.[::1]:7411."))
            self.assertEqual(JoinString.parse(string.encode()), string)
            self.assertTrue(string.public)

    def test_no_mixture(self) -> None:
        """A string with a secret that was cut is never taken for a public one."""
        secret = JoinString("gw.example", 1, b"\1" * 32, b"12345678", b"s" * 20)
        self.assertFalse(secret.public)
        text = secret.encode()
        for cut in range(len(text)):
            self.assertRaises(BadJoinString, JoinString.parse, text[:cut])
        for bad in (
            text.replace("rsh1.", "rsh1p."),
            "rsh1p.gw:1",
            "rsh1p.gw:1.",
            "rsh1p.gw:1.AAAA",
            JoinString("gw", 1, b"\1" * 32).encode() + ".",
            JoinString("gw", 1, b"\1" * 32).encode() + ".AAAA",
        ):
            self.assertRaises(BadJoinString, JoinString.parse, bad)
        with self.assertRaises(BadJoinString):
            JoinString("gw", 1, b"\1" * 32, b"", b"s" * 20)
