"""What bulk leaves free of the heap is used again, and not faulted in anew for each piece."""

from __future__ import annotations

import platform
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Four pieces come and go again and again, in a thread if copies read there.
PROGRAM = """
import resource, threading
from {module} import _keep_free_memory
_keep_free_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def bulk(times):
    for _ in range(times):
        pieces = [bytearray({size}) for _ in range(4)]
        del pieces
def work():
    bulk(2)
    before = faults()
    bulk(200)
    print(faults() - before)
if {thread}:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


class HeapTests(SynchronousTestCase):
    def faults(self, module: str, size: int, *, thread: bool) -> int:
        """Return how many pages were faulted in, in a process that has what a keeper has."""
        if platform.libc_ver()[0] != "glibc":
            raise self.skipTest("only glibc is told")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(module=module, size=size, thread=thread)],
            capture_output=True,
            check=True,
            timeout=60,
        )
        return int(done.stdout)

    def test_keeper(self) -> None:
        """50 MB through a keeper's heap take fewer pages than a window has."""
        self.assertLess(self.faults("rshell_agent.keeper.main", 65_504, thread=False), 64)

    def test_copy(self) -> None:
        """Likewise 200 MB of pieces through a program that copies files."""
        self.assertLess(self.faults("rshell.client.files.connection", 262_000, thread=True), 64)
