"""Keeping out of memory what libraries import and the agent never uses.

Twisted imports asyncio, urllib and through them Python's own TLS, beside the one that links use:
10 MB of a small device.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["give_back_memory", "import_lazily", "modules_absent"]


def give_back_memory() -> None:
    """Return what starting up has used and freed to the system: 1 to 2 MB with glibc."""
    import ctypes  # which Twisted has loaded, but other commands have not

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
