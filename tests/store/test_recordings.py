"""The index of recordings."""

from __future__ import annotations

from typing import Any

from rshell.store.recordings import NewRecording, RecordingFilter, RecordingProgress
from rshell.store.times import DAY
from tests.store.fixture import StoreTestCase


class IndexTests(StoreTestCase):
    def begin(self, digit: str, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "session": digit * 32,
            "device": "id-1",
            "device_name": "pump",
            "operator": "ann",
            "handler": "shell",
            "login": None,
            "mode": "output",
            "path": f"2026/01/01/{digit}.cast",
            **changes,
        }
        return self.got(self.store.begin_recording(NewRecording(**values)))

    def end(self, digit: str, stored: int = 10, status: str = "complete") -> None:
        progress = RecordingProgress(
            ended_at=self.now, duration_ms=5, size=20, stored=stored, status=status
        )
        self.got(self.store.update_recording(digit * 32, progress))

    def listed(self, **wanted: Any) -> list[str]:
        rows = self.got(self.store.recordings(RecordingFilter(**wanted), 10))
        return [row.session[0] for row in rows]

    def test_begin_and_end(self) -> None:
        """A recording is open until it ends; one that goes on after its end is open again."""
        row = self.begin("a")
        self.assertEqual((row.status, row.started_at, row.ended_at), ("open", self.now, None))
        self.end("a")
        self.now += 5
        again = self.begin("a", path="elsewhere")
        self.assertEqual(
            (again.status, again.started_at, again.path), ("open", row.started_at, row.path)
        )
        self.assertEqual(self.begin("a"), again)
        self.assertEqual([r.session for r in self.got(self.store.recordings_open())], ["a" * 32])

    def test_filters(self) -> None:
        """By device (id or name), operator and time, newest first."""
        self.begin("a")
        self.now += 100
        self.begin("b", operator="bob", device="id-2", device_name="valve")
        self.assertEqual(self.listed(), ["b", "a"])
        self.assertEqual(self.listed(operator="ann"), ["a"])
        self.assertEqual(self.listed(device="valve"), ["b"])
        self.assertEqual(self.listed(device="id-1"), ["a"])
        self.assertEqual(self.listed(since=self.now), ["b"])
        self.assertEqual(self.listed(until=self.now), ["a"])

    def test_by_prefix(self) -> None:
        """A recording is found by the beginning of its session; two show that it is not enough."""
        self.begin("a")
        self.begin("f")
        self.begin("a", session="a" * 31 + "b")
        found = self.got(self.store.recording("aaaa"))
        self.assertEqual(len(found), 2)
        self.assertEqual(len(self.got(self.store.recording("f" * 32))), 1)
        self.assertEqual(self.got(self.store.recording("0000")), [])

    def test_surplus(self) -> None:
        """Too old goes, too much goes from the oldest on, and what is open never goes."""
        for digit in "abcd":
            self.begin(digit)
            if digit != "d":
                self.end(digit)
            self.now += DAY

        def surplus(before: int, keep: int) -> list[str]:
            rows = self.got(self.store.recordings_to_drop(before, keep))
            return [row.session[0] for row in rows]

        self.assertEqual(surplus(0, 0), [])
        self.assertEqual(surplus(self.now - 3 * DAY, 0), ["a"])
        self.assertEqual(surplus(0, 20), ["a"])
        self.assertEqual(surplus(self.now, 0), ["c", "b", "a"])
        self.got(self.store.drop_recording("a" * 32))
        self.assertEqual(self.listed(), ["d", "c", "b"])
