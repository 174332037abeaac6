"""A device's catalogue of handlers: fetched once, believed by its digest only."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from rshell.link.core.messages import Outcome
from tests.gateway.test_verbs import VerbTestCase


class CatalogueTests(VerbTestCase):
    BODY = msgspec.json.encode(
        [{"name": "exec", "summary": "run\x1b[2J", "schema": {}, "priority": "normal"}]
    )

    def _dial(self, digest: str, **more: Any) -> Any:
        return self.fleet.dial(self.pump, catalogue=digest, **more)

    def setUp(self) -> None:
        super().setUp()
        self.digest = hashlib.sha256(self.BODY).hexdigest()
        self.operator = self.fleet.dial(self.ann)

    def _serve(self, device: Any, body: bytes) -> None:
        talk = device.accept()
        talk.channel.write(body)
        talk.channel.finish(Outcome(status="ok"))
        self.fleet.pump()

    def test_learned_once(self) -> None:
        """A catalogue is fetched from the first device that has it, then known, also later."""
        device = self._dial(self.digest)
        self.assertEqual(device.requests[0][1].handler, "catalogue")
        self._serve(device, self.BODY)
        self.assertEqual(self.fleet.listed(self.operator)["pump-1"]["handlers"], ["exec"])
        (entry,) = self.ask(self.operator, "gateway.handlers", device="pump-1").answer()
        self.assertTrue(entry["summary"].isprintable())
        self.fleet.crash()
        self.assertEqual(self._dial(self.digest, dial=2).requests, [])

    def test_wrong_digest(self) -> None:
        """A catalogue that does not fit its digest is not believed."""
        device = self._dial("0" * 64)
        self._serve(device, self.BODY)
        self.assertIsNone(self.fleet.got(self.fleet.store.catalogue("0" * 64)))
        self.assertEqual(self.fleet.listed(self.operator)["pump-1"]["handlers"], [])

    def test_silent_device(self) -> None:
        """A device that never tells its catalogue holds up nobody who has the same one."""
        silent = self._dial(self.digest)
        self.fleet.advance(31)
        self.assertFalse(silent.link.waiting(silent.requests[0][0]))
        other = self.fleet.dial(self.fleet.enrol("pump-2"), catalogue=self.digest)
        self.assertEqual(len(other.requests), 1)

    def test_next_one_is_asked(self) -> None:
        """A device that breaks off is followed by the next one that has the same catalogue."""
        first = self._dial(self.digest)
        other = self.fleet.dial(self.fleet.enrol("pump-2"), catalogue=self.digest)
        self.assertEqual((len(first.requests), len(other.requests)), (1, 0))
        first.wire.cut()
        self.fleet.advance(1)
        self.assertEqual(len(other.requests), 1)

    def test_inventive_device(self) -> None:
        """A device that invents catalogues is asked for eight, then four an hour."""
        asked = 0
        for number in range(30):
            device = self._dial(f"{number:064x}", dial=number + 1)
            asked += len(device.requests)
            device.wire.cut()
        self.assertEqual(asked, 8)

    def test_too_large(self) -> None:
        """A catalogue beyond 64 KiB is cut off."""
        device = self._dial(self.digest)
        talk = device.accept()
        talk.channel.write(bytes(300 * 1024))
        self.fleet.pump()
        self.assertEqual(talk.code, "overload")
