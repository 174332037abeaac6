"""What both ends of a stream agree on: the typed requests of the built-in handlers.

A device's handler decodes its request with these types, an operator's client encodes them.
``processes.py`` has shell and exec, ``confirm.py`` what exec undoes if nobody confirms it,
``sftp.py`` SFTP, ``tail.py`` the ends of logs, ``reboot.py`` what restarts a device, ``facts.py``
what it tells of itself, ``catalogue.py`` how it describes what it can do, ``flight.py`` what its
flight recorder tells, ``decoding.py`` the strict decoder that every handler's request passes
through.
"""

from rshell.handlers.catalogue import (
    MAX_CATALOGUE_BYTES,
    PRIORITIES,
    HandlerDescription,
    catalogue_digest,
    describe,
    encode_catalogue,
)
from rshell.handlers.confirm import Confirm
from rshell.handlers.decoding import BadRequest, decode_request
from rshell.handlers.facts import FactsReport, FactsRequest
from rshell.handlers.processes import (
    ExecRequest,
    ProcessRequest,
    ShellRequest,
    TerminalSize,
)
from rshell.handlers.reboot import RebootRequest
from rshell.handlers.sftp import SftpRequest
from rshell.handlers.tail import TailMark, TailRequest
from rshell.link.core.messages import Outcome

__all__ = [
    "MAX_CATALOGUE_BYTES",
    "PRIORITIES",
    "BadRequest",
    "Confirm",
    "ExecRequest",
    "FactsReport",
    "FactsRequest",
    "HandlerDescription",
    "Outcome",
    "ProcessRequest",
    "RebootRequest",
    "SftpRequest",
    "ShellRequest",
    "TailMark",
    "TailRequest",
    "TerminalSize",
    "catalogue_digest",
    "decode_request",
    "describe",
    "encode_catalogue",
]
