"""Recordings at the gate: what is in them, over cut links and restarts, and what may go wrong."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rshell.access.asciicast import CastEvent, CastHeader, read_cast
from rshell.access.recordings import RecordingPolicy
from rshell.gateway.live_recording import MAX_ON_THE_WAY
from rshell.link.core.messages import Opened, Outcome, Positions
from rshell.store.recordings import Recording
from rshell.store.threads import InlineThreads
from tests.gateway.ends import DeviceEnd, LastingTalk, Talk
from tests.gateway.fleet import Fleet, FleetTestCase, GatedThreads

SESSION = b"S" * 16
NAME = SESSION.hex()
TERMINAL = {"terminal": {"rows": 30, "columns": 100, "term": "xterm"}}


class RecordingCase(FleetTestCase):
    policy = RecordingPolicy()

    def setUp(self) -> None:
        self.threads: InlineThreads = InlineThreads()
        self.fleet = Fleet(self, recording=self.policy, recording_threads=self.threads)
        self.ann = self.fleet.add_operator("ann")
        self.pump = self.fleet.enrol("pump-1")
        self.operator, self.device = self.both()

    def begin(self, request: dict[str, Any] | None = None, **fields: Any) -> tuple[Talk, Talk]:
        """Open a shell; returns the operator's end and the device's."""
        fields = {"device": "pump-1", "request": TERMINAL if request is None else request, **fields}
        talk = self.operator.call("shell", **fields)
        self.fleet.pump()
        here = self.device.accept()
        self.fleet.pump()
        return talk, here

    def show(self, here: Talk, data: bytes) -> None:
        here.channel.write(data)
        self.fleet.pump()

    def end(self, here: Talk) -> None:
        here.channel.finish(Outcome(status="ok"))
        self.fleet.pump()

    @property
    def row(self) -> Recording:
        (row,) = self.fleet.got(self.fleet.store.recording(NAME))
        return row

    @property
    def path(self) -> Path:
        return self.fleet.path / "recordings" / self.row.path

    def text(self) -> bytes:
        """Return a recording's text, of both its files."""
        packed = self.path.with_suffix(".cast.gz")
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else b""
        return data + (self.path.read_bytes() if self.path.exists() else b"")

    def cast(self) -> tuple[CastHeader, list[CastEvent]]:
        header, events = read_cast(self.text())
        return header, list(events)

    def shown(self, code: str = "o") -> str:
        return "".join(event.text for event in self.cast()[1] if event.code == code)


class ContentTests(RecordingCase):
    def test_whole_session(self) -> None:
        """What the terminal showed is there, with its sizes; the file is packed at the end."""
        talk, here = self.begin()
        self.show(here, b"hello \xf0\x9f")
        self.fleet.advance(3)
        self.show(here, b"\x98\x80\r\n")
        talk.channel.send_event("window", {"rows": 40, "columns": 0}, urgent=True)
        self.fleet.pump()
        talk.channel.send_event("window", {"rows": 40, "columns": 120}, urgent=True)
        self.fleet.pump()
        talk.channel.write(b"secret\r")
        self.fleet.pump()
        self.end(here)
        header, events = self.cast()
        self.assertEqual((header.rows, header.columns, header.term), (30, 100, "xterm"))
        self.assertEqual(header.title, "ann on pump-1")
        self.assertEqual(self.shown(), "hello 😀\r\n")
        self.assertEqual([e.text for e in events if e.code == "r"], ["80x24", "120x40"])
        self.assertEqual(self.shown("i"), "")
        row = self.row
        self.assertEqual(
            (row.status, row.operator, row.size), ("complete", "ann", len(self.text()))
        )
        self.assertEqual(row.stored, self.path.with_suffix(".cast.gz").stat().st_size)
        self.assertGreaterEqual(row.duration_ms, 3000)
        self.assertEqual(os.listdir(self.path.parent), [f"{NAME}.cast.gz"])
        self.assertEqual(self.path.with_suffix(".cast.gz").stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.path.parent.stat().st_mode & 0o777, 0o700)
        self.assertEqual(len(self.fleet.gateway.recordings), 0)

    def test_flushed_within_a_second(self) -> None:
        """What has passed is in the file a second later, and at once when it is much."""
        _, here = self.begin()
        self.show(here, b"one")
        self.assertEqual(self.shown(), "")
        self.fleet.advance(1)
        self.assertEqual(self.shown(), "one")
        self.show(here, b"x" * 70_000)
        self.assertGreater(len(self.shown()), 60_000)

    def test_without_a_terminal(self) -> None:
        """What has no terminal is not recorded; neither is a viewer."""
        self.begin({"terminal": None})
        self.assertEqual(self.fleet.got(self.fleet.store.recording(NAME)), [])
        self.assertFalse((self.fleet.path / "recordings").exists())

    def test_terminal_left_out(self) -> None:
        """A shell whose request says nothing of a terminal gets one, and is recorded."""
        _, here = self.begin({})
        self.show(here, b"hello")
        self.end(here)
        header, _ = self.cast()
        self.assertEqual((self.shown(), header.rows, header.columns), ("hello", 24, 80))

    def test_refused_by_the_device(self) -> None:
        """A session that never began leaves no recording."""
        self.operator.call("shell", device="pump-1", request=TERMINAL)
        self.fleet.pump()
        self.device.refuse("policy", "no")
        self.fleet.pump()
        self.assertEqual(self.fleet.got(self.fleet.store.recording(NAME)), [])
        self.assertEqual(os.listdir(self.fleet.path / "recordings"), [])

    def test_operator_quits(self) -> None:
        """A session that its operator ended is complete."""
        talk, here = self.begin()
        self.show(here, b"bye")
        talk.channel.reset("cancelled", "")
        self.fleet.pump()
        self.assertEqual((self.row.status, self.shown()), ("complete", "bye"))

    def test_hostile_title(self) -> None:
        """Nonsense for a terminal's size or type is not believed."""
        _, here = self.begin({"terminal": {"rows": "x", "columns": 10**9, "term": 7}})
        self.end(here)
        header, _ = self.cast()
        self.assertEqual((header.rows, header.columns), (24, 80))


