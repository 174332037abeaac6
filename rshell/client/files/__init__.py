"""Files on a device: a typed connection to its handler ``files`` (docs/files.md).

::

    connection.py  FilesConnection: requests, frames and back-pressure over a session
    transfers.py   one file up or down       blocks.py   compressed blocks
    records.py     Entry, FilesError         frames.py   the frames, pure
"""

from rshell.client.files.connection import FilesConnection
from rshell.client.files.records import Entry, FilesError

__all__ = ["Entry", "FilesConnection", "FilesError"]
