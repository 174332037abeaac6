"""An operator's client and the list of revoked gateways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rshell.client import Client, ConnectionFailed, connect
from rshell.identity.keys import spki_hash
from rshell.identity.revoked import sign_revoked
from rshell.link.core.messages import Advice
from tests.client.fake_gateway import FakeGateway
from tests.client.test_client import profile_of
from tests.identity.dev_fleet import fleet

reactor: Any = _reactor
ROOT = fleet().keys.root
THIS = spki_hash(fleet().leaves["gateway"].key.public_key())
OTHER = bytes(32)


class RevokedGatewayTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.gateway = FakeGateway(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.gateway.stop()))
        self.directory = Path(self.mktemp())
        self.directory.mkdir(mode=0o700)
        self.kept = self.directory / "revoked-gateways.json"

    async def client(self) -> Client:
        """Connect, as a command does."""
        client = await connect(reactor, profile_of(self.directory, self.gateway.address))
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        return client

    async def refused(self) -> None:
        """Check that the gateway is refused for its key."""
        with self.assertRaises(ConnectionFailed) as caught:
            await self.client()
        self.assertIn("this gateway's key is revoked", caught.exception.message)

    async def test_none(self) -> None:
        """Without a list nothing is written: a command that does so costs nobody."""
        await self.client()
        self.assertFalse(self.kept.exists())

    async def test_others(self) -> None:
        """A list of others is kept in the profile, and the command goes on."""
        self.gateway.revoked = sign_revoked(ROOT, 3, [OTHER])
        self.gateway.answers["whoami"] = {"name": "alice", "roles": [], "fleet": "f"}
        client = await self.client()
        await client.call_gateway("whoami")
        self.assertTrue(self.kept.exists())

    async def test_this_one(self) -> None:
        """A gateway that revokes itself is left; the next command does not say HELLO to it."""
        self.gateway.revoked = sign_revoked(ROOT, 3, [THIS])
        await self.refused()
        self.assertEqual(len(self.gateway.hellos), 1)
        self.gateway.revoked = None
        await self.refused()
        self.assertEqual(len(self.gateway.hellos), 1)

    async def test_foreign_and_older(self) -> None:
        """A list that the root did not sign, and an older one, change nothing."""
        self.gateway.revoked = sign_revoked(ROOT, 5, [OTHER])
        await self.client()
        before = self.kept.read_bytes()
        for told in (sign_revoked(fleet().keys.gateway, 9, [THIS]), sign_revoked(ROOT, 4, [THIS])):
            self.gateway.revoked = told
            await self.client()
            self.assertEqual(self.kept.read_bytes(), before)

    async def test_in_advice(self) -> None:
        """A link in use ends when a list that names its gateway comes."""
        client = await self.client()
        self.assertIn("revoked-gateways", self.gateway.hellos[0].features)
        lost: Deferred[None] = Deferred()
        self.gateway.on_lost = lambda: lost.callback(None)
        self.gateway.links[-1].advise(
            Advice(retry_spread_ms=0, revoked_gateways=sign_revoked(ROOT, 3, [THIS]))
        )
        await lost
        self.gateway.on_lost = lambda: None
        self.assertTrue(self.kept.exists())
        self.assertFalse(client.closed)