class InputTests(RecordingCase):
    policy = RecordingPolicy(mode="input")

    def test_typed(self) -> None:
        """By policy what was typed is there too."""
        talk, here = self.begin()
        talk.channel.write(b"ls\r")
        self.fleet.pump()
        self.show(here, b"file\r\n")
        self.end(here)
        self.assertEqual((self.shown("i"), self.shown()), ("ls\r", "file\r\n"))
        self.assertEqual(self.row.mode, "input")


class OffTests(RecordingCase):
    policy = RecordingPolicy(mode="off")

    def test_off(self) -> None:
        """Nothing sits in the way of a session that is not recorded."""
        _, here = self.begin()
        self.assertIsNone(self.device.gateway_link.tap)
        self.show(here, b"x")
        self.end(here)
        self.assertEqual(self.fleet.got(self.fleet.store.recording(NAME)), [])


class ResumeTests(RecordingCase):
    """The device's and the operator's positions are stated by hand, as two ends would."""

    def first(self, data: bytes) -> None:
        _, here = self.begin()
        self.show(here, data)

    def resume(self, consumed: int, opened: Opened, attempt: int = 2) -> Talk:
        """Open the session again from ``consumed`` on; returns the device's end."""
        self.operator.ask(attempt=attempt, resume=Positions(consumed, consumed + 262_144, 0))
        self.fleet.pump()
        number, request = self.device.requests[-1]
        here = LastingTalk(self.device.link)
        self.device.link.accept(number, request, opened, _Sender(self.device, here))
        self.fleet.pump()
        self.number = number
        return here

    def push(self, data: bytes) -> None:
        _Sender.newest.send(data)
        self.fleet.pump()

    def test_repeated_bytes(self) -> None:
        """What a resumed attempt brings again is recorded once; the pause is kept."""
        self.first(b"0123456789")
        self.device.wire.cut()
        self.fleet.pump()
        self.assertEqual(self.shown(), "0123456789")
        self.assertEqual(self.row.status, "open")
        self.fleet.advance(30)
        self.device = self.fleet.dial(self.pump)
        self.resume(4, Opened(0, 4096, 0))
        self.push(b"456789abc")
        self.fleet.advance(1)
        self.assertEqual(self.shown(), "0123456789abc")
        self.assertGreaterEqual(self.cast()[1][-1].seconds, 30)

    def test_gap(self) -> None:
        """Output that nobody saw any more is marked."""
        self.first(b"0123456789")
        self.device.wire.cut()
        self.fleet.pump()
        self.device = self.fleet.dial(self.pump)
        self.resume(10, Opened(0, 4096, 0, 5000))
        self.push(b"abc")
        self.fleet.advance(1)
        _, events = self.cast()
        self.assertEqual(self.shown(), "0123456789abc")
        self.assertEqual(
            [e.text for e in events if e.code == "m"], ["5,000 bytes of output are missing here"]
        )

    def test_attached_elsewhere(self) -> None:
        """An attach begins at 0, with what was acknowledged as a gap: nothing twice, no mark."""
        self.first(b"0123456789")
        self.resume(0, Opened(0, 4096, 0, 7))
        self.push(b"789abc")
        self.fleet.advance(1)
        self.assertEqual(self.shown(), "0123456789abc")
        self.assertEqual([e for e in self.cast()[1] if e.code == "m"], [])

    def test_positions_that_go_back(self) -> None:
        """A device that makes up its count hides nothing behind it."""
        self.first(b"0123456789")
        self.device.wire.cut()
        self.fleet.pump()
        self.device = self.fleet.dial(self.pump)
        self.resume(10, Opened(0, 4096, 0, 2**40))
        self.device.wire.cut()
        self.fleet.pump()
        self.device = self.fleet.dial(self.pump)
        self.resume(10, Opened(0, 4096, 0), attempt=3)
        self.push(b"hidden")
        self.fleet.advance(1)
        self.assertTrue(self.shown().endswith("hidden"))

    def test_gateway_killed(self) -> None:
        """A recording goes on in the same file after a crash of the gateway."""
        self.first(b"0123456789")
        self.fleet.advance(1)
        self.fleet.crash()
        self.operator, self.device = self.both()
        self.assertEqual(self.shown(), "0123456789")
        self.resume(6, Opened(0, 4096, 0))
        self.push(b"6789abc")
        self.fleet.advance(1)
        self.assertEqual(self.shown(), "0123456789abc")
        self.assertEqual(self.row.status, "open")

    def _listed(self) -> dict[str, Any]:
        talk = self.operator.call("gateway.recordings", session=os.urandom(16), request={})
        self.fleet.pump()
        (found,) = talk.answer()
        return dict(found)

    def test_listed_after_a_crash(self) -> None:
        """Until its session is resumed it has the length that is on the disk, and is still open."""
        _, here = self.begin()
        self.show(here, b"0123456789")
        self.fleet.advance(30)
        self.show(here, b"abc")
        self.fleet.advance(2)
        before = self._listed()
        torn = self.path.read_bytes() + b'[99.5, "o", "to'  # by a power cut: it does not count
        self.path.write_bytes(torn)
        self.fleet.crash()
        self.operator, self.device = self.both()
        row = self._listed()
        self.assertGreater(row["duration_ms"], 29_000)
        self.assertEqual(self.path.stat().st_size - 15, row["size"])
        for key in ("duration_ms", "size", "stored", "status", "ended_at"):
            self.assertEqual(before[key], row[key], key)
        self.assertEqual("open", row["status"])
        self.assertEqual(torn, self.path.read_bytes())

    def test_listed_without_its_file(self) -> None:
        """A file that is gone, or a link, has no length; the gateway starts all the same."""
        self.first(b"0123456789")
        self.fleet.advance(1)
        self.path.unlink()
        for place in (None, "/etc/passwd"):
            if place:
                self.path.symlink_to(place)
            self.fleet.crash()
            self.operator, self.device = self.both()
            self.assertEqual((0, 0), (self._listed()["size"], self._listed()["duration_ms"]))

    def test_lost_between_flushes(self) -> None:
        """What a crash took before it was flushed, and the operator has, is marked as missing."""
        self.first(b"0123456789")
        self.fleet.crash()  # at once: nothing was flushed
        self.operator, self.device = self.both()
        self.resume(10, Opened(0, 4096, 0))
        self.push(b"abc")
        self.fleet.advance(1)
        marks = [e.text for e in self.cast()[1] if e.code == "m"]
        self.assertEqual((self.shown(), marks), ("abc", ["10 bytes of output are missing here"]))

    def test_never_heard_of_again(self) -> None:
        """A session that nobody comes back to ends its recording after a day, as interrupted."""
        self.first(b"0123456789")
        self.device.wire.cut()
        self.fleet.pump()
        self.fleet.advance(24 * 3600, step=600)
        self.assertEqual(self.row.status, "open")
        self.fleet.advance(2 * 3600, step=600)
        self.assertEqual((self.row.status, self.shown()), ("interrupted", "0123456789"))


