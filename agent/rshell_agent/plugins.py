"""Finding plug-ins, and saying of a broken one whose it is.

Plug-ins are providers of `ICommandHandler` in modules of ``twisted/plugins/``, as for
`twisted.plugin.getPlugins`.  That function itself is not used: without a writable cache it imports
Twisted's own dropins at every start, conch among them, which costs a device 10 MB.

A plug-in is somebody else's code: whatever it raises while it is imported or looked at is a
`PluginProblem`, and costs the device no other handler.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import twisted.plugins  # its __path__ has the folders of all distributions
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.modules import getModule

from rshell.interfaces import ICommandHandler

__all__ = ["MAX_PROBLEMS", "PluginProblem", "distribution_of", "find_plugins", "problem_of"]

#: As many as a HELLO carries.
MAX_PROBLEMS = 16
#: Characters of one line about a problem.
_MAX_LINE = 400
_log = Logger()


@attrs.frozen
class PluginProblem:
    """Why a plug-in cannot be used.

    Attributes:
        module: The dropin, for example ``twisted.plugins.acme``.
        distribution: Who installed it, with its version; "" if nobody says so.
        reason: One line.
    """

    module: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        whose = f"{self.distribution}, {self.module}" if self.distribution else self.module
        line = f"{whose}: {self.reason}"
        return "".join(c if c.isprintable() else " " for c in line)[:_MAX_LINE]


def problem_of(module: str, path: str | None, reason: str) -> PluginProblem:
    """Return a problem with the name of the distribution that the module's file belongs to.

    Args:
        module: The dropin.
        path: Its file, if that is known; None looks among the modules that are imported.
        reason: What is wrong.
    """
    if path is None:
        path = getattr(sys.modules.get(module), "__file__", None)
    return PluginProblem(module, distribution_of(path) if path else "", " ".join(reason.split()))


def distribution_of(path: str) -> str:
    """Return name and version of the distribution that installed a file, or "".

    Reads the records of all that is installed, so it is for problems only.
    """
    # Not above: it costs a device megabytes, and most have no broken plug-ins.
    from importlib import metadata

    wanted = Path(path).resolve()
    for distribution in metadata.distributions():
        try:
            if _owns(distribution, wanted):
                return f"{distribution.metadata['Name']} {distribution.version}"
        except Exception:  # noqa: S112  # one damaged record hides no other
            continue
    return ""


def _owns(distribution: Any, wanted: Path) -> bool:
    for file in distribution.files or ():
        if file.name == wanted.name and Path(distribution.locate_file(file)).resolve() == wanted:
            return True
    # An editable install lists no files of its own, but where its checkout is.
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not direct.get("dir_info", {}).get("editable"):
        return False
    checkout = Path(unquote(urlsplit(direct["url"]).path)).resolve()
    # In it, or in a folder such as src: deeper down lie other people's files, as in a .venv.
    return checkout in wanted.parents[2:4]


def find_plugins(problems: list[PluginProblem]) -> Iterator[tuple[str, Any]]:
    """Yield (module name, handler) of every plug-in that can be imported.

    Args:
        problems: Gets those that cannot, and those that look like handlers and are none.
    """
    own = Path(twisted.__file__).parent
    for module in getModule("twisted.plugins").iterModules():
        path = module.filePath.path
        if own in Path(path).parents:
            continue
        try:
            loaded: ModuleType = module.load()
            found, hint = _handlers_in(loaded)
        except (Exception, SystemExit) as error:  # a dropin may do anything at its import
            _log.failure("plug-in module {name} cannot be imported", name=module.name)
            text = f"cannot be imported: {type(error).__name__}: {error}"
            problems.append(problem_of(module.name, path, text))
            continue
        if hint and not found:
            problems.append(problem_of(module.name, path, hint))
        for handler in found:
            yield module.name, handler


def _handlers_in(module: ModuleType) -> tuple[list[Any], str]:
    """Return the handlers of a module, and what its author may have forgotten."""
    found, hint = [], ""
    for name, thing in vars(module).items():
        if isinstance(thing, type):
            if thing.__module__ == module.__name__ and ICommandHandler.implementedBy(thing):
                hint = hint or f"the class {name} has no instance here: add one, as {name}()"
        elif ICommandHandler.providedBy(thing):
            if IPlugin.providedBy(thing):
                found.append(thing)
            else:
                hint = f"{name} provides ICommandHandler and not twisted.plugin.IPlugin"
    return found, hint
