"""The command, when its standard streams take nothing or are not there."""

from __future__ import annotations

import os

from tests.cli.rshell_process import CliCase, listed
from tests.client.fake_gateway import FakeStream, prints, waits


class BrokenOutputTests(CliCase):
    """Standard streams that take nothing, or are not there."""

    def full(self) -> int:
        descriptor = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def talking(self, stderr: bool) -> None:
        """A device that runs until it is cancelled."""

        def behave(stream: FakeStream) -> None:
            waits(stream)
            (stream.channel.write_stderr if stderr else stream.channel.write)(b"hi\n")

        self.gateway.devices["pump"] = behave

    async def test_full_disk(self) -> None:
        """A full disk under stdout is said in one line, cancels the command, and is status 255."""
        for words in ([], ["--json"]):
            self.talking(stderr=False)
            process = self.start("run", *words, "pump", "x", fds={0: "w", 1: self.full(), 2: "r"})
            self.assertEqual(await process.ended, 255)
            self.assertEqual(
                process.err, b"rshell: cannot write standard output: No space left on device\n"
            )
            self.assertEqual([kind for kind, _ in self.gateway.streams[-1].events], ["cancel"])

    async def test_full_disk_after_the_end(self) -> None:
        """It is noticed too when the command is over before its output is written."""
        self.gateway.devices["pump"] = prints(b"hi\n")
        process = self.start("run", "-n", "pump", "x", fds={0: "w", 1: self.full(), 2: "r"})
        self.assertEqual(await process.ended, 255)
        self.assertIn(b"No space left", process.err)

    async def test_device_that_does_not_end(self) -> None:
        """A device that ignores the cancel does not keep us, and the line is said."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.write(b"hi\n")

        self.gateway.devices["pump"] = behave
        process = self.start("run", "-n", "pump", "x", fds={0: "w", 1: self.full(), 2: "r"})
        self.assertEqual(await process.ended, 255)
        self.assertEqual(process.err.count(b"\n"), 1, process.err)
        self.assertIn(b"No space left", process.err)

    async def test_full_disk_under_stderr(self) -> None:
        """Error output that is lost cancels the command too; nothing is left to say it on."""
        self.talking(stderr=True)
        process = self.start("run", "-n", "pump", "x", fds={0: "w", 1: "r", 2: self.full()})
        self.assertEqual(await process.ended, 255)
        self.assertEqual([kind for kind, _ in self.gateway.streams[0].events], ["cancel"])

    async def test_listing_to_a_full_disk(self) -> None:
        """A listing, short or long, with or without --json, says the same."""
        for count in (1, 2000):
            self.gateway.answers["devices"] = [listed(f"d-{n}") for n in range(count)]
            for words in (["devices"], ["devices", "--json"], ["--help"]):
                process = self.start(*words, fds={0: "w", 1: self.full(), 2: "r"})
                self.assertEqual(await process.ended, 255)
                self.assertEqual(
                    process.err,
                    b"rshell: cannot write standard output: No space left on device\n",
                )

    async def test_listing_that_nobody_reads(self) -> None:
        """A listing into a closed pipe, short or long, is quiet and status 141."""
        for count in (1, 2000):
            self.gateway.answers["devices"] = [listed(f"d-{n}") for n in range(count)]
            read, write = os.pipe()
            os.close(read)
            process = self.start("devices", fds={0: "w", 1: write, 2: "r"})
            os.close(write)
            self.assertEqual((await process.ended, process.err), (141, b""))

    async def test_closed_streams(self) -> None:
        """Streams that were closed when we were started are as /dev/null."""
        self.gateway.devices["pump"] = prints(b"hi\n", b"err\n")
        self.gateway.answers["devices"] = [listed("pump")]
        self.gateway.answers["handlers"] = [{"name": "hello"}]
        for words in (["run", "pump", "x"], ["devices"], ["call", "pump", "hello"]):
            for closed in ((1,), (2,), (0,), (0, 1), (0, 1, 2)):
                fds = {n: "w" if n == 0 else "r" for n in range(3) if n not in closed}
                process = self.start(*words, fds=fds)
                self.assertEqual(await process.ended, 0, (words, closed, process.err))
                if 2 not in closed:
                    self.assertEqual(process.err, b"err\n" if words[0] != "devices" else b"")
                if 1 not in closed:
                    self.assertIn(b"pump" if words[0] == "devices" else b"hi\n", process.out)