class _Sender:
    """A device's end that sends bytes at positions that were stated by hand."""

    newest: _Sender

    def __init__(self, device: DeviceEnd, talk: Talk) -> None:
        self._device = device
        self._data = b""
        _Sender.newest = self

    def send(self, data: bytes) -> None:
        self._data += data
        self._device.link.wake(self._device.requests[-1][0])

    def next_control(self) -> None:
        return None

    def next_frame(self, room: int, credit: int) -> Any:
        from rshell.link.core.sources import OutData

        size = min(room, credit)
        if not self._data or size <= 0:
            return None
        data, self._data = self._data[:size], self._data[size:]
        return OutData(data, False, False)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_arguments: None


class FailureTests(RecordingCase):
    def block(self) -> None:
        """Put a file where the directory has to be."""
        (self.fleet.path / "recordings").write_text("in the way")

    def test_cannot_begin(self) -> None:
        """A session that cannot be recorded is refused before the device hears of it."""
        self.block()
        talk = self.operator.call("shell", device="pump-1", request=TERMINAL)
        self.fleet.pump()
        assert talk.closed is not None
        self.assertEqual(talk.closed[0], "recording-failed")
        self.assertIn("has to be recorded", talk.closed[1])
        self.assertEqual(self.device.requests, [])
        (row,) = self.fleet.audit("recording.failed")
        self.assertEqual(row.record.session, NAME)
        self.assertEqual(self.fleet.audit("session", status="refused")[0].record.code, talk.code)

    def fail_writes(self) -> None:
        """Let every write to a recording fail from now on."""

        def fails(_file: int, _data: bytes, _at: int) -> None:
            raise OSError(28, "No space left on device")

        live = self.fleet.gateway.recordings.live(NAME)
        assert live is not None
        self.patch(live._file, "_put", fails)

    def test_fails_on_the_way(self) -> None:
        """A session whose recording fails is ended at both ends, and the log says why."""
        talk, here = self.begin()
        self.show(here, b"before")
        self.fleet.advance(1)
        self.fail_writes()
        self.show(here, b"unseen")
        self.fleet.advance(1)
        self.assertEqual((talk.code, here.closed), ("recording-failed", here.closed))
        assert here.closed is not None
        (row,) = self.fleet.audit("recording.failed")
        self.assertIn("No space left", row.record.message or "")
        self.assertEqual((self.row.status, self.shown()), ("failed", "before"))


