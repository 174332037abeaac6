"""What authorities a fleet has, where their keys lie, when what ends: for `rshell ca show`.

Read from the home's files, so that it tells the truth whether or not the gateway runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from msgspec import Struct

from rshell.identity.authority import renewal_time
from rshell.identity.fleet_home import FleetHome, GatewayLeaf
from rshell.identity.gateway_leaf import fingerprint, names_of
from rshell.identity.keys import spki_hash
from rshell.identity.revoked import RevokedMemory

__all__ = ["Authority", "InUse", "Leaf", "Report", "in_use", "report", "warnings"]

#: Certificates of CAs outlive their holders' attention: a year is needed to replace one in a fleet.
_CA_WARNING = timedelta(days=365)
_AUTHORITIES = (
    ("root", "root", "root"),
    ("device-ca", "device", "device CA"),
    ("operator-ca", "operator", "operator CA"),
    ("gateway-ca", "gateway", "gateway CA"),
)


class InUse(Struct, frozen=True):
    """What a running gateway says that it uses: HOME/certificates.json.

    Attributes:
        pid: Its process.
        leaf: Fingerprint of its certificate's key.
        revoked: Number of its list of revoked gateways.
    """

    pid: int
    leaf: str
    revoked: int


class Authority(Struct, frozen=True):
    """One CA; ``key`` tells where its private key is."""

    name: str
    key: Literal["here", "away"]
    valid_until: str
    fingerprint: str


class Leaf(Struct, frozen=True):
    """One certificate of a gateway.

    Attributes:
        fingerprint: By which it is revoked.
        state: ``in use``, ``replaced`` (still valid: a stolen copy of it is believed),
            ``revoked`` or ``expired``.
        renew_at: When the one in use is due; "" for others.
    """

    fingerprint: str
    names: list[str]
    valid_from: str
    valid_until: str
    state: str
    renew_at: str = ""


class Report(Struct, frozen=True):
    """All of it; ``request`` tells whether a certificate was asked for that has not come."""

    fleet: str
    authorities: list[Authority]
    gateways: list[Leaf]
    revoked_number: int
    revoked: list[str]
    request: bool
    warnings: list[str]


def in_use(home: Path) -> InUse | None:
    """Return what the gateway of a home last said; it may have been killed since."""
    try:
        return msgspec.json.decode((home / "certificates.json").read_bytes(), type=InUse)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def report(home: FleetHome, now: datetime, hosts: Sequence[str] = ()) -> Report:
    """Read a home.

    Args:
        home: Of a gateway.
        now: The time, aware.
        hosts: Where the gateway is dialled, if that is known.

    Raises:
        DamagedHome: Something does not fit together.
        OSError: A file could not be read.
    """
    keys = home.load()
    revoked = RevokedMemory(home.revoked_path, keys.root.certificate)
    leaf = home.load_leaf()
    authorities = []
    for name, attribute, label in _AUTHORITIES:
        certificate: x509.Certificate = getattr(keys, attribute).certificate
        authorities.append(
            Authority(
                label,
                "here" if home.key_path(name).exists() else "away",
                _day(certificate.not_valid_after_utc),
                spki_hash(certificate.public_key()).hex(),
            )
        )
    current = None if leaf is None else leaf.chain[0]
    return Report(
        fleet=keys.fleet,
        authorities=authorities,
        gateways=[_leaf(found, current, revoked, now) for found in home.leaves()],
        revoked_number=revoked.number,
        revoked=sorted(key.hex() for key in revoked.keys),
        request=home.pending_request() is not None,
        warnings=[] if leaf is None else warnings(home, leaf, revoked, now, hosts),
    )


def _leaf(
    found: x509.Certificate, current: x509.Certificate | None, revoked: RevokedMemory, now: datetime
) -> Leaf:
    if revoked.lists(found):
        state = "revoked"
    elif found.not_valid_after_utc <= now:
        state = "expired"
    else:
        state = "in use" if found == current else "replaced"
    return Leaf(
        fingerprint=fingerprint(found),
        names=list(names_of(found)),
        valid_from=_day(found.not_valid_before_utc),
        valid_until=_day(found.not_valid_after_utc),
        state=state,
        renew_at=_day(renewal_time(found, _NoJitter())) if found == current else "",
    )


class _NoJitter:
    def random(self) -> float:
        return 0.0


def warnings(
    home: FleetHome, leaf: GatewayLeaf, revoked: RevokedMemory, now: datetime, hosts: Sequence[str]
) -> list[str]:
    """Return what a person should do something about, a line each.

    Args:
        home: Of the gateway.
        leaf: What it shows.
        revoked: The list it tells.
        now: The time, aware.
        hosts: Where it is dialled.
    """
    certificate = leaf.chain[0]
    lines = []
    can_issue = home.key_path("gateway-ca").exists()
    ask = "rshell ca request, rshell ca certify, rshell ca install"
    left = certificate.not_valid_after_utc - now
    if revoked.lists(certificate):
        lines.append(f"this gateway's own key is revoked: nobody believes it; replace it: {ask}")
    if left <= timedelta(0):
        lines.append(f"this gateway's certificate has ended: nobody can connect; renew it: {ask}")
    elif not can_issue and now >= renewal_time(certificate, _NoJitter()):
        lines.append(
            f"this gateway's certificate ends in {left.days} days and the key that would renew it "
            f"was moved away: {ask}"
        )
    missing = sorted(set(hosts) - set(names_of(certificate)))
    if missing:
        lines.append(
            f"this gateway's certificate is not for {', '.join(missing)}, its address: {ask}"
        )
    for ca, label in ((leaf.chain[-1], "root"), (leaf.chain[1], "gateway CA")):
        if ca.not_valid_after_utc - now < _CA_WARNING:
            lines.append(f"the fleet's {label} ends on {ca.not_valid_after_utc:%Y-%m-%d}")
    return lines
