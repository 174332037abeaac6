"""Certificates made by ``ssh-keygen -s``, used by stock ``ssh``, registered by ``rshell keys``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.functional.processes import lasting, until
from tests.functional.ssh_door import SshCase

ED25519, ECDSA, RSA = ("-t", "ed25519"), ("-t", "ecdsa", "-b", "384"), ("-t", "rsa", "-b", "3072")


class CertificateCase(SshCase):
    def authority(self, name: str, *options: str) -> Path:
        """Make a CA and register it, until the test is over."""
        path = self.fleet.new_key(name, *options)
        done = self.fleet.rshell("keys", "add", "--ca", name, f"{path}.pub")
        self.assert_status(0, done)
        self.assertIn(f"CA {name}: ".encode(), done.stdout)
        self.addCleanup(self.fleet.rshell, "keys", "remove", "--ca", name)
        return path

    def certified(
        self, ca: Path, name: str, *options: str, kind: tuple[str, ...] = ED25519
    ) -> Path:
        """Make a key with a certificate; ssh finds it beside the key."""
        key = self.fleet.new_key(name, *kind)
        self.certify(ca, key, *options)
        return key

    def certify(self, ca: Path, key: Path, *options: str) -> None:
        words = ["ssh-keygen", "-q", "-s", str(ca), "-I", key.name, *options, f"{key}.pub"]
        done = self.fleet.command(words)
        self.assertEqual(0, done.status, done)


class CertificateTests(CertificateCase):
    def test_kinds(self) -> None:
        """Keys and CAs of each kind let in the operator that is named; the audit tells by what."""
        for index, (signer, kind) in enumerate(((ED25519, RSA), (ECDSA, ED25519), (RSA, ECDSA))):
            ca = self.authority(f"kind-{index}", *signer)
            key = self.certified(ca, f"c{index}", "-n", "admin,x", "-z", str(70 + index), kind=kind)
            done = self.fleet.ssh("pump-1", "echo in", key=key)
            self.assertEqual((0, b"in\n"), (done.status, done.stdout), done)
        done = self.fleet.rshell("audit", "--kind", "operator.entered", "--limit", "20", "--json")
        told = [row["summary"] for row in json.loads(done.stdout)]
        self.assertIn("by certificate c2 (serial 72) of CA kind-2", told)

    def test_options(self) -> None:
        """force-command, source-address and permissions of a certificate are heeded."""
        ca = self.authority("options")
        key = self.certified(
            ca,
            "o1",
            *("-n", "admin", "-O", "clear", "-O", "force-command=echo did: $SSH_ORIGINAL_COMMAND"),
            *("-O", "source-address=127.0.0.0/8"),
        )
        done = self.fleet.ssh("pump-1", "rm -r /", key=key)
        self.assertEqual((0, b"did: rm -r /\n"), (done.status, done.stdout), done)
        told = ("-oLogLevel=INFO",)
        done = self.fleet.ssh("pump-1", key=key, options=(*told, "-W", "localhost:22"))
        self.assertIn(b"certificate does not permit port forwarding", done.stderr)
        done = self.fleet.ssh("pump-1", key=key, options=(*told, "-tt"))
        self.assertIn(b"PTY allocation request failed", done.stderr)

    def test_refused(self) -> None:
        """Whom a certificate does not let in is told why; one penalty at the most."""
        ca = self.authority("refusing")
        key = self.certified(ca, "r1", "-n", "nobody-of-us")
        done = self.fleet.ssh("pump-1", "id", key=key, options=("-oLogLevel=INFO",))
        self.assertEqual((255, b""), (done.status, done.stdout))
        self.assertIn(b"rshell: your certificate names no operator (nobody-of-us)", done.stderr)

    def test_revoked(self) -> None:
        """Revoking a serial number ends the connection, removing the CA ends the others."""
        ca = self.authority("ending")
        running = []
        for number in (1, 2):
            key = self.certified(ca, f"e{number}", "-n", "admin", "-z", str(number))
            mark = self.fleet.base / f"in-{number}"
            command = self.fleet.ssh_command("pump-1", f"touch {mark}; sleep 100", key=key)
            running.append(self.fleet.start(command))
            self.addCleanup(running[-1].kill)
            until(mark.exists, lambda: "the command runs")
        done = self.fleet.rshell("keys", "revoke", "--ca", "ending", "--serial", "1")
        self.assert_status(0, done)
        self.assertEqual(b"revoked serial 1 of the CA ending, 1 connection closed\n", done.stdout)
        self.assertIn(b"this certificate was revoked", running[0].finish(b"", 20).stderr)
        listed = self.fleet.rshell("keys", "list", "--ca").stdout
        self.assertRegex(listed, rb"ending +ssh-ed25519 .* serial 1\n")
        done = self.fleet.rshell("keys", "remove", "--ca", "ending")
        self.assertEqual(b"removed the CA ending, 1 connection closed\n", done.stdout)
        self.assertIn(b"the CA ending was removed", running[1].finish(b"", 20).stderr)

    def test_bad_usage(self) -> None:
        """What cannot be a CA, a name, a serial number: one line each."""
        key = self.authority("usage")
        for status, words, data in (
            (2, ("keys", "add", "--ca", "x", "a", "b"), b""),
            (2, ("keys", "add"), b""),
            (2, ("keys", "remove", "--ca", "x", "ann"), b""),
            (2, ("keys", "remove", "ann"), b""),
            (2, ("keys", "list", "--ca", "ann"), b""),
            (2, ("keys", "revoke", "--ca", "usage"), b""),
            (2, ("keys", "revoke", "--ca", "usage", "--serial", "0"), b""),
            (2, ("keys", "revoke", "--ca", "usage", "--serial", "1", "--id", "a"), b""),
            (2, ("keys", "revoke", "--serial", "1"), b""),
            (255, ("keys", "add", "--ca", "Big Name", f"{key}.pub"), b""),
            (255, ("keys", "add", "--ca", "x", str(key)), b""),
            (255, ("keys", "add", "--ca", "other", f"{key}.pub"), b""),
            (255, ("keys", "add", "--ca", "x"), Path(f"{key}.pub").read_bytes() * 2),
            (255, ("keys", "add", "--ca", "x"), b"nonsense"),
            (255, ("keys", "list", "nobody-here"), b""),
            (255, ("keys", "remove", "--ca", "nowhere"), b""),
            (255, ("keys", "revoke", "--ca", "nowhere", "--id", "a"), b""),
        ):
            done = self.fleet.rshell(*words, data=data)
            self.assert_status(status, done)
            self.assertEqual(b"", done.stdout, words)
            if status == 255:
                self.assert_one_line(done.stderr)

    @lasting("waits until a certificate has expired")
    def test_expires(self) -> None:
        """A connection ends with its certificate, and says so."""
        ca = self.authority("expiring")
        key = self.certified(ca, "x1", "-n", "admin", "-V", "+12s")
        done = self.fleet.ssh("pump-1", "cat; sleep 60", key=key)
        self.assertEqual(255, done.status)
        self.assertIn(b"your certificate has expired", done.stderr)
