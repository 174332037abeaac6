"""The name a certificate gives its holder, as a URI.

``rshell://FLEET/device/ID`` and ``rshell://FLEET/operator/NAME``; nothing else parses. A gateway
has no such name: its certificate carries the DNS names and addresses it is dialled at.
"""

from __future__ import annotations

import re
import uuid
from typing import Literal

import attrs
from cryptography import x509

__all__ = ["BadPeerName", "PeerKind", "PeerName", "new_fleet_label", "peer_name_of"]

PeerKind = Literal["device", "operator"]

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_FLEET = re.compile(_UUID, re.ASCII)
_NAMES = {
    "device": re.compile(_UUID, re.ASCII),
    # 63 characters fit the 64 an X.509 common name may have
    "operator": re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII),
}
_URI = re.compile(r"rshell://([^/]*)/(device|operator)/([^/]*)", re.ASCII)


class BadPeerName(ValueError):
    """A name or certificate does not say, in the one accepted shape, who its holder is."""


def new_fleet_label() -> str:
    """Make the random label that tells one fleet's certificates from another's: a UUIDv4."""
    return str(uuid.uuid4())


@attrs.frozen
class PeerName:
    """Who a certificate says its holder is.

    Attributes:
        kind: "device" or "operator".
        fleet: the fleet's label, a lower-case UUID.
        name: the device's id (a lower-case UUID) or the operator's name
            (``[a-z0-9][a-z0-9._-]{0,62}``).

    Raises:
        BadPeerName: a part does not have its shape.
    """

    kind: PeerKind
    fleet: str
    name: str

    def __attrs_post_init__(self) -> None:
        if not _FLEET.fullmatch(self.fleet):
            raise BadPeerName("the fleet label is not a lower-case UUID")
        pattern = _NAMES.get(self.kind)
        if pattern is None:
            raise BadPeerName("a peer is a device or an operator")
        if not pattern.fullmatch(self.name):
            if self.kind == "operator":
                rule = "1 to 63 characters of a-z, 0-9 and ._-, beginning with a-z or 0-9"
                raise BadPeerName(f"an operator's name has {rule}")
            raise BadPeerName(f"not a valid {self.kind} name")

    @property
    def uri(self) -> str:
        """The URI form, as it stands in the certificate."""
        return f"rshell://{self.fleet}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> PeerName:
        """Read the URI form.

        Raises:
            BadPeerName: it differs in any way from what `uri` would print.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise BadPeerName("not an rshell device or operator URI")
        fleet, kind, name = match.groups()
        return cls(kind="device" if kind == "device" else "operator", fleet=fleet, name=name)


def peer_name_of(certificate: x509.Certificate) -> PeerName:
    """Read the peer name out of a certificate.

    Raises:
        BadPeerName: its alternative names are not exactly one valid rshell URI.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise BadPeerName("the certificate names no peer") from None
    entries = list(names)
    if len(entries) != 1 or not isinstance(entries[0], x509.UniformResourceIdentifier):
        raise BadPeerName("the certificate does not carry exactly one URI")
    return PeerName.parse(entries[0].value)
