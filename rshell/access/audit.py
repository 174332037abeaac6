"""The audit log as the rest of the gateway sees it: records, and how a row reads.

Keeping, chaining and checking rows is the store's part (``rshell.store.audit``).
"""

from __future__ import annotations

from rshell.access.printable import printable
from rshell.store.records import AuditEnd, AuditRecord, AuditRow, AuditVerdict
from rshell.store.times import rfc3339

__all__ = ["AuditEnd", "AuditRecord", "AuditRow", "AuditVerdict", "describe"]

# A row is one line on a terminal; a hostile message must not push the rest out of sight.
_FIELD = 80


def describe(row: AuditRow) -> str:
    """Return *row* as one line, safe to show: when, what, who, where, how it ended."""
    record = row.record
    words = [f"#{row.seq}", rfc3339(row.at), printable(record.kind, _FIELD)]
    if row.refers is not None:
        words.append(f"end of #{row.refers}")
    named = {
        "operator": record.operator,
        "device": record.device_name or record.device,
        "handler": record.handler,
        "as": record.login,
        "session": record.session,
        "attempt": record.attempt,
        "door": record.door,
        "from": record.address,
        "status": record.status,
        "exit": record.exit_code,
        "code": record.code,
    }
    words += [f"{k}={printable(str(v), _FIELD)}" for k, v in named.items() if v is not None]
    if record.message:
        words.append(f"({printable(record.message, _FIELD)})")
    return " ".join(words)
