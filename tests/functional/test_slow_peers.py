"""Two thousand connections that want nothing and take their time about it."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
import time
from collections import Counter

from twisted.trial.unittest import SkipTest

from tests.functional.fleet import FleetCase
from tests.functional.processes import REQUIRE_ALL, fds, until
from tests.functional.wire import context

#: Of each of the four kinds.
EACH = 500
#: Descriptors beside the connections.
SPARE = 500


def client_hello(made: ssl.SSLContext) -> bytes:
    """Return a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        made.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


class CrowdTests(FleetCase):
    def setUp(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4 * EACH + SPARE
        if hard < wanted and hard != resource.RLIM_INFINITY:
            if REQUIRE_ALL:
                raise AssertionError(f"at most {hard} open files")
            raise SkipTest(f"at most {hard} open files")
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.sockets: list[socket.socket] = []
        self.addCleanup(self._close)
        self.over = threading.Event()
        self.addCleanup(self.over.set)

    def _close(self) -> None:
        for one in self.sockets:
            one.close()

    def _connect(self, count: int) -> list[socket.socket]:
        made = [socket.create_connection(self.fleet.address, 20) for _ in range(count)]
        self.sockets += made
        return made

    def _trickle(self, crowd: list[socket.socket], data: bytes) -> None:
        """Send one byte a second on each, in a thread."""
        for index in range(len(data)):
            for one in crowd:
                try:
                    one.send(data[index : index + 1])
                except OSError:
                    pass  # the gateway hung up: as it should
            if self.over.wait(1):
                return

    def _mute(self, count: int, made: ssl.SSLContext) -> Counter[str]:
        """Finish TLS and say no HELLO; some may be told to wait, which is fine."""
        seen: Counter[str] = Counter()
        for one in self._connect(count):
            try:
                one.settimeout(20)
                self.sockets.append(made.wrap_socket(one))
                seen["secured"] += 1
            except OSError as error:
                seen[type(error).__name__] += 1
        return seen

    def test_two_thousand(self) -> None:
        """They are gone within 15 s, and meanwhile a device joins, connects and works."""
        fleet = self.fleet
        identity = fleet.join("crowd-1")
        self.addCleanup(fleet.remove, identity)
        made = context(identity.home / "identity" / "a")
        hello = client_hello(made)
        self.assert_status(0, self.run_on("pump-1", "true"))
        epoch = fleet.device("pump-2")["epoch"]
        baseline = fds(fleet.gateway_pid)
        start = fleet.log_size()

        self._connect(EACH)  # silent
        slow = self._connect(EACH)
        trickling = threading.Thread(target=self._trickle, args=(slow, hello), daemon=True)
        trickling.start()
        for one in self._connect(EACH):
            one.sendall(hello)
        self.assertGreater(fds(fleet.gateway_pid), baseline + EACH)
        mute = self._mute(EACH, made)
        began = time.monotonic()
        self.assertGreater(mute["secured"], EACH // 2, mute)

        newcomer = fleet.join("crowd-2")
        self.addCleanup(fleet.remove, newcomer)
        newcomer.start()
        fleet.wait_live("crowd-2", seconds=15)
        done = fleet.run("crowd-2", "--", "echo in")
        self.assertEqual((0, b"in\n"), (done.status, done.stdout), done.stderr)
        came = time.monotonic() - began

        # The newcomer's link is one more; the store may have opened a few.
        allowed = baseline + 8
        until(
            lambda: fds(fleet.gateway_pid) <= allowed,
            lambda: f"{fds(fleet.gateway_pid)} descriptors, {baseline} before",
            max(0.0, 15 - came),
        )
        gone = time.monotonic() - began
        print(f"\nnewcomer after {came:.1f} s, all gone after {gone:.1f} s, {mute}")  # noqa: T201
        self.assertEqual(epoch, fleet.device("pump-2")["epoch"])
        self.assertNotIn("Traceback", fleet.log_text(start))
        # A crowd is no reason to fill the disk.
        self.assertLess(fleet.log_size() - start, 500_000)
