"""The worker behind the handler ``files``: docs/files.md is its specification.

::

    frames.py    frames in and out             serving.py   the loop: a request after the other
    fields.py    a request's fields            desk.py      what every request is served with
    faults.py    what goes wrong, as codes     entries.py   what a file is
    walking.py   hello, stat, walk             matching.py  glob
    reading.py   get, get_ranges               sending.py   blocks, holes, digests
    signing.py   digest, signature             compression.py
    writing.py   put: old or new, never a mix  parts.py     part files   space.py  what stays free
    changing.py  mkdir, symlink, setmeta …     removing.py  remove

It knows nothing of links, gateways and operators.  Everything that it touches it reaches through
`rshell_agent.workers.confined`.  All modules are imported at once: later, as another login, we
might not be able to read them.
"""

from __future__ import annotations

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.files.serving import serve

__all__ = ["run"]


def run(argument: dict[str, object], confined: Confined) -> int:
    """Serve one session on descriptors 0 and 1 until its input ends.

    Args:
        argument: The handler's request: ``{"version": 1}``.
        confined: The file system, as far as policy allows it.

    Returns:
        0, or 2 when the client broke the protocol; then one line on descriptor 2 says how.
    """
    return serve(argument, confined, 0, 1, 2)
