"""Functions of the system that Python does not have: syncfs(2), and libzstd's.

Loaded with the module, before the keeper's child becomes another login, which may not be able to
read our Python.  Whatever is missing is done without.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["library", "sync_file_system"]

ctypes: Any
try:
    import ctypes
except ImportError:  # a Python that was built without it
    ctypes = None


def library(name: str | None) -> Any | None:
    """Return a shared library, None if it is not there."""
    try:
        return None if ctypes is None else ctypes.CDLL(name, use_errno=True)
    except OSError:
        return None


def _tells_errors() -> bool:
    """Whether syncfs fails when a file could not be written: since Linux 5.8."""
    major, minor, *_ = (*os.uname().release.split("."), "0", "0")
    digits = [int("".join(c for c in part if c.isdigit()) or 0) for part in (major, minor)]
    return digits >= [5, 8]


_syncfs = getattr(library(None), "syncfs", None) if _tells_errors() else None


def sync_file_system(descriptor: int) -> bool:
    """Have the file system of an open file on disk; return False if that was not possible."""
    return _syncfs is not None and _syncfs(descriptor) == 0
