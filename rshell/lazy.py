"""Keeping out of memory, and out of a command's start, what libraries import and we never use.

Twisted imports asyncio and urllib, and through them Python's own TLS, beside the one that links
use; cryptography imports bcrypt.  To a small device that is 13 MB, to a command a fifth of its
start.  Nothing here imports a library.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import CoroutineType, ModuleType
from typing import Any

__all__ = ["give_back_memory", "import_lazily", "modules_absent", "twisted_alone"]


def give_back_memory() -> None:
    """Return what starting up has used and freed to the system: 1 to 2 MB with glibc."""
    import ctypes  # which Twisted has loaded, but other commands have not

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def twisted_alone() -> Iterator[None]:
    """Import Twisted and cryptography without what only other programs need of them.

    What is loaded already stays as it is, and everything can be imported later as usual.
    """
    import_lazily("http.cookiejar")
    with _without_asyncio(), modules_absent("bcrypt"):
        # Every reactor asks whether there is TLS; links have their own.
        import_lazily("twisted.internet.ssl")
        yield


@contextmanager
def _without_asyncio() -> Iterator[None]:
    """Give Twisted's Deferred a stand-in for asyncio: 29 modules for one function.

    It asks ``iscoroutine`` and names two classes in annotations.  Whoever asks the stand-in for
    anything else gets it of the real one.
    """
    if "asyncio" in sys.modules:
        yield
        return
    stand_in = _StandIn("asyncio")
    sys.modules["asyncio"] = stand_in
    try:
        yield
    finally:
        if sys.modules.get("asyncio") is stand_in:
            del sys.modules["asyncio"]


class _Unused:
    """Stands for a class that only annotations name."""


class _StandIn(ModuleType):
    AbstractEventLoop = Future = _Unused

    @staticmethod
    def iscoroutine(value: object) -> bool:
        # The built-in type first: the other is ten times as slow to ask.
        return isinstance(value, CoroutineType) or isinstance(value, Coroutine)  # noqa: SIM101  # see above

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system asks for such
        if sys.modules.get("asyncio") is self:
            del sys.modules["asyncio"]
        return getattr(importlib.import_module("asyncio"), name)


@contextmanager
def modules_absent(*names: str) -> Iterator[None]:
    """Let optional imports of these modules fail for a while; later imports find them again.

    A module that is loaded already stays.
    """
    blocked = [name for name in names if name not in sys.modules]
    # what the import system documents: None makes an import raise ModuleNotFoundError
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # see above
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def import_lazily(name: str) -> None:
    """Put a module into `sys.modules` that is loaded when one of its attributes is asked for.

    Nothing happens if it is loaded already.  See `importlib.util.LazyLoader`.

    Raises:
        ModuleNotFoundError: Its parent package does not exist.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        # as the import system does; `from parent import child` would load it otherwise
        setattr(sys.modules[parent], child, module)
