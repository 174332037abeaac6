"""What is said while keys change: between the two NEWKEYS, and to a peer that does not read."""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.common import NS

from rshell.doors.ssh.transport import KEX_SECONDS, MAX_UNREAD_ANSWERS
from tests.doors.ssh.client import Client, SshTestCase
from tests.doors.ssh.test_transport import StrictClient


class _Late(Client):
    """A client whose NEWKEYS is long on its way.

    Attributes:
        late: Whether the next one is.
    """

    late = False
    _on_its_way = b""

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        super().sendPacket(messageType, payload)
        if self.late and messageType == 21:
            wire: Any = self.transport
            self._on_its_way = wire.waiting.pop()

    def arrive(self) -> None:
        """Let it come."""
        wire: Any = self.transport
        self.late = False
        wire.waiting.append(self._on_its_way)


class _StrictLate(_Late, StrictClient):
    pass


class _Silent(Client):
    """A client that begins to change keys, and stops there."""

    def ssh_KEXINIT(self, packet: bytes) -> None:
        if not self.secure:
            super().ssh_KEXINIT(packet)


class RekeyingTests(SshTestCase):
    def test_words_between_the_keys(self) -> None:
        """What is said between our NEWKEYS and the peer's is read with the new keys."""
        for kind in (_Late, _StrictLate):
            client = self.login(kind=kind)
            client.late = True
            client.server._rekey()
            self.fleet.pump()
            self.assertEqual(2, client.secure)
            client.server.service.notice("pump-1 has a new address")
            self.fleet.pump()
            self.assertEqual((1, None, False), (len(client.got(4)), client.goodbye, client.lost))
            client.arrive()
            self.fleet.pump()
            self.open(client)
            self.assertEqual((1, False), (len(client.got(91)), client.lost))

    def test_goodbye_between_the_keys(self) -> None:
        """The last words are read then, too."""
        client = self.login(kind=_StrictLate)
        client.late = True
        client.server._rekey()
        self.fleet.pump()
        client.server.disconnect("the gateway stops")
        self.fleet.pump()
        self.assertEqual(b"the gateway stops", client.goodbye)

    def test_a_wake_between_the_keys(self) -> None:
        """Dropbear's client is woken after its channel's CLOSE, not before."""
        client, device = self.running(kind=_Late)
        device.accept()
        self.fleet.pump()
        client.late = True
        client.server._rekey()
        self.fleet.pump()
        client.server.otherVersionString = b"SSH-2.0-dropbear_2022.83"
        (channel,) = client.server.service._channels.values()
        client.server.service.send_close(channel)
        client.server.service.forget(channel)
        self.fleet.pump()
        client.arrive()
        self.fleet.pump()
        numbers = [number for number, _ in client.packets]
        self.assertEqual(([97, 2], False), (numbers[-2:], client.lost))

    def test_begun_and_not_finished(self) -> None:
        """A peer that begins to change keys and does not go on is cut off."""
        client = self.login(kind=_Silent)
        client.sendKexInit()
        self.fleet.pump()
        self.fleet.advance(KEX_SECONDS - 1)
        self.assertFalse(client.lost)
        self.fleet.advance(2)
        self.assertTrue(client.lost)

    def test_empty_answers_nobody_reads(self) -> None:
        """Answers without a payload take memory as well."""
        client = self.login()
        client.server.pauseProducing()
        wire = client.server.transport
        before = sum(map(len, wire.sent))
        for _ in range(100_000):
            if client.server.closing:
                break
            client.server.dispatchMessage(80, NS(b"keepalive@openssh.com") + b"\1")
        self.assertTrue(client.server.closing)
        self.assertLess(sum(map(len, wire.sent)) - before, 2 * MAX_UNREAD_ANSWERS)

    def test_answers_while_keys_change(self) -> None:
        """A peer that asks on, and does not answer our keys, is cut off as well."""
        client = self.login()
        client.wire.held = True
        client.server._rekey()
        for _ in range(100_000):
            if client.server.closing:
                break
            client.server.dispatchMessage(80, NS(b"keepalive@openssh.com") + b"\1")
        self.assertTrue(client.server.closing)

    def test_a_few_answers_while_keys_change(self) -> None:
        """What waited for one set of keys does not count against the next."""
        client = self.login()
        for turn in range(1, 6):
            client.wire.held = True
            client.server._rekey()
            for _ in range(1000):
                client.server.dispatchMessage(80, NS(b"keepalive@openssh.com") + b"\1")
            client.wire.held = False
            self.fleet.pump()
            self.assertEqual((1000 * turn, False), (len(client.got(82)), client.lost))
