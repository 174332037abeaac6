"""Facts that the kernel and ``/etc`` hold as small files."""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from pathlib import Path

__all__ = [
    "boot_id",
    "cpu_count",
    "load",
    "machine_hash",
    "memory",
    "os_release",
    "uptime_seconds",
]

#: As much of a file as is looked at: /proc/meminfo has 2 KiB, an os-release under one.
MAX_FILE_BYTES = 64 * 1024
#: Names this product in `machine_hash`; made once with ``systemd-id128 new``, never changed.
_APPLICATION = bytes.fromhex("5e0b6b2d1c1a4f0aa6f8b2b4a4d7c913")

#: What the kernel calls them, and what we do.
_MEMORY = {
    "MemTotal": "total_bytes",
    "MemAvailable": "available_bytes",
    "SwapTotal": "swap_total_bytes",
    "SwapFree": "swap_free_bytes",
}


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """Return the values of os-release(5): ``ID``, ``PRETTY_NAME``, ``VERSION_ID`` and the rest.

    Returns:
        Nothing if the file is missing.  Quotes and the backslashes inside them are resolved.
    """
    for name in ("etc/os-release", "usr/lib/os-release"):
        text = _read(root / name)
        if text:
            break
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isascii() and key.isidentifier():
            values[key] = _unquoted(value)
    return values


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) < 2 or value[0] not in "\"'" or value[-1] != value[0]:
        return value
    inner = value[1:-1]
    if value[0] == "'":
        return inner
    for special in ("\\", '"', "$", "`"):
        inner = inner.replace("\\" + special, special)
    return inner


def machine_hash(root: Path = Path("/")) -> str:
    """Return what stays the same for this installation and tells nothing of its machine id.

    As ``sd_id128_get_machine_app_specific(3)``: HMAC-SHA256 of our own id, keyed by the machine
    id, which man machine-id(5) asks to keep confidential.

    Returns:
        A UUID's text, or "" where there is no machine id.
    """
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        try:
            machine = bytes.fromhex(_read(root / name).strip())
        except ValueError:
            continue
        if len(machine) == 16:
            digest = hmac.new(machine, _APPLICATION, hashlib.sha256).digest()
            return str(uuid.UUID(bytes=digest[:16], version=4))
    return ""


def boot_id(root: Path = Path("/")) -> str:
    """Return what changes with every boot, or ""."""
    return _read(root / "proc/sys/kernel/random/boot_id").strip()[:64]


def uptime_seconds(root: Path = Path("/")) -> int | None:
    """Return for how many seconds the system has been up, suspended time included."""
    words = _read(root / "proc/uptime").split()
    try:
        return int(float(words[0]))
    except (IndexError, ValueError, OverflowError):
        return None


def load(root: Path = Path("/")) -> list[float] | None:
    """Return the load averages of one, five and fifteen minutes."""
    try:
        one, five, fifteen = (float(word) for word in _read(root / "proc/loadavg").split()[:3])
    except ValueError:
        return None
    return [one, five, fifteen]


def memory(root: Path = Path("/")) -> dict[str, int]:
    """Return total and available memory and swap, in bytes."""
    found: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        name, words = _MEMORY.get(key), value.split()
        if name is not None and words and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found


def cpu_count() -> int | None:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except OSError:
        return os.cpu_count()


def _read(path: Path) -> str:
    """Return the beginning of a file, or ""; nothing that is no regular file makes us wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(descriptor, MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
