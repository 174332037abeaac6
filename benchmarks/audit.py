"""What audit and recording cost: the log's own price a row, and terminals recorded and not.

The audit log cannot be switched off, so there is no figure without it; instead its part is told.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from twisted.internet.defer import Deferred

from benchmarks.notebook import Notebook
from benchmarks.program import main
from benchmarks.site import Child, Site
from benchmarks.stopwatch import EchoProgram
from rshell.store.records import AuditEnd, AuditRecord
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from tests.functional.processes import environment

TITLE = "cost of audit and recording"
DEVICE = "bench-audit"
ON, OFF = "recording on", "recording off"
MB = 1_000_000


def _rows(book: Notebook, store: Store, count: int) -> None:
    """Write the rows of sessions as the gateway does: begin and end, each its own commit."""
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        fired: list[object] = []
        record = AuditRecord(
            kind="session", opens=True, operator="admin", device="0" * 36, device_name="pump-1",
            handler="exec", login="root", session=f"{number:032x}", attempt=1, door="link",
            address="127.0.0.1",
        )  # fmt: skip
        opening: Deferred[int] = store.append_audit(record)
        opening.addCallback(fired.append)
        assert isinstance(fired[0], int)
        store.finish_audit(AuditEnd(refers=fired[0], status="ok"))
    used = (time.process_time() - cpu) / count * 1000
    taken = (time.perf_counter() - began) / count * 1000
    book.add("two audit rows of a session, alone: processor time", used, "ms")
    book.add("two audit rows of a session, alone: with the disk", taken, "ms")


def _noops(book: Notebook, site: Site, operator: Child, who: str, count: int) -> None:
    before = site.gateway_cpu()
    operator.ask(json.dumps({"do": "run", "device": DEVICE, "count": count}))
    used = (site.gateway_cpu() - before) / count * 1000
    book.add("`true`: gateway's processor time", used, "ms", who)


def _flood(book: Notebook, site: Site, who: str, size: int) -> None:
    """Let a terminal print so many bytes; a recorded one writes them down."""
    line = f"stty raw -echo; head -c {size} /dev/zero | tr '\\0' x; printf ready.; sleep 1"
    words = site.ssh_command(DEVICE, line, options=("-tt",))
    before, began = site.gateway_cpu(), time.perf_counter()
    program = EchoProgram(words, environment(site.base), site.base)
    try:
        program.wait_ready()
        seconds = time.perf_counter() - began
    finally:
        program.close()
    used = (site.gateway_cpu() - before) / size * MB * 1000
    book.add("a terminal's output: gateway", used, "CPU-s/GB", who)
    book.add("a terminal's output", size / MB / seconds, "MB/s", who)


def measure(book: Notebook) -> None:
    """Two gateways side by side, one that records and one that does not; and the log by itself."""
    count, size = book.size(300, 20), book.size(64, 2) * MB
    with ExitStack() as stack:
        sites = {
            ON: stack.enter_context(Site('[recordings]\nshell = "output"\n')),
            OFF: stack.enter_context(Site('[recordings]\nshell = "off"\n')),
        }
        operators = {}
        for who, site in sites.items():
            site.start_gateway()
            site.add(DEVICE)
            site.known_key("id")
            operators[who] = site.operator()
        base = Path(tempfile.mkdtemp(prefix="rshb-"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        store = Store.open(base / f"{os.getpid()}.sqlite", InlineThreads())
        stack.callback(store.close)
        for _ in book.rounds():
            _rows(book, store, count)
            for who, site in sites.items():
                _noops(book, site, operators[who], who, count)
                _flood(book, site, who, size)
    book.note("Both gateways audit; `true` has no terminal and is not recorded in either.")
    book.note("A gateway under load commits many audit rows at once, which costs less a row.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "audit"))
