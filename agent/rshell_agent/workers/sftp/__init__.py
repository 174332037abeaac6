"""``sftp``: a server of SFTP version 3 as a worker (docs/sftp.md).

It speaks draft-ietf-secsh-filexfer-02, with the extensions that OpenSSH's clients use, over its
standard input and output, and reaches files through the device's policy only::

    serving     packets in, answers out
      |
    files  folders  paths  extensions     the requests
      |
    state       policy, handles, limits   handles
      |
    wire  attributes  failures            what is on the wire

It knows nothing of SSH: whoever opens the handler pipes bytes.  The standard library only.
"""

from __future__ import annotations

import os

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.sftp.serving import Broken, Conversation
from rshell_agent.workers.sftp.state import State

__all__ = ["run"]

#: The exit status of a session whose client did not speak SFTP.
NOT_SFTP = 2


def run(argument: dict[str, object], confined: Confined) -> int:
    """Serve one session on descriptors 0 and 1.

    Args:
        argument: ``read_only``: refuse whatever changes something.
        confined: The device's policy.

    Returns:
        0 when the input ended, `NOT_SFTP` if it made no sense; then one line on descriptor 2 says
        why.
    """
    state = State(confined, read_only=argument.get("read_only") is True)
    confined.touches.catch_term()
    try:
        Conversation(state, 0, 1).run()
    except Broken as error:
        os.write(2, f"rshell sftp: {error}\n".encode())
        return NOT_SFTP
    return 0
