"""Columns and facts as an operator sees them, whatever a device says."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.columns import (
    DEFAULT_COLUMNS,
    MAX_ROWS,
    WIDE_COLUMNS,
    BadColumn,
    columns_of,
    fact_at,
    fact_names,
    fact_rows,
    fact_text,
)
from rshell.client import Device

FACTS: dict[str, Any] = {
    "os": "arch",
    "uptime_seconds": 3700,
    "load": [0.1, 0.2, 0.3],
    "memory": {"total_bytes": 1_024_000_000, "available_bytes": 999},
    "disks": [
        {"mount": "/", "type": "ext4", "size_bytes": 2_500_000_000, "read_only": True},
        {"mount": "/data", "type": "btrfs"},
    ],
    "gpu": None,
    "ready": False,
}


def device(**more: Any) -> Device:
    return Device(**{"id": "1", "name": "pump", "state": "live", **more})


class ColumnTests(SynchronousTestCase):
    def cells(self, text: str, **more: Any) -> list[str]:
        return [column.cell(device(**more)) for column in columns_of(text)]

    def test_usual(self) -> None:
        """The usual columns, and the wide ones, with a dash for what is not known."""
        row = self.cells(DEFAULT_COLUMNS, labels={"b": "2", "a": "1"}, silent_ms=9)
        self.assertEqual(["pump", "live", "-", "-", "-", "a=1,b=2"], row)
        self.assertEqual(
            ["architecture", "kernel", "os_name"], fact_names(columns_of(WIDE_COLUMNS))
        )
        self.assertEqual([], fact_names(columns_of(DEFAULT_COLUMNS)))

    def test_chosen(self) -> None:
        """Labels and facts are columns too; facts are found through maps and lists."""
        text = "name, labels.site,facts.os,facts.memory.total_bytes,facts.disks.type,facts.gpu"
        row = self.cells(text, labels={"site": "berlin"}, facts=FACTS)
        self.assertEqual(["pump", "berlin", "arch", "1.02 GB", "ext4,btrfs", "-"], row)
        headings = [column.heading for column in columns_of(text)]
        self.assertEqual("MEMORY.TOTAL_BYTES", headings[3])
        self.assertEqual(["disks", "gpu", "memory", "os"], fact_names(columns_of(text)))

    def test_wrong(self) -> None:
        """What is no column is named, with those that there are."""
        for text in ("", "name,", "colour", "facts.", "facts.a..b", "facts", "labels.", "NAME"):
            error = self.assertRaises(BadColumn, columns_of, text)
            self.assertIn("facts.NAME", str(error))
        self.assertRaises(BadColumn, columns_of, ",".join(["name"] * 33))


class FactTests(SynchronousTestCase):
    def test_rows(self) -> None:
        """Each value has a row, each disk one of its own, with units."""
        self.assertEqual(
            [
                ("os", "arch"),
                ("uptime_seconds", "1 h 1 min"),
                ("load", "0.1, 0.2, 0.3"),
                ("memory.total_bytes", "1.02 GB"),
                ("memory.available_bytes", "999 bytes"),
                ("disks", "/  ext4  size 2.5 GB  read only"),
                ("disks", "/data  btrfs"),
                ("gpu", ""),
                ("ready", "no"),
            ],
            fact_rows(FACTS),
        )

    def test_hostile(self) -> None:
        """Depth, width and odd types break nothing and have an end."""
        deep: Any = "x"
        for _ in range(50):
            deep = {"a": deep}
        for value in (deep, [[[[[]]]]], {"": []}, [{"a": [{"b": 1}]}], 1e308, -(2**62), ""):
            for path, text in fact_rows({"odd": value}):
                self.assertIsInstance(path + text, str)
        self.assertEqual(MAX_ROWS + 1, len(fact_rows({str(n): n for n in range(9999)})))

    def test_sizes(self) -> None:
        """Sizes are read by their names' units."""
        for count, text in (
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1500, "1.5 kB"),
            (4e15, "4,000 TB"),
        ):
            self.assertEqual(text, fact_text("size_bytes", count))
        self.assertEqual("true", fact_text("x", "true"))
        self.assertEqual("3", fact_text("x", 3))

    def test_paths(self) -> None:
        """A path that leads nowhere is nothing."""
        for path in ("os.x", "nothing", "disks.nothing", "load.1"):
            self.assertIsNone(fact_at(FACTS, path.split(".")), path)
