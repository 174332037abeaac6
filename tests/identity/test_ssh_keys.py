"""SSH public keys: what is read, what is verified, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.ssh_keys import BadSshKey, SshPublicKey, read_blob, read_lines

DATA = b"what is signed"


def string(data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + data


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def line_of(public: Any) -> str:
    encoded: bytes = public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return encoded.decode()


def raw_of(private: ed25519.Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )


class VerifyTests(SynchronousTestCase):
    def _holds(self, key: SshPublicKey, name: bytes, signature: bytes) -> None:
        """Check that a signature is right, and that anything else is not."""
        blob = string(name) + signature
        self.assertTrue(key.verify(name, blob, DATA))
        self.assertFalse(key.verify(name, blob, DATA + b"x"))
        self.assertFalse(key.verify(b"ssh-rsa", blob, DATA))
        self.assertFalse(key.verify(name, blob + b"x", DATA))
        for end in range(len(blob)):
            self.assertFalse(key.verify(name, blob[:end], DATA))

    def test_ed25519(self) -> None:
        """Ed25519 signatures hold."""
        private = ed25519.Ed25519PrivateKey.generate()
        (key,) = read_lines(line_of(private.public_key()) + " ann's key")
        self.assertEqual(("ssh-ed25519", "ann's key"), (key.type, key.comment))
        self._holds(key, b"ssh-ed25519", string(private.sign(DATA)))

    def test_ecdsa(self) -> None:
        """ECDSA signatures of the three curves hold, each with its own hash."""
        kinds: list[tuple[Any, Any, bytes]] = [
            (ec.SECP256R1(), hashes.SHA256(), b"ecdsa-sha2-nistp256"),
            (ec.SECP384R1(), hashes.SHA384(), b"ecdsa-sha2-nistp384"),
            (ec.SECP521R1(), hashes.SHA512(), b"ecdsa-sha2-nistp521"),
        ]
        for curve, hashing, name in kinds:
            private = ec.generate_private_key(curve)
            (key,) = read_lines(line_of(private.public_key()))
            r, s = decode_dss_signature(private.sign(DATA, ec.ECDSA(hashing)))
            self._holds(key, name, string(mpint(r) + mpint(s)))

    def test_rsa(self) -> None:
        """RSA signatures with SHA-2 hold; the same with SHA-1 do not."""
        private = rsa.generate_private_key(65537, 3072)
        (key,) = read_lines(line_of(private.public_key()))
        for name, hashing in (
            (b"rsa-sha2-256", hashes.SHA256()),
            (b"rsa-sha2-512", hashes.SHA512()),
        ):
            signature = private.sign(DATA, padding.PKCS1v15(), hashing)
            self.assertTrue(key.verify(name, string(name) + string(signature), DATA))
        sha1 = private.sign(DATA, padding.PKCS1v15(), hashes.SHA1())
        self.assertFalse(key.verify(b"ssh-rsa", string(b"ssh-rsa") + string(sha1), DATA))
        self.assertFalse(key.verify(b"rsa-sha2-256", string(b"rsa-sha2-256") + string(sha1), DATA))

    def _sk(self, flags: int) -> tuple[bytes, bytes]:
        """Return what a security key signs, and what follows its signature."""
        tail = bytes((flags,)) + struct.pack(">L", 7)
        signed = hashlib.sha256(b"ssh:").digest() + tail + hashlib.sha256(DATA).digest()
        return signed, tail

    def test_security_key_ed25519(self) -> None:
        """An Ed25519 security key's signature holds if somebody touched it."""
        private = ed25519.Ed25519PrivateKey.generate()
        name = b"sk-ssh-ed25519@openssh.com"
        key = read_blob(string(name) + string(raw_of(private)) + string(b"ssh:"))
        signed, tail = self._sk(1)
        self._holds(key, name, string(private.sign(signed)) + tail)
        signed, tail = self._sk(0)
        self.assertFalse(key.verify(name, string(name) + string(private.sign(signed)) + tail, DATA))
        _, other = self._sk(5)
        self.assertFalse(
            key.verify(name, string(name) + string(private.sign(signed)) + other, DATA)
        )

    def test_security_key_ecdsa(self) -> None:
        """An ECDSA security key's likewise."""
        private = ec.generate_private_key(ec.SECP256R1())
        point = private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        name = b"sk-ecdsa-sha2-nistp256@openssh.com"
        key = read_blob(string(name) + string(b"nistp256") + string(point) + string(b"ssh:"))
        signed, tail = self._sk(1)
        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
        self._holds(key, name, string(mpint(r) + mpint(s)) + tail)


class ReadTests(SynchronousTestCase):
    def test_fingerprint(self) -> None:
        """Fingerprints are as ssh-keygen -l shows them."""
        blob = base64.b64decode(
            "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
        )
        self.assertEqual(
            "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", read_blob(blob).fingerprint
        )

    def test_several(self) -> None:
        """A file may have several keys, comments and empty lines."""
        lines = [line_of(ed25519.Ed25519PrivateKey.generate().public_key()) for _ in range(3)]
        self.assertEqual(3, len(read_lines("# mine\n\n" + "\n".join(lines) + "\n")))

    def test_refused(self) -> None:
        """Weak, private, damaged, mislabelled and unknown keys are refused, each in words."""
        good = line_of(ed25519.Ed25519PrivateKey.generate().public_key())
        weak = line_of(rsa.generate_private_key(65537, 2048).public_key())
        kind, body = good.split()
        blob = base64.b64decode(body)

        def again(data: bytes) -> str:
            return f"{kind} {base64.b64encode(data).decode()}"

        for bad, why in (
            ("", "no public key"),
            ("# nothing", "no public key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
            (weak, "2048 bits"),
            (f"command=ls {good}", "without options"),
            (f"ssh-dss {body}", "not an OpenSSH public key"),
            (f"ecdsa-sha2-nistp256 {body}", "in it is ssh-ed25519"),
            (f"{kind} @@@@", "not base64"),
            (again(blob[:-1]), "cut short"),
            (again(blob + b"x"), "follows"),
            (again(blob[:15] + string(b"abc")), "damaged"),
            (again(string(b"ssh-dss") + blob), "not accepted"),
            (again(b"\0" * 9000), "too long"),
            ("\n".join([good] * 65), "at most"),
            ("\x1b[2J", "not an OpenSSH public key"),
        ):
            with self.assertRaises(BadSshKey, msg=bad) as caught:
                read_lines(bad)
            self.assertIn(why, str(caught.exception))
            self.assertTrue(str(caught.exception).isprintable())
