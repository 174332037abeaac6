"""What a device tells of itself: the request of ``facts``, and what its gateway is told.

The facts themselves are a map of JSON values (docs/facts.md has the list).  They are for choosing
devices and for people; no policy rests on them, because a device may say anything.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

__all__ = ["FactsReport", "FactsRequest"]

FactName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}\Z")]


class FactsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which facts of the device."""

    names: Annotated[
        list[FactName],
        Meta(max_length=64, description="Only these, such as os, memory or disks; none means all."),
    ] = field(default_factory=list)


class FactsReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All facts of a device, as it tells its gateway."""

    facts: Annotated[dict[FactName, Any], Meta(max_length=64)]
