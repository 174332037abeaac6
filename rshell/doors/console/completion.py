"""What Tab offers: names, attributes, devices.

Attributes are read to find others, so a property's code runs; nothing is called.
"""

from __future__ import annotations

import builtins
import keyword
import re
from typing import Any, Protocol

__all__ = ["Completer", "NamesDevices"]

_DEVICE = re.compile(r"""\b(\w+)\[\s*(["'])([\w.-]*)$""")
_DOTTED = re.compile(r"""([A-Za-z_]\w*(?:\[\s*["'][\w.-]*["']\s*\])?(?:\.[A-Za-z_]\w*)*)\.(\w*)$""")
_NAME = re.compile(r"([A-Za-z_]\w*)$")
_HEAD = re.compile(r"""([A-Za-z_]\w*)(?:\[\s*["']([\w.-]*)["']\s*\])?""")


class NamesDevices(Protocol):
    """What ``fleet`` has that completion needs."""

    async def device_names(self) -> list[str]:
        """Return the names of all devices."""


class Completer:
    """Finds what a text can go on with.

    Args:
        namespace: The console's.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    async def complete(self, text: str) -> tuple[int, list[str]]:
        """Return how many characters at the text's end are replaced, and by what, sorted."""
        if match := _DEVICE.search(text):
            return await self._devices(match)
        if match := _DOTTED.search(text):
            return await self._attributes(match[1], match[2])
        if match := _NAME.search(text):
            names = {*self._namespace, *dir(builtins), *keyword.kwlist}
            return len(match[1]), _begin_with(names, match[1])
        return 0, []

    async def _devices(self, match: re.Match[str]) -> tuple[int, list[str]]:
        fleet = self._namespace.get(match[1])
        names = getattr(fleet, "device_names", None)
        if names is None:
            return 0, []
        found = _begin_with(await names(), match[3])
        closing = match[2] + "]"
        return len(match[3]), [found[0] + closing] if len(found) == 1 else found

    async def _attributes(self, path: str, begun: str) -> tuple[int, list[str]]:
        head = _HEAD.match(path)
        if head is None or head[1] not in self._namespace:
            return len(begun), []
        value = self._namespace[head[1]]
        try:
            if head[2] is not None:
                value = value[head[2]]
            for name in filter(None, path[head.end() :].split(".")):
                value = getattr(value, name)
            learn = getattr(type(value), "_learn_handlers", None)
            if learn is not None:
                await learn(value)
            names = dir(value)
        except Exception:  # whatever somebody's property raises
            return len(begun), []
        return len(begun), _begin_with(names, begun)


def _begin_with(names: Any, begun: str) -> list[str]:
    hidden = begun.startswith("_")
    return sorted(
        name for name in set(names) if name.startswith(begun) and (hidden or name[:1] != "_")
    )
