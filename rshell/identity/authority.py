"""The fleet's certificate authorities and what they issue.

One root signs three CAs. The device CA and the operator CA issue client certificates with a
URI, the gateway CA server certificates with DNS names and addresses; key usages keep each from
standing in for another. None of them touches a disk here (see `fleet_home`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import SystemRandom
from typing import Protocol

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rshell.identity.keys import PrivateKey, PublicKey, new_key, signing_hash
from rshell.identity.names import PeerName, new_fleet_label

__all__ = [
    "DEVICE_LIFE",
    "GATEWAY_LIFE",
    "OPERATOR_LIFE",
    "CertificateAuthority",
    "FleetKeys",
    "KeyAbsent",
    "RandomSource",
    "fleet_of",
    "general_name",
    "issue_gateway",
    "new_fleet",
    "renewal_time",
]

DEVICE_LIFE = timedelta(days=90)
OPERATOR_LIFE = timedelta(days=90)
GATEWAY_LIFE = timedelta(days=365)
_ROOT_LIFE = timedelta(days=20 * 365)
_CA_LIFE = timedelta(days=10 * 365)
# A peer whose clock is a little behind must not find a fresh certificate "not yet valid".
_BACKDATED = timedelta(hours=1)

_RANDOM = SystemRandom()
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class KeyAbsent(Exception):
    """The private key of a CA is needed but was moved away from this machine."""


class RandomSource(Protocol):
    """What `renewal_time` needs of `random.Random`."""

    def random(self) -> float:
        """Return a number of at least 0 and less than 1."""
        ...


@attrs.frozen
class CertificateAuthority:
    """A CA: its certificate and, where it may issue, its private key.

    Attributes:
        key: the private key, or None where it was moved away.
        certificate: the CA's certificate.
    """

    key: PrivateKey | None = attrs.field(repr=False)
    certificate: x509.Certificate

    def signing_key(self) -> PrivateKey:
        """Return the private key.

        Raises:
            KeyAbsent: it is not on this machine.
        """
        if self.key is None:
            name = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            raise KeyAbsent(f"the key of the {name!s} is not on this machine: it was moved away")
        return self.key


@attrs.frozen
class FleetKeys:
    """The authorities of one fleet: all that a gateway's home keeps under ``ca/``."""

    fleet: str
    root: CertificateAuthority
    device: CertificateAuthority
    operator: CertificateAuthority
    gateway: CertificateAuthority

    def moment(self, now: datetime) -> datetime:
        """Return when to issue: ``now``, or the fleet's begin if our clock stands before that.

        What a clock of 1970 dates would have ended before its authority began.
        """
        return max(now, self.root.certificate.not_valid_before_utc + _BACKDATED)

    def issue_device(
        self, public_key: PublicKey, device_id: str, now: datetime
    ) -> x509.Certificate:
        """Issue a device's certificate, valid for `DEVICE_LIFE` from an hour before `now`.

        Raises:
            BadPeerName: `device_id` is no lower-case UUID.
            KeyAbsent: the device CA's key is not here.
        """
        name = PeerName("device", self.fleet, device_id)
        return _issue_client(self.device, public_key, name, now, DEVICE_LIFE)

    def issue_operator(self, public_key: PublicKey, name: str, now: datetime) -> x509.Certificate:
        """Issue an operator's certificate, valid for `OPERATOR_LIFE` from an hour before `now`.

        Raises:
            BadPeerName: `name` is no valid operator name.
            KeyAbsent: the operator CA's key is not here.
        """
        peer = PeerName("operator", self.fleet, name)
        return _issue_client(self.operator, public_key, peer, now, OPERATOR_LIFE)

    def issue_gateway(
        self, public_key: PublicKey, names: Sequence[str], now: datetime
    ) -> x509.Certificate:
        """Call the function `issue_gateway` with this fleet's gateway CA."""
        return issue_gateway(self.gateway, public_key, names, now)

    def without_exported(self) -> FleetKeys:
        """Return what a running gateway needs: without the keys of root and gateway CA."""
        return attrs.evolve(
            self,
            root=attrs.evolve(self.root, key=None),
            gateway=attrs.evolve(self.gateway, key=None),
        )


