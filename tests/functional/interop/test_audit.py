"""What ssh-audit says of the door, which docs/security.md has to explain."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.functional.ssh_door import SshCase

DOCS = Path(__file__).parents[3] / "docs" / "security.md"


def documented() -> set[tuple[str, str]]:
    """Return the rows of the table of warnings: algorithm and what is said of it."""
    table = DOCS.read_text("utf-8").partition("<!-- ssh-audit -->")[2]
    table = table.partition("<!-- /ssh-audit -->")[0]
    return set(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.M))


class AuditTests(SshCase):
    def test_audit(self) -> None:
        """ssh-audit fails nothing, and warns of exactly what the documentation explains."""
        fleet = self.own_ssh_fleet()
        port = fleet.ssh_port
        command = [sys.executable, "-m", "ssh_audit", "--json", "-p", str(port), "127.0.0.1"]
        with self.quiet_gateway(fleet):
            done = fleet.command(command)
        # 3 would be a failure, 2 are warnings.
        self.assertEqual(2, done.status, done)
        report = json.loads(done.stdout)
        self.assertEqual([], report.get("cves", []))
        failed, warned = set(), set()
        for kind in ("kex", "key", "enc", "mac"):
            self.assertTrue(report[kind])
            for row in report[kind]:
                failed |= {(row["algorithm"], text) for text in row["notes"].get("fail", [])}
                warned |= {(row["algorithm"], text) for text in row["notes"].get("warn", [])}
        self.assertEqual(set(), failed)
        self.assertEqual(documented(), warned)
