"""The built-in handlers of a device: each turns a typed request into what the keeper runs."""

from rshell_agent.handlers.exec import ExecHandler
from rshell_agent.handlers.reboot import RebootHandler
from rshell_agent.handlers.shell import ShellHandler

__all__ = ["BUILT_IN", "ExecHandler", "RebootHandler", "ShellHandler"]

#: Registered through the same seam as plug-ins.
BUILT_IN = (ShellHandler(), ExecHandler(), RebootHandler())
