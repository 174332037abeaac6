"""User certificates: what is read from them, and which are none."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.ssh_certificates import (
    MAX_PRINCIPALS,
    BadCertificate,
    SshCertificate,
    is_certificate,
    read_certificate,
)
from rshell.identity.ssh_keys import BadSshKey
from tests.identity.certificates import Private, blob_of, certificate, option, sign, string

DATA = b"what was agreed"
CA = ed25519.Ed25519PrivateKey.generate()
KEY = ed25519.Ed25519PrivateKey.generate()
_CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
#: One of each kind; RSA takes its time to make.
KINDS: list[Private] = [
    KEY,
    *(ec.generate_private_key(curve) for curve in _CURVES),
    rsa.generate_private_key(65537, 3072),
]
SUFFIX = b"-cert-v01@openssh.com"


def checked(blob: bytes) -> SshCertificate:
    return read_certificate(blob).checked()


def raw_of(private: ed25519.Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )


def sk_blob(private: ed25519.Ed25519PrivateKey) -> bytes:
    name = b"sk-ssh-ed25519@openssh.com"
    return string(name) + string(raw_of(private)) + string(b"ssh:")


def sk_sign(private: ed25519.Ed25519PrivateKey, data: bytes, flags: int) -> bytes:
    """Sign as a security key does: touched is 1, its user verified 4."""
    tail = bytes((flags,)) + struct.pack(">L", 7)
    signed = hashlib.sha256(b"ssh:").digest() + tail + hashlib.sha256(data).digest()
    return string(b"sk-ssh-ed25519@openssh.com") + string(private.sign(signed)) + tail


class ReadTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Everything that a certificate says is read."""
        critical = (
            option(b"force-command", b"uptime")
            + option(b"source-address", b"10.0.0.0/8,2001:db8::/32,192.0.2.7")
            + option(b"verify-required")
        )
        blob = certificate(
            blob_of(KEY),
            CA,
            serial=2**64 - 1,
            principals=(b"ann", b"root"),
            after=100,
            before=200,
            critical=critical,
            extensions=option(b"permit-pty") + option(b"permit-user-rc"),
        )
        found = checked(blob)
        self.assertEqual((2**64 - 1, "ann-laptop"), (found.serial, found.key_id))
        self.assertEqual(("ann", "root"), found.principals)
        self.assertEqual((100, 200), (found.valid_after, found.valid_before))
        self.assertEqual((b"uptime", True), (found.command, found.verified))
        self.assertEqual((True, False), (found.allows_pty, found.allows_forwarding))
        self.assertEqual((blob_of(KEY), blob_of(CA)), (found.key.blob, found.ca.blob))
        self.assertTrue(is_certificate(blob))
        self.assertFalse(is_certificate(blob_of(KEY)) or is_certificate(b""))

    def test_sources(self) -> None:
        """An address is in one of its networks, in whatever family it is written."""
        networks = b"10.0.0.0/8,2001:db8::/32,192.0.2.7"
        found = checked(certificate(blob_of(KEY), CA, critical=option(b"source-address", networks)))
        for good in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8::1%eth0"):
            self.assertTrue(found.admits_source(good), good)
        for bad in ("11.0.0.1", "192.0.2.8", "::1", "", "nonsense"):
            self.assertFalse(found.admits_source(bad), bad)
        self.assertTrue(checked(certificate(blob_of(KEY), CA)).admits_source("::1"))

    def test_time(self) -> None:
        """It holds from its first second up to its last, that one not included."""
        found = checked(certificate(blob_of(KEY), CA, after=100, before=200))
        self.assertEqual("is not valid yet", found.time_problem(99.9))
        self.assertIsNone(found.time_problem(100) or found.time_problem(199.9))
        self.assertEqual("has expired", found.time_problem(200))
        self.assertIsNone(checked(certificate(blob_of(KEY), CA)).time_problem(1e12))

    def test_kinds(self) -> None:
        """Keys of each kind are certified by CAs of each kind, and sign as what they are."""
        for index, key in enumerate(KINDS):
            found = checked(certificate(blob_of(key), KINDS[index - 1]))
            plain = found.key.type.encode()
            for name in (b"rsa-sha2-512", b"rsa-sha2-256") if plain == b"ssh-rsa" else (plain,):
                signature = sign(key, DATA, name)
                self.assertTrue(found.verify(name + SUFFIX, signature, DATA), name)
                self.assertFalse(found.verify(name + SUFFIX, signature, DATA + b"x"))
                self.assertFalse(found.verify(name, signature, DATA))
                self.assertFalse(found.verify(b"ssh-rsa" + SUFFIX, signature, DATA))

    def test_security_key(self) -> None:
        """A security key's must be touched, and verified where the certificate asks for it."""
        name = b"sk-ssh-ed25519" + SUFFIX
        for critical, good, bad in (
            (b"", (1, 5), (0, 4)),
            (option(b"verify-required"), (5,), (0, 1, 4)),
        ):
            found = checked(certificate(sk_blob(KEY), CA, critical=critical))
            for flags in good:
                self.assertTrue(found.verify(name, sk_sign(KEY, DATA, flags), DATA), flags)
            for flags in bad:
                self.assertFalse(found.verify(name, sk_sign(KEY, DATA, flags), DATA), flags)

    def test_verified_by_a_plain_key(self) -> None:
        """A key that is no security key can never say that its user was verified."""
        found = checked(certificate(blob_of(KEY), CA, critical=option(b"verify-required")))
        self.assertFalse(found.verify(b"ssh-ed25519" + SUFFIX, sign(KEY, DATA), DATA))

    def test_security_key_as_ca(self) -> None:
        """A CA may live in a security key that was touched."""
        for flags, holds in ((1, True), (0, False)):
            blob = certificate(
                blob_of(KEY),
                CA,
                ca_blob=sk_blob(CA),
                signed=lambda body, flags=flags: sk_sign(CA, body, flags),  # type: ignore[misc]  # its default
            )
            if holds:
                self.assertEqual(sk_blob(CA), checked(blob).ca.blob)
            else:
                self.assertRaises(BadCertificate, checked, blob)


