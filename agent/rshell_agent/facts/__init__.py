"""What a device tells of itself: hostname, system, memory, disks, addresses, handlers.

::

    system.py    os-release, kernel, machine, boot, memory, load: files of /etc and /proc
    storage.py   file systems that hold data
    network.py   interfaces and their addresses, asked of the kernel by netlink
    record.py    all of it in one bounded, printable document, and the digest of what is slow
    told.py      tells the gateway: at a new link and at a change

Nothing here starts a program or waits for the network; one look takes a few milliseconds.  Facts
are for choosing and for people.  No policy anywhere rests on them: a device may lie.
"""

from rshell_agent.facts.record import (
    FACT_NAMES,
    MAX_FACTS_BYTES,
    FactsCollector,
    brief_facts,
    stable_digest,
)

__all__ = ["FACT_NAMES", "MAX_FACTS_BYTES", "FactsCollector", "brief_facts", "stable_digest"]
