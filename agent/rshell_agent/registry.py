"""Which handlers this device has: the built-in ones and those of plug-ins, all checked alike."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

import msgspec
from twisted.logger import Logger
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from rshell.handlers import (
    MAX_CATALOGUE_BYTES,
    PRIORITIES,
    HandlerDescription,
    describe,
    encode_catalogue,
)
from rshell.interfaces import ICommandHandler, ITypedHandler
from rshell_agent.handlers import BUILT_IN
from rshell_agent.plugins import MAX_PROBLEMS, PluginProblem, find_plugins, problem_of

__all__ = ["BadHandler", "HandlerRegistry", "check_handler"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
#: The agent answers this name itself, to the gateway only.
_RESERVED = frozenset({"catalogue"})
#: Of one handler's description: our own have one or two KiB.
MAX_DESCRIPTION_BYTES = 8 * 1024
_log = Logger()


class BadHandler(Exception):
    """A plug-in does not provide what `ICommandHandler` promises; the message says what."""


def check_handler(handler: Any) -> HandlerDescription:
    """Return a handler's catalogue entry.

    Raises:
        BadHandler: It breaks the interface in any way.
    """
    typed = ITypedHandler.providedBy(handler)
    try:
        verifyObject(ITypedHandler if typed else ICommandHandler, handler)
    except Invalid as error:
        raise BadHandler(" ".join(str(error).split())) from None
    name, kind = handler.name, handler.request_type
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise BadHandler(f"{name!r} is no valid name for a handler")
    if not _is_struct(kind):
        raise BadHandler(f"{name}: request_type is no msgspec.Struct")
    if not kind.__struct_config__.forbid_unknown_fields:
        raise BadHandler(f"{name}: request_type must have forbid_unknown_fields=True")
    if handler.priority not in PRIORITIES:
        raise BadHandler(f"{name}: priority must be one of {', '.join(PRIORITIES)}")
    if not isinstance(handler.summary, str) or not 0 < len(handler.summary) <= 200:
        raise BadHandler(f"{name}: summary must be a line of 1 to 200 characters")
    result, events = _announced(handler) if typed else (None, {})
    try:
        described = describe(name, handler.summary, kind, handler.priority, result, events)
        size = len(encode_catalogue([described]))
    except Exception as error:  # whatever a type of somebody else's raises
        raise BadHandler(f"{name}: its types have no schema: {error}") from None
    if size > MAX_DESCRIPTION_BYTES:
        raise BadHandler(f"{name}: its schemas take {size} bytes, of {MAX_DESCRIPTION_BYTES}")
    return described


def _announced(handler: Any) -> tuple[type | None, dict[str, type]]:
    """Return the result's type and those of events by their kinds.

    Raises:
        BadHandler: They are not what `ITypedHandler` promises.
    """
    name, result, events = handler.name, handler.result_type, handler.event_types
    if result is not None and not _is_struct(result):
        raise BadHandler(f"{name}: result_type is no msgspec.Struct")
    if not isinstance(events, Mapping) or not all(
        isinstance(kind, str) and _NAME.fullmatch(kind) and _is_struct(of)
        for kind, of in events.items()
    ):
        raise BadHandler(f"{name}: event_types is no map from words to msgspec.Structs")
    return result, dict(events)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


class HandlerRegistry:
    """The handlers of this device, by name.

    Args:
        plugins: (module it comes from, handler); a bad one is logged and skipped.
        problems: Gets what is wrong with those, and may have some already.
    """

    def __init__(
        self, plugins: Iterable[tuple[str, Any]], problems: list[PluginProblem] | None = None
    ) -> None:
        self._handlers: dict[str, Any] = {}
        self._descriptions: dict[str, HandlerDescription] = {}
        self._origins: dict[str, str] = {}
        self._problems: list[PluginProblem] = [] if problems is None else problems
        for origin, handler in plugins:
            self._add(origin, handler)

    @classmethod
    def new(cls) -> HandlerRegistry:
        """Collect the built-in handlers, then the plug-ins."""
        problems: list[PluginProblem] = []
        built_in = ((handler.__module__, handler) for handler in BUILT_IN)
        return cls([*built_in, *find_plugins(problems)], problems)

    def _add(self, origin: str, handler: Any) -> None:
        try:
            description = check_handler(handler)
            name = description.name
            if name in self._handlers:
                other = self._origins[name]
                raise BadHandler(f"{name}: there is a handler of that name already, in {other}")
        except BadHandler as error:
            self._skip(origin, str(error))
        except Exception as error:  # an attribute of somebody else's may raise anything
            self._skip(origin, f"cannot be looked at: {type(error).__name__}: {error}")
        else:
            self._handlers[name] = handler
            self._descriptions[name] = description
            self._origins[name] = origin

    def _skip(self, origin: str, reason: str) -> None:
        problem = problem_of(origin, None, reason)
        _log.error("plug-in skipped: {problem}", problem=str(problem))
        self._problems.append(problem)

    def get(self, name: str) -> Any | None:
        """Return the handler of that name, or None."""
        return self._handlers.get(name)

    @property
    def names(self) -> frozenset[str]:
        """The names of all handlers, allowed or not."""
        return frozenset(self._handlers)

    @property
    def problems(self) -> list[str]:
        """What is wrong with plug-ins, a line each, at most `MAX_PROBLEMS`."""
        lines = [str(problem) for problem in self._problems[:MAX_PROBLEMS]]
        more = len(self._problems) - len(lines)
        return [*lines[:-1], f"{lines[-1]} (and {more} more)"] if more else lines

    def catalogue(self, allowed: Container[str]) -> bytes:
        """Return the encoded catalogue: what policy allows, and the names of what it does not."""
        entries = [
            entry
            if name in allowed
            else HandlerDescription(name, entry.summary, {}, entry.priority, allowed=False)
            for name, entry in self._descriptions.items()
        ]
        encoded = encode_catalogue(entries)
        while len(encoded) > MAX_CATALOGUE_BYTES and any(entry.schema for entry in entries):
            # A gateway would take none of it: the largest can be called without its schema too.
            largest = max(entries, key=lambda entry: len(msgspec.json.encode(entry)))
            entries[entries.index(largest)] = HandlerDescription(
                largest.name, largest.summary, {}, largest.priority
            )
            encoded = encode_catalogue(entries)
        return encoded