class RefusedTests(SynchronousTestCase):
    def _refused(self, why: str, **fields: Any) -> None:
        with self.assertRaises(BadSshKey, msg=why) as caught:
            checked(certificate(blob_of(KEY), CA, **fields))
        self.assertIn(why, str(caught.exception))
        self.assertTrue(str(caught.exception).isprintable())

    def test_refused(self) -> None:
        """What is no user certificate, or says what is not known, is refused in words."""
        pty = option(b"permit-pty")
        for why, fields in (
            ("no user certificate", {"role": 2}),
            ("no user certificate", {"role": 0}),
            ("names no principal", {"principals": ()}),
            ("more than", {"principals": (b"a",) * (MAX_PRINCIPALS + 1)}),
            ("key id", {"key_id": b"\x1b[2J"}),
            ("key id", {"key_id": b"\xff"}),
            ("key id", {"key_id": b"x" * 257}),
            ("principal", {"principals": (b"an\nn",)}),
            ("'no-such'", {"critical": option(b"no-such")}),
            ("'verify-required'", {"critical": option(b"verify-required", b"x")}),
            ("'\\x1b[2J'", {"critical": option(b"\x1b[2J")}),
            ("order", {"extensions": pty + pty}),
            ("order", {"extensions": pty + option(b"permit-X11-forwarding")}),
            ("damaged", {"critical": string(b"force-command") + string(string(b"a") + b"b")}),
            ("damaged", {"critical": option(b"force-command", b"a\0b")}),
            ("source-address", {"critical": option(b"source-address", b"10.0.0.1/8")}),
            ("source-address", {"critical": option(b"source-address", b"")}),
            ("source-address", {"critical": option(b"source-address", b"*.example")}),
            ("source-address", {"critical": option(b"source-address", b"10.0.0.0/8,\xff")}),
            ("cut short", {"critical": b"\0\0\0\x09abc"}),
            ("follows", {"tail": b"x"}),
            ("too long", {"key_id": b"x" * 17_000}),
        ):
            self._refused(why, **fields)

    def test_signatures(self) -> None:
        """A signature of another key, over another body, or by SHA-1, does not hold."""
        other = ed25519.Ed25519PrivateKey.generate()
        weak = next(key for key in KINDS if isinstance(key, rsa.RSAPrivateKey))
        self._refused("does not hold", signed=lambda body: sign(other, body))
        self._refused("does not hold", signed=lambda body: sign(CA, body + b"x"))
        self._refused("does not hold", ca_blob=blob_of(other))
        sha1 = {"ca_blob": blob_of(weak), "signed": lambda body: sign(weak, body, b"ssh-rsa")}
        self._refused("does not hold", **sha1)

    def test_ca_that_is_a_certificate(self) -> None:
        """There are no chains: a certificate is no CA."""
        self._refused("only plain keys", ca_blob=certificate(blob_of(CA), CA))

    def test_weak_keys(self) -> None:
        """A key that would not be let in by itself is not by a certificate, nor is it a CA."""
        weak = rsa.generate_private_key(65537, 2048)
        line = weak.public_key().public_numbers()
        blob = string(b"ssh-rsa") + string(line.e.to_bytes(3, "big"))
        blob += string(b"\0" + line.n.to_bytes(256, "big"))
        with self.assertRaises(BadSshKey):
            checked(certificate(blob, CA))
        self._refused("2048 bits", ca_blob=blob, signed=lambda body: sign(weak, body))

    def test_damaged(self) -> None:
        """No prefix of one, and none with a bit turned, is one."""
        blob = certificate(blob_of(KEY), CA)
        for end in range(len(blob)):
            self.assertRaises(BadSshKey, checked, blob[:end])
        for index in range(len(blob)):
            turned = bytearray(blob)
            turned[index] ^= 0x10
            self.assertRaises(BadSshKey, checked, bytes(turned))
