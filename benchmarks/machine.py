"""On what the figures were measured: without it, none of them means anything."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL

__all__ = ["ROOT", "describe_machine", "descriptors", "memory_disk"]

ROOT = Path(__file__).resolve().parent.parent


def _line_of(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
    return found[0] if found else "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache  # that of the run: the run itself writes pages
def _commit() -> str:
    """Return the commit, marked if the tree has changes that are not in it."""
    commit = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    # What the measurements write themselves does not count.
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results.*", ":!docs/plots")
    return f"{commit}+changes" if changes else commit


def descriptors() -> int:
    """Return how many descriptors a process may have open here."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def memory_disk() -> Path | None:
    """Return a directory on a disk in memory, if there is one; a room of one's own goes into it."""
    shared = Path("/dev/shm")  # noqa: S108  # nothing is put there but private directories
    return shared if os.access(shared, os.W_OK) else None


def describe_machine(*, quick: bool) -> dict[str, Any]:
    """Return what results.json says of this machine; call it before anything is measured."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": _line_of("/proc/cpuinfo", "model name"),
        "memory": _line_of("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(),
        "descriptors": descriptors(),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": os.getloadavg()[0],
        "quick": quick,
    }
