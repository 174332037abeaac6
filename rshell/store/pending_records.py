"""The records about devices that join; times are microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["Applicant", "KnownKey", "PendingDevice", "Waiting"]


@attrs.frozen(kw_only=True)
class Applicant:
    """Where a joiner asks from and what it wants to be called.

    Attributes:
        host: its address, for the ranges of an invite.
        source: what its requests are counted under.
        address: ``host:port``, for people.
        proposed: a valid name, made from what it says.
    """

    host: str = ""
    source: str = ""
    address: str = ""
    proposed: str = "device"


@attrs.frozen(kw_only=True)
class Waiting:
    """The answer to a device that has to wait for an operator.

    Attributes:
        first: whether it asked for the first time.
        name: what it will be called if it is accepted as it is.
        first_seen: when it asked first.
        count: how many wait in all.
    """

    first: bool
    name: str
    first_seen: int
    count: int


@attrs.frozen(kw_only=True)
class PendingDevice:
    """A device that waits for an operator.

    Attributes:
        within: whether its name is what its invite expects.
        source: what its requests are counted under, beside its invite.
        labels: set on it if it is accepted.
        invited_by: the operator who made the invite.
    """

    spki: bytes
    token_id: bytes
    name: str
    name_pattern: str | None
    within: bool
    labels: Mapping[str, str]
    invited_by: str
    address: str
    source: str
    first_seen: int
    last_seen: int


@attrs.frozen(kw_only=True)
class KnownKey:
    """A public key whose device may join by proving that it has it.

    Attributes:
        spki: SHA-256 of the SubjectPublicKeyInfo.
        name: what its device will be called; None lets it propose.
    """

    spki: bytes
    name: str | None = None