class MarkTests(FailureTests):
    policy = RecordingPolicy(on_failure="mark")

    def test_cannot_begin(self) -> None:
        """By policy the session goes on unrecorded; the log says so."""
        self.block()
        talk, _ = self.begin()
        self.assertIsNotNone(talk.opened)
        self.assertEqual(len(self.fleet.audit("recording.failed")), 1)

    def test_fails_on_the_way(self) -> None:
        """By policy the session goes on; what is missing is marked once there is room again."""
        talk, here = self.begin()
        live = self.fleet.gateway.recordings.live(NAME)
        assert live is not None
        whole = live._file._put
        self.fail_writes()
        self.show(here, b"unseen")
        self.fleet.advance(1)
        self.patch(live._file, "_put", whole)
        self.show(here, b"after")
        self.end(here)
        self.assertEqual((talk.outcome, self.shown()), ({"status": "ok"}, "after"))
        marks = [e.text for e in self.cast()[1] if e.code == "m"]
        self.assertEqual(marks, ["6 bytes could not be recorded before this"])
        self.assertEqual(self.row.status, "failed")


class SlowDiskTests(RecordingCase):
    def setUp(self) -> None:
        super().setUp()
        self.gated = GatedThreads()
        self.fleet.gateway.recordings._threads = self.gated

    def test_waits_for_the_disk(self) -> None:
        """A terminal that is faster than the disk waits for it; nothing is lost, nothing grows."""
        talk, here = self.begin()
        self.gated.hold("write")
        sent = 0
        for _ in range(60):
            here.channel.write(b"x" * 65_536)
            sent += 65_536
            self.fleet.pump()
        live = self.fleet.gateway.recordings.live(NAME)
        assert live is not None
        self.assertLess(live._collected + live._writing, MAX_ON_THE_WAY + 100_000)
        self.assertLess(len(talk.data), 2 * MAX_ON_THE_WAY)
        self.gated.release()
        self.fleet.advance(2)
        self.assertEqual(len(talk.data), sent)
        self.end(here)
        self.assertEqual(len(self.shown()), sent)


class RetentionTests(RecordingCase):
    policy = RecordingPolicy(keep_days=2, keep_bytes=0)

    def test_age(self) -> None:
        """An old recording goes, file, directory and index, and the log says which."""
        _, here = self.begin()
        self.show(here, b"old")
        self.end(here)
        path = self.path
        self.fleet.advance(47 * 3600, step=600)
        self.assertTrue(path.with_suffix(".cast.gz").exists())
        self.fleet.advance(3 * 3600, step=600)
        self.assertEqual(os.listdir(self.fleet.path / "recordings"), [])
        self.assertEqual(self.fleet.got(self.fleet.store.recording(NAME)), [])
        (row,) = self.fleet.audit("recordings.dropped")
        self.assertEqual(row.record.details["sessions"], [NAME])
