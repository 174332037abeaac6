"""The built-in handlers of a device: each turns a typed request into what the keeper runs."""

from rshell_agent.handlers.exec import ExecHandler
from rshell_agent.handlers.facts import FactsHandler
from rshell_agent.handlers.files import FilesHandler
from rshell_agent.handlers.forward import ForwardHandler
from rshell_agent.handlers.reboot import RebootHandler
from rshell_agent.handlers.sftp import SftpHandler
from rshell_agent.handlers.shell import ShellHandler
from rshell_agent.handlers.tail import TailHandler

__all__ = [
    "BUILT_IN",
    "ExecHandler",
    "FactsHandler",
    "FilesHandler",
    "ForwardHandler",
    "RebootHandler",
    "SftpHandler",
    "ShellHandler",
    "TailHandler",
]

#: Registered through the same seam as plug-ins.
BUILT_IN = (
    ShellHandler(),
    ExecHandler(),
    FilesHandler(),
    SftpHandler(),
    ForwardHandler(),
    TailHandler(),
    FactsHandler(),
    RebootHandler(),
)
