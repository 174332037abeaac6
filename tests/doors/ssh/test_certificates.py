"""Logins by certificates of a CA: who gets in, within which limits, and for how long."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.common import NS, getNS

from rshell.identity.ssh_keys import read_blob
from rshell.store.errors import NotFound
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.ends import DeviceEnd
from tests.identity.certificates import blob_of, certificate, option, sign

SUFFIX = b"-cert-v01@openssh.com"


class CertificateCase(SshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.ca = ed25519.Ed25519PrivateKey.generate()
        self.key = ed25519.Ed25519PrivateKey.generate()
        key = read_blob(blob_of(self.ca))
        store = self.fleet.store
        self.fleet.got(store.add_ssh_ca("office", key.fingerprint, key.type, key.blob, "c"))

    def made(self, **fields: Any) -> bytes:
        """Return a certificate of the key, by the CA."""
        return certificate(blob_of(self.key), fields.pop("ca", self.ca), **fields)

    def try_certificate(
        self, client: Client, blob: bytes, user: bytes = b"pump-1", *, signed: bool = True
    ) -> None:
        name = b"ssh-ed25519" + SUFFIX
        head = NS(user) + NS(b"ssh-connection") + NS(b"publickey")
        body = bytes(head + (b"\1" if signed else b"\0") + NS(name) + NS(blob))
        if signed:
            body += NS(sign(self.key, NS(client.sessionID) + bytes((50,)) + body))
        client.sendPacket(50, body)
        self.fleet.pump()

    def shown(self, blob: bytes, user: bytes = b"pump-1", **more: Any) -> Client:
        """Connect and show a certificate."""
        client = self.connect(**more)
        self.ask_for_login(client)
        self.try_certificate(client, blob, user)
        return client

    def entered(self, blob: bytes, user: bytes = b"pump-1", **more: Any) -> Client:
        client = self.shown(blob, user, **more)
        self.assertEqual(1, len(client.got(52)), (client.packets, client.goodbye))
        return client

    def refused(self, blob: bytes, why: str, **more: Any) -> None:
        client = self.shown(blob, **more)
        self.assertEqual((0, 1), (len(client.got(52)), len(client.got(51))))
        told = b"".join(getNS(payload)[0] for payload in client.got(53)).decode()
        self.assertIn(why, told)
        if why:
            self.assertRegex(told, r"\Arshell: [ -~]+\r\n\Z")


class LoginTests(CertificateCase):
    def test_entered(self) -> None:
        """A certificate lets in the operator it names; the audit tells CA, key id and serial."""
        self.entered(self.made(serial=2**64 - 1))
        (row,) = self.fleet.audit("operator.entered", door="ssh")
        self.assertEqual("ann", row.record.operator)
        key = read_blob(blob_of(self.ca))
        told = {
            "ca": "office",
            "ca_key": key.fingerprint,
            "id": "ann-laptop",
            "serial": str(2**64 - 1),
        }
        self.assertEqual(told, row.record.details["certificate"])
        self.assertEqual(read_blob(blob_of(self.key)).fingerprint, row.record.details["key"])
        (ca,) = self.fleet.got(self.fleet.store.ssh_cas())
        self.assertIsNotNone(ca.last_used)
        self.assertEqual(1, self.door.metrics.logins["ok", "certificate"])

    def test_offered_first(self) -> None:
        """One that is only offered is asked to sign."""
        client = self.connect()
        self.ask_for_login(client)
        blob = self.made()
        self.try_certificate(client, blob, signed=False)
        self.assertEqual([NS(b"ssh-ed25519" + SUFFIX) + NS(blob)], client.got(60))
        self.try_certificate(client, blob)
        self.assertEqual(1, len(client.got(52)))

    def test_refused(self) -> None:
        """Who shows one of our CA that does not let in is told why; others learn nothing."""
        fleet = self.fleet
        fleet.add_operator("bob")
        fleet.add_operator("eve")
        fleet.got(fleet.store.revoke_operator("eve"))
        now = int(fleet.wall())
        hosts = iter(range(1, 100))
        stranger = ed25519.Ed25519PrivateKey.generate()
        for why, fields in (
            ("", {"ca": stranger}),
            ("", {"signed": lambda body: sign(stranger, body)}),
            ("names no operator (nobody, pump-1)", {"principals": (b"nobody", b"pump-1")}),
            ("names no operator (eve)", {"principals": (b"eve",)}),
            ("several operators (ann and bob)", {"principals": (b"ann", b"bob")}),
            ("names no principal", {"principals": ()}),
            ("not valid yet", {"after": now + 60}),
            ("expired", {"before": now}),
            ("this address", {"critical": option(b"source-address", b"10.0.0.0/8")}),
            ("not known here", {"critical": option(b"no-such")}),
            ("PIN or finger", {"critical": option(b"verify-required")}),
            ("no user certificate", {"role": 2}),
        ):
            self.refused(self.made(**fields), why, host=f"192.0.2.{next(hosts)}")
        self.assertEqual([], fleet.audit("operator.entered", door="ssh"))
        self.entered(self.made(principals=(b"nobody", b"ann", b"eve")))

    def test_another_key(self) -> None:
        """A certificate without its key is worth nothing."""
        blob = certificate(blob_of(ed25519.Ed25519PrivateKey.generate()), self.ca)
        client = self.shown(blob)
        self.assertEqual((0, 1), (len(client.got(52)), len(client.got(51))))

    def test_source(self) -> None:
        """One that is bound to a network lets in from there."""
        blob = self.made(critical=option(b"source-address", b"192.0.2.0/24,2001:db8::/64"))
        self.entered(blob)
        self.entered(blob, host="2001:db8::7")
        self.refused(blob, "this address", host="198.51.100.1")

    def test_store_fails(self) -> None:
        """A store that fails lets nobody in."""
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.got(self.fleet.store.close())
        self.try_certificate(client, self.made())
        self.assertEqual([], client.got(52))


class EndTests(CertificateCase):
    def _ask(self, verb: str, **request: Any) -> Any:
        end = self.fleet.dial(self.ann)
        talk = end.call(verb, request=request)
        self.fleet.pump()
        return talk.answer()

    def test_revoked(self) -> None:
        """Revoking by serial or key id ends the connections that it is about, and no others."""
        first = self.entered(self.made(serial=1, key_id=b"one"))
        second = self.entered(self.made(serial=2, key_id=b"two"))
        third = self.entered(self.made(serial=3, key_id=b"three"))
        answer = self._ask("gateway.keys.revoke", name="office", serial="1")
        self.assertEqual(1, answer["connections_closed"])
        self.assertEqual(b"this certificate was revoked", first.goodbye)
        self.fleet.advance(1)
        self.assertEqual(
            1, self._ask("gateway.keys.revoke", name="office", id="two")["connections_closed"]
        )
        self.assertEqual((b"this certificate was revoked", None), (second.goodbye, third.goodbye))
        self.refused(self.made(serial=1, key_id=b"other"), "is revoked")
        self.refused(self.made(serial=9, key_id=b"two"), "is revoked")
        (ca,) = self._ask("gateway.keys.list-cas")
        self.assertEqual(
            [{"serial": "1"}, {"id": "two"}],
            [{k: v for k, v in one.items() if k != "revoked_at"} for one in ca["revoked"]],
        )

    def test_ca_removed(self) -> None:
        """Removing a CA ends what came in by it; coming back, it brings no revoked one back."""
        client, by_key = self.entered(self.made()), self.login()
        self._ask("gateway.keys.revoke", name="office", serial="5")
        answer = self._ask("gateway.keys.remove-ca", name="office")
        self.assertEqual(1, answer["connections_closed"])
        self.assertEqual((b"the CA office was removed", None), (client.goodbye, by_key.goodbye))
        self.refused(self.made(), "")
        key = read_blob(blob_of(self.ca))
        store = self.fleet.store
        self.fleet.got(store.add_ssh_ca("again", key.fingerprint, key.type, key.blob, "c"))
        self.refused(self.made(serial=5), "is revoked")
        self.failureResultOf(store.remove_ssh_ca("office"), NotFound)

    def test_removed_meanwhile(self) -> None:
        """A CA that is removed while a login is written down lets nobody in."""
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.threads.hold("write")
        self.try_certificate(client, self.made())
        self.fleet.store.remove_ssh_ca("office")
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual([], client.got(52))
        self.assertEqual({}, self.door._connections)

    def test_expires(self) -> None:
        """A connection ends with its certificate; a command that runs goes on."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.entered(self.made(before=int(self.fleet.wall()) + 100))
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"sleep 1000"))
        talk = device.accept()
        self.fleet.pump()
        self.fleet.advance(97)
        self.assertIsNone(client.goodbye)
        self.fleet.advance(4)
        assert client.goodbye is not None
        self.assertIn(b"certificate has expired", client.goodbye)
        self.assertIn(b"certificate has expired", client.data(extended=True))
        self.assertEqual("link-lost", talk.code)
        self.assertEqual({}, self.door._connections)

    def test_left(self) -> None:
        """Nothing looks at the certificate of a connection that is gone."""
        client = self.entered(self.made(before=int(self.fleet.wall()) + 100))
        client.wire.cut()
        self.fleet.pump()
        self.assertEqual({}, self.door._connections)
        self.fleet.advance(200, 5)


