"""What a device's flight recorder tells its gateway (``gateway.flight``).

Kinds: ``start``, ``stop``; ``dns``, ``tcp``, ``proxy``, ``tls``, ``unwelcomed``, ``refused`` (an
attempt that failed); ``welcomed``, ``goaway``, ``heartbeat-lost``, ``lost``, ``address``;
``suspended``, ``clock``; ``reboot``, ``poweroff``, ``restart-agent``, ``change`` (what became of
it).  A gateway takes any other kind too: agents are newer now and then.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

__all__ = ["MAX_RECORDS", "FlightRecord", "FlightReport"]

#: In one report; what fits into an OPEN is less for long records.
MAX_RECORDS = 100
_MAX_NUMBER = 2**53

Number = Annotated[int, Meta(ge=0, le=_MAX_NUMBER)]


class FlightRecord(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One thing that happened to a device's link.

    Attributes:
        seq: Counts the records of this device from 1.
        boot_id: Of the boot in which it happened.
        mono_ms: Since that boot, suspended time included; never jumps.
        wall_ms: The device's clock, UTC, for what it is worth.
        clock_trusted: Whether that clock could be true.
        kind: One word.
        target: The gateway's address it is about, or "".
        message: One line for a person.
        seconds: How long it took or lasted, if that means anything.
        details: A few short values.
        count: How often the same thing happened in a row.
        last_mono_ms: When it last did, if more than once.
    """

    seq: Annotated[int, Meta(ge=1, le=_MAX_NUMBER)]
    boot_id: Annotated[str, Meta(max_length=64)] = ""
    mono_ms: Number = 0
    wall_ms: Annotated[int, Meta(ge=-_MAX_NUMBER, le=_MAX_NUMBER)] = 0
    clock_trusted: bool = False
    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    target: Annotated[str, Meta(max_length=300)] = ""
    message: Annotated[str, Meta(max_length=512)] = ""
    seconds: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    details: Annotated[dict[Annotated[str, Meta(max_length=32)], Any], Meta(max_length=12)] = field(
        default_factory=dict
    )
    count: Annotated[int, Meta(ge=1, le=_MAX_NUMBER)] = 1
    last_mono_ms: Number | None = None


class FlightReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records that the gateway has not acknowledged, oldest first.

    The answer is ``{"through": seq}``: all up to this one are kept and need not be told again.

    Attributes:
        boot_id: Of this boot.
        mono_ms: Now, on the clock of the records' ``mono_ms``.
    """

    boot_id: Annotated[str, Meta(max_length=64)] = ""
    mono_ms: Number = 0
    records: Annotated[list[FlightRecord], Meta(min_length=1, max_length=MAX_RECORDS)]
