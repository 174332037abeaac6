"""DEVICE:PATH as it is typed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.places import BadPlace, Place, on_device, parse_place


class PlaceTests(SynchronousTestCase):
    def test_device(self) -> None:
        """A colon before the first slash makes a place a device's."""
        for text, device, path in (
            ("pump-1:/etc/motd", "pump-1", b"/etc/motd"),
            ("pump-1:notes", "pump-1", b"notes"),
            ("pump-1:a:b", "pump-1", b"a:b"),
            ("pump-1:", "pump-1", b"."),
            ("pump-1:~/x", "pump-1", b"~/x"),
            (
                "0b6c2f1e-7d5f-4c1a-9f55-1f0b7b1f6d11:x",
                "0b6c2f1e-7d5f-4c1a-9f55-1f0b7b1f6d11",
                b"x",
            ),
            ("pump-1:\udcff", "pump-1", b"\xff"),
        ):
            self.assertEqual(Place(device, path), parse_place(text))

    def test_local(self) -> None:
        """Everything else is a path of this machine, a colon behind a slash included."""
        for text in ("a", "/etc/x:y", "./a:b", "../a", "dir/pump-1:x", "-"):
            self.assertEqual(Place(None, text.encode()), parse_place(text))

    def test_bad(self) -> None:
        """What cannot be meant is refused, with one clear line."""
        for text in ("", ":x", "root@pump-1:x", "Pump:x", "pump-*:x", "a b:c", "x\0y", "-p:x"):
            error = self.assertRaises(BadPlace, parse_place, text)
            self.assertEqual("bad-request", error.code)
            self.assertNotIn("\n", error.message)
        self.assertRaises(BadPlace, on_device, "/etc/motd")

    def test_shown(self) -> None:
        """A place is shown without anything that a terminal would act on."""
        self.assertEqual("pump-1:a\ufffd[2J", parse_place("pump-1:a\x1b[2J").shown)
