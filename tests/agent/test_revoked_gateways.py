"""An agent and the list of revoked gateways: in WELCOME, in ADVICE, at the next dial, on disk."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import deferLater

from rshell.identity.keys import spki_hash
from rshell.identity.revoked import RevokedGateways, sign_revoked
from rshell.link.core.messages import Advice, Hello
from rshell.link.protocol import LinkProtocol
from tests.agent.gateway import reactor
from tests.agent.running import AgentCase, Program
from tests.agent.test_link_watch import WatchCase
from tests.identity.dev_fleet import fleet

ROOT = fleet().keys.root
THIS = spki_hash(fleet().leaves["gateway"].key.public_key())
OTHER = bytes(32)


class LinksTests(WatchCase):
    """What the owner of the links does with a list, without a network."""

    def advise(self, told: RevokedGateways) -> None:
        """Let the gateway of the link at hand tell a list in ADVICE."""
        device: Any = self.pair.device
        self.links._live.add(device)
        device.peer.certificate = fleet().leaves["gateway"].certificate
        self.dialler.advised = lambda link, spread: None  # type: ignore[attr-defined]  # a fake
        self.links._advised(device, Advice(retry_spread_ms=5, revoked_gateways=told))

    def test_announced(self) -> None:
        """HELLO says that ADVICE may bring a list."""
        self.assertIn("revoked-gateways", self.hello.features)

    def test_another_gateway(self) -> None:
        """A list of others is kept, and the link goes on."""
        self.welcomed()
        self.advise(sign_revoked(ROOT, 3, [OTHER]))
        self.assertEqual(self.revoked.number, 3)
        self.assertFalse(self.pair.device.closed)

    def test_this_gateway(self) -> None:
        """A list that names the gateway that tells it ends the link at once."""
        self.welcomed()
        self.advise(sign_revoked(ROOT, 3, [THIS]))
        self.assertTrue(self.pair.device.closed)

    def test_not_believed(self) -> None:
        """A foreign list and an older one do nothing to the link."""
        self.welcomed()
        self.advise(sign_revoked(ROOT, 3, [OTHER]))
        for told in (sign_revoked(fleet().keys.gateway, 9, [THIS]), sign_revoked(ROOT, 2, [THIS])):
            self.advise(told)
            self.assertEqual(self.revoked.number, 3)
            self.assertFalse(self.pair.device.closed)


class AgentTests(AgentCase):
    """A whole agent against a gateway that tells lists."""

    def welcome(self) -> dict[str, Any]:
        return {"revoked_gateways": sign_revoked(ROOT, 3, [OTHER, THIS])}

    async def test_kept_over_a_restart(self) -> None:
        """A gateway that revokes itself is left, and not spoken to again, also after a restart."""
        hellos: list[Hello] = []

        def judge(link: LinkProtocol, hello: Hello) -> bool:
            hellos.append(hello)
            return True

        self.gateway.judge = judge
        program = Program("run", "--home", str(self.home), path=self.extra_path)
        self.agents.append(program)
        await self.gateway.until(lambda: len(self.gateway.lost) >= 1)
        self.assertEqual(len(hellos), 1)
        kept = self.home / "state" / "revoked-gateways.json"
        self.assertEqual(json.loads(kept.read_bytes())["number"], 3)
        await program.kill()
        # the same agent again: it comes as far as the handshake
        program = Program("run", "--home", str(self.home), path=self.extra_path)
        self.agents.append(program)
        lost = len(self.gateway.lost)
        await self.gateway.until(lambda: len(self.gateway.lost) > lost)
        self.assertEqual(len(hellos), 1)
        # what it says comes by another way than its end of the link; the test's limit bounds this
        while b"this gateway's key is revoked" not in program.errors:
            await deferLater(reactor, 0.05)
