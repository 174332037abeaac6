"""``rshell pending`` against a scripted gateway."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.rshell_process import CliCase


def waiting(number: int, source: str, *full: str, invite: str = "aa") -> dict[str, Any]:
    return {
        "fingerprint": f"F-{number}",
        "name": f"pump-{number}",
        "source": source,
        "invite": invite,
        "full": list(full),
    }


class FullTests(CliCase):
    async def told(self, *rows: dict[str, Any]) -> list[str]:
        """Return what is said besides the table."""
        self.gateway.answers["pending"] = list(rows)
        done = await self.rshell("pending")
        self.assertEqual((done.status, done.out.count(b"\n")), (0, len(rows) + 1))
        return done.err.decode().splitlines()

    async def test_said(self) -> None:
        """A bound that is reached is told: how many, from where or by what, and what to do."""
        self.assertEqual(await self.told(waiting(1, "192.0.2.9")), [])
        (line,) = await self.told(
            waiting(1, "192.0.2.9", "source"),
            waiting(2, "192.0.2.9", "source", invite="bb"),
            waiting(3, "192.0.2.9", "source", invite="bb"),
            waiting(4, "192.0.2.10"),
        )
        self.assertTrue(line.startswith("rshell: 3 devices wait from 192.0.2.9, as many as may"))
        self.assertIn("rshell revoke invite ID", line)
        self.assertTrue(line.endswith("(2 of them wait by bb)"), line)
        (line,) = await self.told(waiting(1, "x", "invite"))
        self.assertIn("1 devices wait by invite aa, as many as may", line)
        (line,) = await self.told(waiting(1, "x", "source", "invite", "all"))
        self.assertIn("1 devices wait, as many as may: all others", line)

    async def test_json(self) -> None:
        """In JSON each row says it, and nothing else is said."""
        self.gateway.answers["pending"] = [waiting(1, "x", "source")]
        done = await self.rshell("--json", "pending")
        self.assertEqual((json.loads(done.out)[0]["full"], done.err), (["source"], b""))
