"""What a hostile or broken device sends instead of a file: nothing of it lands."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.client.files.arrivals import MAX_UNSIZED_BYTES, Arrival, Assembly, Outcome, land
from rshell.client.files.delta import RECORD, Signature
from rshell.client.files.frames import DATA_OUT, END_OUT, HOLE_OUT, REPLY
from rshell.client.files.landing import Folder
from rshell.client.files.local import LocalFile
from rshell.client.files.plan import Step
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.signatures import Described

CONTENT = b"content of a file\n" * 10


def entry_map(size: int = len(CONTENT), **fields: Any) -> dict[str, Any]:
    """Return an entry as it comes over the wire."""
    known: dict[str, Any] = dict.fromkeys(("uid", "gid", "inode", "dev", "blocks"), 0)
    known |= {"path": "", "kind": "file", "size": size, "mode": 0o644, "mtime_ns": 10**18}
    return {**known, "owner": "", "group": "", "nlink": 1, **fields}


def reply(**fields: Any) -> bytes:
    return json.dumps({"more": True, "entry": entry_map(**fields)}).encode()


def end(content: bytes = CONTENT, **fields: Any) -> dict[str, Any]:
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    return {"digest": digest, "size": len(content), "changed": False, **fields}


class ArrivalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(os.path.realpath(self.mktemp()))
        self.root.mkdir(parents=True)
        self.folder = Folder(os.fsencode(self.root))
        self.addCleanup(self.folder.close)
        (self.root / "f").write_bytes(b"old")

    def arrival(self) -> Arrival:
        entry = Entry(size=len(CONTENT))
        step = Step("file", entry, b"/src/f", b"", os.fsencode(self.root), b"f")
        return Arrival(step, b".rshell-abcdefgh.part")

    def land(self, *frames: tuple[int, Any], arrival: Arrival | None = None) -> Outcome:
        arrival = arrival or self.arrival()
        outcomes = land(self.folder, [(arrival, kind, value) for kind, value in frames])
        arrival.close()
        told = [outcome for outcome in outcomes if outcome.error or outcome.landed]
        self.assertEqual(1, len(told))
        return told[0]

    def test_lands(self) -> None:
        """A file in two pieces and a hole lands."""
        content = CONTENT + bytes(5000) + CONTENT
        outcome = self.land(
            (REPLY, reply(size=len(content))),
            (DATA_OUT, b"\0" + CONTENT),
            (HOLE_OUT, (5000).to_bytes(8, "big")),
            (DATA_OUT, b"\0" + CONTENT),
            (END_OUT, end(content)),
        )
        self.assertTrue(outcome.landed)
        self.assertEqual(content, (self.root / "f").read_bytes())

    def test_broken(self) -> None:
        """Whatever is wrong, the old file stays and the code says what."""
        begun, data = (REPLY, reply()), (DATA_OUT, b"\0" + CONTENT)
        hole = (HOLE_OUT, (2**63).to_bytes(8, "big"))
        cases: list[tuple[str, list[tuple[int, Any]]]] = [
            ("digest", [begun, data, (END_OUT, end(CONTENT + b"x"))]),
            ("digest", [begun, data, (END_OUT, end(size=3))]),
            ("digest", [begun, (END_OUT, end())]),
            ("digest", [begun, data, (DATA_OUT, b"\0more")]),
            ("digest", [begun, (DATA_OUT, b"\7packed in an unknown way")]),
            ("digest", [begun, (DATA_OUT, b"")]),
            ("digest", [begun, (DATA_OUT, b"\1not zlib")]),
            ("digest", [begun, hole]),
            ("digest", [begun, (HOLE_OUT, b"short")]),
            ("changed", [begun, data, (END_OUT, end(changed=True))]),
            ("changed", [begun, data, (END_OUT, end(changed=True, grew=True))]),
            ("protocol", [begun, data, (END_OUT, {"digest": "x", "size": "many"})]),
            ("protocol", [begun, data, (END_OUT, {"size": None})]),
            ("protocol", [(REPLY, b"no json")]),
            ("protocol", [(REPLY, b"[]")]),
            ("protocol", [(REPLY, b"{}")]),
            ("protocol", [(REPLY, reply(size=-1))]),
            ("protocol", [data]),
            ("protocol", [(END_OUT, end())]),
            ("no-space", [(REPLY, reply(size=2**62, blocks=2**53))]),
            ("policy", [begun, data, (END_OUT, FilesError("policy", "no"))]),
        ]
        for code, frames in cases:
            outcome = self.land(*frames)
            assert outcome.error is not None, frames
            self.assertEqual(code, outcome.error.code, frames)
            self.assertEqual(b"old", (self.root / "f").read_bytes())

    def test_grew(self) -> None:
        """A log that grew is good enough where that was said, with a remark."""
        arrival = self.arrival()
        arrival.may_grow = True
        frames = ((REPLY, reply()), (DATA_OUT, b"\0" + CONTENT))
        outcome = self.land(*frames, (END_OUT, end(changed=True, grew=True)), arrival=arrival)
        self.assertTrue(outcome.landed)
        self.assertIn("grew", arrival.remark)

    def test_no_size(self) -> None:
        """Files of /proc have content and no size."""
        frames = ((REPLY, reply(size=0)), (DATA_OUT, b"\0" + CONTENT), (END_OUT, end()))
        self.assertTrue(self.land(*frames).landed)
        self.assertGreater(MAX_UNSIZED_BYTES, 2**20)

    def test_after_its_end(self) -> None:
        """What arrives for a file that has failed is dropped."""
        arrival = self.arrival()
        frames = ((REPLY, b"{}"), (DATA_OUT, b"\0x"), (END_OUT, end()))
        self.assertEqual("protocol", getattr(self.land(*frames, arrival=arrival).error, "code", 0))

    def test_another_file(self) -> None:
        """What was taken up goes on with the file that it was compared with, and no other."""
        for changed in ({"inode": 7}, {"mtime_ns": 10**18 + 1}, {"size": len(CONTENT) + 1}):
            arrival = self.arrival()
            known = Entry.decode(entry_map())
            landing = self.folder.begin(b"f", known, arrival.part, keep=True)
            landing.data(CONTENT[:10])
            arrival.take_up(landing)
            rest = CONTENT[10:]
            outcome = self.land(
                (REPLY, reply(**changed)), (DATA_OUT, b"\0" + rest), (END_OUT, end(rest)),
                arrival=arrival,
            )  # fmt: skip
            self.assertEqual("changed", getattr(outcome.error, "code", ""), changed)
            self.assertEqual(b"old", (self.root / "f").read_bytes())
            self.assertEqual(["f"], os.listdir(self.root))

    def _assembled(self, wire: bytes) -> Outcome:
        """Put a file of three blocks together, whose second one has to be fetched."""
        block = 2048
        old = os.urandom(block) + b"-" + os.urandom(block)
        new = old[:block] + b"n" * block + old[block + 1 :]
        (self.root / "f").write_bytes(old)
        signature = Signature(block, len(new))
        signature.add(b"".join(RECORD.pack(0, bytes(16), bytes(15)) for _ in range(3)))
        described = Described(Entry(size=len(new)), signature, str(end(new)["digest"]))
        folder, name = self.folder.open_file(b"f")
        arrival = self.arrival()
        arrival.assembly = Assembly.new(
            described, {0: 0, 2: block + 1}, LocalFile(folder, name, b"f")
        )
        self.assertEqual(([(block, block)], 2 * block),
                         (arrival.assembly.missing, arrival.assembly.found))  # fmt: skip
        arrival.landing = self.folder.begin(b"f", described.entry, arrival.part, keep=False)
        arrival.lots_left = 1
        outcome = self.land((DATA_OUT, b"\0" + wire), (END_OUT, end(wire)), arrival=arrival)
        expected = new if outcome.landed else old
        self.assertEqual(expected, (self.root / "f").read_bytes())
        return outcome

    def test_assembled(self) -> None:
        """Old and new parts make the file, checked as a whole."""
        self.assertTrue(self._assembled(b"n" * 2048).landed)
        for wrong in (b"x" * 2048, b"n" * 2047, b"n" * 2049, b""):
            outcome = self._assembled(wrong)
            self.assertEqual("digest", getattr(outcome.error, "code", None), len(wrong))