def issue_gateway(
    authority: CertificateAuthority,
    public_key: PublicKey,
    names: Sequence[str],
    now: datetime,
    life: timedelta = GATEWAY_LIFE,
) -> x509.Certificate:
    """Issue a gateway's certificate.

    Args:
        authority: the gateway CA.
        public_key: the gateway's key.
        names: the DNS names and addresses it is dialled at, at least one.
        now: the time, aware; the certificate begins an hour earlier.
        life: how long from then on.

    Raises:
        ValueError: no name, or one that is neither a DNS name nor an address.
        KeyAbsent: the gateway CA's key is not here.
    """
    if not names:
        raise ValueError("a gateway certificate needs at least one name")
    return _issue_leaf(
        authority,
        public_key,
        common_name="rshell gateway",
        names=[general_name(name) for name in names],
        usage=_SERVER,
        not_before=now - _BACKDATED,
        not_after=now - _BACKDATED + life,
    )


def new_fleet(now: datetime, fleet: str | None = None) -> FleetKeys:
    """Make a fleet's root and CAs with fresh keys.

    Args:
        now: the time, aware; the certificates begin an hour earlier.
        fleet: the fleet's label; drawn when None.
    """
    fleet = fleet or new_fleet_label()
    root_key = new_key()
    root = CertificateAuthority(root_key, _ca_certificate(fleet, "root CA", root_key, now))
    device, operator, gateway = (
        _new_ca(fleet, label, usage, root, now)
        for label, usage in (
            ("device CA", _CLIENT),
            ("operator CA", _CLIENT),
            ("gateway CA", _SERVER),
        )
    )
    return FleetKeys(fleet, root, device, operator, gateway)


def fleet_of(ca_certificate: x509.Certificate) -> str:
    """Return the label of the fleet a CA belongs to, "" if it names none."""
    names = ca_certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def renewal_time(certificate: x509.Certificate, random: RandomSource = _RANDOM) -> datetime:
    """Say when to renew: at two thirds of the life, minus up to a twentieth of it.

    The jitter keeps devices which joined on the same day from renewing in the same second.

    Args:
        certificate: the one to be renewed.
        random: where the jitter comes from.
    """
    begin = certificate.not_valid_before_utc
    life = certificate.not_valid_after_utc - begin
    return begin + life * (2 / 3) - life * (random.random() / 20)


def _issue_leaf(
    authority: CertificateAuthority,
    public_key: PublicKey,
    *,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    not_before: datetime,
    not_after: datetime,
) -> x509.Certificate:
    """Sign an end-entity certificate; the `issue_` methods decide what is in it.

    Raises:
        KeyAbsent: the CA's key is not here.
    """
    key = authority.signing_key()
    # a leaf that outlives its CA would look valid and fail
    not_after = min(not_after, authority.certificate.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_identifier(authority.certificate), critical=False)
    )
    return builder.sign(key, signing_hash(key))


def _issue_client(
    authority: CertificateAuthority,
    public_key: PublicKey,
    name: PeerName,
    now: datetime,
    life: timedelta,
) -> x509.Certificate:
    return _issue_leaf(
        authority,
        public_key,
        common_name=name.name,
        names=[x509.UniformResourceIdentifier(name.uri)],
        usage=_CLIENT,
        not_before=now - _BACKDATED,
        not_after=now - _BACKDATED + life,
    )


def _new_ca(
    fleet: str,
    label: str,
    usage: x509.ObjectIdentifier,
    root: CertificateAuthority,
    now: datetime,
) -> CertificateAuthority:
    key = new_key()
    return CertificateAuthority(
        key, _ca_certificate(fleet, label, key, now, usage=usage, issuer=root)
    )


def _ca_certificate(
    fleet: str,
    label: str,
    key: PrivateKey,
    now: datetime,
    *,
    usage: x509.ObjectIdentifier | None = None,
    issuer: CertificateAuthority | None = None,
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"rshell {label}"),
        ]
    )
    begin = now.astimezone(UTC) - _BACKDATED
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + (_ROOT_LIFE if issuer is None else _CA_LIFE))
        # the root may have CAs below it, those may only have leaves
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0), critical=True
        )
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is None:
        return builder.sign(key, signing_hash(key))
    builder = builder.add_extension(_authority_identifier(issuer.certificate), critical=False)
    if usage is not None:
        # OpenSSL nests purposes: a device CA can then never make a server certificate
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signing_key = issuer.signing_key()
    return builder.sign(signing_key, signing_hash(signing_key))


def _authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(name: str) -> x509.GeneralName:
    """Return a DNS name or an address as it stands in certificates.

    Raises:
        ValueError: it is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name or len(name) > 253 or any(character in name for character in " /:@"):
        raise ValueError(f"neither a DNS name nor an address: {name!a}")
    return x509.DNSName(name)  # a ValueError of its own for what is not ASCII
