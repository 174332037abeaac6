"""Which handlers this device has: the built-in ones and those of plug-ins, all checked alike.

Plug-ins are providers of `ICommandHandler` in modules of ``twisted/plugins/``, as for
`twisted.plugin.getPlugins`.  That function itself is not used: without a writable cache it imports
Twisted's own dropins at every start, conch among them, which costs a device 10 MB.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import twisted.plugins  # its __path__ has the folders of all distributions
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.modules import getModule
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from rshell.handlers import PRIORITIES, HandlerDescription, describe, encode_catalogue
from rshell.interfaces import ICommandHandler
from rshell_agent.handlers import BUILT_IN

__all__ = ["BadHandler", "HandlerRegistry", "check_handler", "find_plugins"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
#: The agent answers this name itself, to the gateway only.
_RESERVED = frozenset({"catalogue"})
_log = Logger()


class BadHandler(Exception):
    """A plug-in does not provide what `ICommandHandler` promises; the message says what."""


def check_handler(handler: Any) -> HandlerDescription:
    """Return a handler's catalogue entry.

    Raises:
        BadHandler: It breaks the interface in any way.
    """
    try:
        verifyObject(ICommandHandler, handler)
    except Invalid as error:
        raise BadHandler(" ".join(str(error).split())) from None
    name, kind = handler.name, handler.request_type
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise BadHandler(f"{name!r} is no valid name for a handler")
    if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        raise BadHandler(f"{name}: request_type is no msgspec.Struct")
    if not kind.__struct_config__.forbid_unknown_fields:
        raise BadHandler(f"{name}: request_type must have forbid_unknown_fields=True")
    if handler.priority not in PRIORITIES:
        raise BadHandler(f"{name}: priority must be one of {', '.join(PRIORITIES)}")
    if not isinstance(handler.summary, str) or not 0 < len(handler.summary) <= 200:
        raise BadHandler(f"{name}: summary must be a line of 1 to 200 characters")
    try:
        return describe(name, handler.summary, kind, handler.priority)
    except Exception as error:  # whatever a type of somebody else's raises
        raise BadHandler(f"{name}: request_type has no schema: {error}") from None


def find_plugins() -> Iterator[tuple[str, Any]]:
    """Yield (module name, handler) of every plug-in that can be imported; log the others."""
    own = Path(twisted.__file__).parent
    for module in getModule("twisted.plugins").iterModules():
        if own in Path(module.filePath.path).parents:
            continue
        try:
            loaded: ModuleType = module.load()
        except Exception:  # a broken plug-in must not cost the device its other handlers
            _log.failure("plug-in module {name} cannot be imported", name=module.name)
            continue
        for thing in vars(loaded).values():
            if IPlugin.providedBy(thing) and ICommandHandler.providedBy(thing):
                yield module.name, thing


class HandlerRegistry:
    """The handlers of this device, by name.

    Args:
        plugins: (where it comes from, handler); a bad one is logged and skipped.
    """

    def __init__(self, plugins: Iterable[tuple[str, Any]]) -> None:
        self._handlers: dict[str, Any] = {}
        self._descriptions: dict[str, HandlerDescription] = {}
        for origin, handler in plugins:
            self._add(origin, handler)

    @classmethod
    def new(cls) -> HandlerRegistry:
        """Collect the built-in handlers, then the plug-ins."""
        return cls([*(("rshell_agent", handler) for handler in BUILT_IN), *find_plugins()])

    def _add(self, origin: str, handler: Any) -> None:
        try:
            description = check_handler(handler)
            if description.name in self._handlers:
                raise BadHandler(f"{description.name}: there is a handler of that name already")
        except BadHandler as error:
            _log.error("plug-in in {origin} skipped: {reason}", origin=origin, reason=str(error))
            return
        self._handlers[description.name] = handler
        self._descriptions[description.name] = description

    def get(self, name: str) -> Any | None:
        """Return the handler of that name, or None."""
        return self._handlers.get(name)

    @property
    def names(self) -> frozenset[str]:
        """The names of all handlers, allowed or not."""
        return frozenset(self._handlers)

    def catalogue(self, allowed: Container[str]) -> bytes:
        """Return the encoded catalogue of those handlers that policy allows."""
        entries = (entry for name, entry in self._descriptions.items() if name in allowed)
        return encode_catalogue(entries)
