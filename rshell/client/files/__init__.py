"""Files of devices: copying them as cp(1) does, and the typed connection below (docs/files.md).

::

    copying.py     Copy, copy(): from sources to a destination
    plan.py        what becomes of what (pure)          progress.py   where it stands, how it ended
    state.py       what a copy's parts share            limit.py      bytes a second
    device_end.py  a device's side: listing, folders    local_end.py  this machine's
    upload.py download.py between.py                    the content of files, the three ways
    local.py landing.py arrivals.py                     reading and landing here, in threads
    delta.py signatures.py                              what two files have in common
    pending.py     what was asked for and is not here yet
    naming.py compression.py crash.py                   names, packed pieces; a test's power cut

    connection.py  FilesConnection: requests, frames and back-pressure over a session
    transfers.py   one file up or down                  pages.py      listings
    records.py     Entry, FilesError                    frames.py     the frames, pure

A copy as a program does it::

    from rshell.client import connect, find_profile
    from rshell.client.files import CopyOptions, Place, copy

    async with await connect(reactor, find_profile(None, os.environ)) as client:
        report = await copy(
            client,
            [Place("pump-17", b"/var/log/*.log"), Place("pump-17", b"/etc/pump")],
            Place(None, b"collected/"),
            CopyOptions(recursive=True, bytes_per_second=500_000),
        )
        print(report.copied, "copied,", report.failed, "failed", report.failures)

What it is not: a second way to a device; each end is one session of the handler ``files``.
"""

from rshell.client.files.connection import FilesConnection
from rshell.client.files.copying import Copy, copy
from rshell.client.files.plan import Place
from rshell.client.files.progress import CopyReport, FileResult, Progress
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import CopyOptions

__all__ = [
    "Copy",
    "CopyOptions",
    "CopyReport",
    "Entry",
    "FileResult",
    "FilesConnection",
    "FilesError",
    "Place",
    "Progress",
    "copy",
]
