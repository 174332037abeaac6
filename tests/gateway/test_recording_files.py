"""Files of recordings: torn ends, positions, and what is in the way."""

from __future__ import annotations

import gzip
from pathlib import Path

from rshell.access.asciicast import CastEvent, CastHeader, read_cast
from rshell.gateway.recording_files import CastFile, Item, Mark, finish
from tests.gateway.fleet import FleetTestCase

SESSION = b"S" * 16
NAME = SESSION.hex()
TERMINAL = {"terminal": {"rows": 30, "columns": 100, "term": "xterm"}}


class FileTests(FleetTestCase):
    """The file alone."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.path = self.home / "2026" / "a.cast"

    def file(self) -> CastFile:
        return CastFile(self.home, self.path, CastHeader(columns=80, rows=24, timestamp=1))

    def events(self) -> list[CastEvent]:
        return list(read_cast(self.path.read_bytes())[1])

    def test_torn_line(self) -> None:
        """Half a line that a power cut left is cut off, and what is whole goes on."""
        file = self.file()
        file.append([Item(5, "o", b"one")], 3, 0)
        file.close()
        with self.path.open("ab") as torn:
            torn.write(b'[0.006, "o", "tw')
        again = self.file()
        self.assertEqual(again.open().out, 3)
        again.append([Item(7, "o", b"three")], 8, 0)
        self.assertEqual([e.text for e in self.events()], ["one", "three"])

    def test_killed_between_text_and_position(self) -> None:
        """Text that is there without its position is counted, so it is not recorded twice."""
        file = self.file()
        file.append([Item(5, "o", b"one")], 3, 0)
        with self.path.open("ab") as more:
            more.write(b'[0.009, "o", "two!"]\n[0.009, "m", "x"]\n')
        file.close()
        position = self.file().open()
        self.assertEqual((position.out, position.at), (7, 9))

    def test_damaged_position(self) -> None:
        """Without its position, it is counted from the text."""
        file = self.file()
        file.append([Item(5, "o", b"one")], 3, 0)
        file.close()
        self.path.with_suffix(".pos").write_text("nonsense")
        self.assertEqual(self.file().open().out, 3)

    def test_time_never_falls(self) -> None:
        """A wall clock that is set back does not make a recording unreadable."""
        file = self.file()
        file.append([Item(50, "o", b"a"), Item(20, "o", b"b"), Mark(10, "m", "x")], 2, 0)
        self.assertEqual([e.seconds for e in self.events()], [0.05, 0.05, 0.05])

    def test_goes_on_after_its_end(self) -> None:
        """A recording that was packed too early goes on, and is one afterwards."""
        file = self.file()
        file.append([Item(5, "o", b"one")], 3, 0)
        file.close()
        finish(self.path, goes_on=True)
        again = self.file()
        self.assertEqual(again.open().out, 3)
        again.append([Item(9, "o", b"two")], 6, 0)
        again.close()
        finish(self.path, goes_on=False)
        text = gzip.decompress(self.path.with_suffix(".cast.gz").read_bytes())
        self.assertEqual([e.text for e in read_cast(text)[1]], ["one", "two"])

    def test_link_in_the_way(self) -> None:
        """A symbolic link at the file's place is not followed."""
        self.path.parent.mkdir(parents=True, mode=0o700)
        self.home.chmod(0o700)
        self.path.parent.chmod(0o700)
        self.path.symlink_to(self.home / "elsewhere")
        self.assertRaises(OSError, self.file().open)
