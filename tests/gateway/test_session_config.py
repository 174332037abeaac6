"""``[sessions]`` of the configuration."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.config import BadConfig, GatewayConfig, read_config_file


class SessionsTableTests(SynchronousTestCase):
    def read(self, text: str) -> GatewayConfig:
        path = Path(self.mktemp())
        path.write_text(text)
        return read_config_file(path, GatewayConfig(home=Path("/h")))

    def test_told(self) -> None:
        """Who is watched is told, unless the file says otherwise."""
        self.assertTrue(self.read("").tell_watched)
        self.assertTrue(self.read("[sessions]\n").tell_watched)
        self.assertFalse(self.read("[sessions]\ntell_watched = false\n").tell_watched)

    def test_bad(self) -> None:
        """Another type, or another key, is refused by its name."""
        for text, word in (("tell_watched = 0", "bool"), ("tell = true", "tell")):
            error = self.assertRaises(BadConfig, self.read, f"[sessions]\n{text}\n")
            self.assertIn(word, str(error))
