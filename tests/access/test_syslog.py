"""Audit rows as RFC 5424 lines."""

from __future__ import annotations

import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.access.syslog import MAX_LINE_BYTES, syslog_line

#: Section 6 of the RFC, as far as we use it.
LINE = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<time>\S+) (?P<host>[!-~]{1,255}) rshell (?P<pid>\S+) "
    r"(?P<kind>[!-~]{1,32}) \[rshell@32473"
    r"(?P<data>( \w+=\"([^\"\\\]]|\\[\"\\\]])*\")*)\] (?P<text>.*)"
)
ROW: dict[str, Any] = {
    "seq": 7,
    "at": "2026-11-22T15:00:00.000Z",
    "kind": "session",
    "operator": "ann",
    "device": "pump-1",
    "status": "refused",
    "message": "no",
    "login": None,
}


class LineTests(SynchronousTestCase):
    def test_line(self) -> None:
        """The fields that are there become structured data; what failed is a warning."""
        found = LINE.fullmatch(syslog_line(ROW, "gw.example", 12))
        assert found is not None
        self.assertEqual((found["pri"], found["host"], found["pid"]), ("108", "gw.example", "12"))
        self.assertEqual(found["data"], ' seq="7" operator="ann" device="pump-1" status="refused"')
        self.assertTrue(syslog_line({**ROW, "status": "ok"}, "h").startswith("<109>1 "))

    def test_hostile(self) -> None:
        """Nothing of a device ends a line, a field or the data, or reaches a terminal raw."""
        for nasty in ('x"] y', "a\nb", "\x1b[2J", "\\", "]", "é" * 3000, "\u202e", "\x00"):
            row = {**ROW, "device": nasty, "message": nasty, "kind": nasty, "summary": nasty}
            line = syslog_line(row, nasty)
            self.assertIsNotNone(LINE.fullmatch(line), line)
            self.assertTrue(line.isprintable(), line)
            self.assertLessEqual(len(line.encode()), MAX_LINE_BYTES)