class LimitTests(CertificateCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: DeviceEnd = self.fleet.dial(self.pump)

    def _command(self) -> tuple[bytes, dict[bytes, bytes]]:
        opened = self.device.requests[-1][1]
        decode = base64.b64decode
        pairs = opened.request.get("environment", [])
        environment = {decode(name): decode(value) for name, value in pairs}
        return decode(opened.request["line"]), environment

    def test_command(self) -> None:
        """Its command runs, whatever is asked for, which is in the environment as with sshd."""
        blob = self.made(critical=option(b"force-command", b"backup"))
        for kind, data, original in (
            (b"exec", NS(b"rm -r /"), b"rm -r /"),
            (b"shell", b"", None),
            (b"subsystem", NS(b"sftp"), b"sftp"),
        ):
            client = self.entered(blob)
            self.open(client)
            self.ask(client, 0, kind, data)
            self.assertEqual("exec", self.device.requests[-1][1].handler)
            line, environment = self._command()
            self.assertEqual(
                (b"backup", original), (line, environment.get(b"SSH_ORIGINAL_COMMAND"))
            )

    def test_sftp_only(self) -> None:
        """internal-sftp stands for sftp."""
        client = self.entered(self.made(critical=option(b"force-command", b"internal-sftp")))
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"id"))
        self.assertEqual("sftp", self.device.requests[-1][1].handler)

    def test_too_long(self) -> None:
        """Two commands that do not fit together are refused."""
        client = self.entered(self.made(critical=option(b"force-command", b"x" * 6000)))
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"y" * 6000))
        self.assertEqual([], self.device.requests)
        self.assertIn(b"too long", client.data(extended=True))

    def test_no_console(self) -> None:
        """A certificate for one command opens no console."""
        client = self.entered(self.made(critical=option(b"force-command", b"x")), b"console")
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"1"))
        self.assertIn(b"no console", client.data(extended=True))

    def test_nothing_permitted(self) -> None:
        """Without extensions there is no terminal and no forward; commands run."""
        client = self.entered(self.made(extensions=b""))
        self.open(client)
        self.ask(client, 0, b"pty-req", NS(b"xterm") + u32(80, 24, 0, 0) + NS(b""))
        self.assertEqual(1, len(client.got(100)))
        target = NS(b"localhost") + u32(80) + NS(b"127.0.0.1") + u32(1)
        self.open(client, b"direct-tcpip", extra=target)
        (failure,) = client.got(92)
        self.assertIn(b"certificate does not permit", failure)
        client.sendPacket(80, NS(b"tcpip-forward") + b"\1" + NS(b"localhost") + u32(0))
        self.fleet.pump()
        self.assertEqual(1, len(client.got(82)))
        self.assertEqual([], self.device.requests)
        self.ask(client, 0, b"exec", NS(b"id"))
        self.assertEqual(1, len(self.device.requests))
        self.assertIn(b"certificate does not permit", client.data(extended=True))

    def test_keys_have_no_limits(self) -> None:
        """A login by a key may have both."""
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"pty-req", NS(b"xterm") + u32(80, 24, 0, 0) + NS(b""))
        self.assertEqual(1, len(client.got(99)))
