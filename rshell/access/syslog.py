"""Audit rows as lines of syslog (RFC 5424): one message a row, nothing a log reader acts on.

Facility 13 (log audit); severity notice, warning where something was refused or failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rshell.access.printable import printable

__all__ = ["MAX_LINE_BYTES", "syslog_line"]

#: Receivers have to take 2,048 bytes (RFC 5424, section 6.1); more may be cut by them.
MAX_LINE_BYTES = 2_048
_FACILITY = 13
_NOTICE, _WARNING = 5, 4
_WARN = frozenset({"refused", "error", "lost", "interrupted", "failed"})
#: A private enterprise number for documentation (RFC 5612): it names our structured data.
_ID = "rshell@32473"
_MAX_VALUE = 160
#: In the order in which they are left out last.
_FIELDS = (
    "seq",
    "refers",
    "operator",
    "device",
    "device_id",
    "handler",
    "login",
    "session",
    "attempt",
    "door",
    "address",
    "status",
    "exit_code",
    "code",
    "hash",
)


def syslog_line(row: Mapping[str, Any], host: str, pid: int | None = None) -> str:
    """Return one message, without a line end, of at most ``MAX_LINE_BYTES`` bytes.

    Args:
        row: as the gateway tells rows: ``seq``, ``at`` (RFC 3339), ``kind`` …
        host: of the gateway.
        pid: of the gateway, if this is it.
    """
    severity = _WARNING if row.get("status") in _WARN else _NOTICE
    header = " ".join(
        (
            f"<{_FACILITY * 8 + severity}>1",
            str(row.get("at") or "-"),
            _word(host, 255),
            "rshell",
            str(pid) if pid else "-",
            _word(str(row.get("kind") or "-"), 32),
        )
    )
    values = [(name, row.get(name)) for name in _FIELDS]
    data = " ".join(
        f'{name}="{_escaped(str(value))}"' for name, value in values if value is not None
    )
    said = [str(row[name]) for name in ("summary", "message") if row.get(name)]
    text = printable(": ".join(said) or str(row.get("kind") or ""), 1_000)
    line = f"{header} [{_ID} {data}] {text}"
    return line.encode()[:MAX_LINE_BYTES].decode("utf-8", "ignore")


def _word(text: str, limit: int) -> str:
    """Return printable US-ASCII without spaces, as header fields must be."""
    kept = "".join(c if "!" <= c <= "~" else "_" for c in text[:limit])
    return kept or "-"


def _escaped(value: str) -> str:
    safe = printable(value, _MAX_VALUE)
    return safe.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
