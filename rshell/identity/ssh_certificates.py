"""OpenSSH user certificates: read, checked against their CA's signature, and used as keys.

What it is not: which CAs are known, what was revoked, and whom a certificate's principals are; the
store knows, and the SSH door asks it.  Format: OpenSSH's PROTOCOL.certkeys.  Where OpenSSH is
lenient and its specification is not (order and uniqueness of options), this keeps to the words.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import attrs

from rshell.identity.ssh_keys import (
    SIGNATURE_ALGORITHMS,
    BadSshKey,
    SshPublicKey,
    read_blob,
    take_string,
)

__all__ = [
    "BadCertificate",
    "SshCertificate",
    "UncheckedCertificate",
    "is_certificate",
    "read_certificate",
]

#: What a login's packet has room for; a usual one has half a kilobyte.
MAX_BLOB_BYTES: Final = 16_384
#: It is written into the audit log and shown in listings.
MAX_KEY_ID: Final = 256
#: As OpenSSH's SSHKEY_CERT_MAX_PRINCIPALS.
MAX_PRINCIPALS: Final = 256
MAX_NETWORKS: Final = 256
_USER: Final = 1
#: ``valid before`` of a certificate that never expires.
_FOREVER: Final = 2**64 - 1
#: In a security key's signature: a PIN or a finger was asked for (PROTOCOL.u2f).
_USER_VERIFIED: Final = 0x04

_SUFFIX: Final = b"-cert-v01@openssh.com"
#: Of each type: the plain type, and how many strings its public key has.
_TYPES: Final[dict[bytes, tuple[bytes, int]]] = {
    b"ssh-ed25519" + _SUFFIX: (b"ssh-ed25519", 1),
    b"ecdsa-sha2-nistp256" + _SUFFIX: (b"ecdsa-sha2-nistp256", 2),
    b"ecdsa-sha2-nistp384" + _SUFFIX: (b"ecdsa-sha2-nistp384", 2),
    b"ecdsa-sha2-nistp521" + _SUFFIX: (b"ecdsa-sha2-nistp521", 2),
    b"ssh-rsa" + _SUFFIX: (b"ssh-rsa", 2),
    b"sk-ssh-ed25519" + _SUFFIX: (b"sk-ssh-ed25519@openssh.com", 2),
    b"sk-ecdsa-sha2-nistp256" + _SUFFIX: (b"sk-ecdsa-sha2-nistp256@openssh.com", 3),
}
#: How a login says that it signs by a certificate's key, and as what the signature is made.
_SIGNED_AS: Final[dict[bytes, bytes]] = {
    **{name: plain for name, (plain, _) in _TYPES.items() if plain != b"ssh-rsa"},
    b"rsa-sha2-512" + _SUFFIX: b"rsa-sha2-512",
    b"rsa-sha2-256" + _SUFFIX: b"rsa-sha2-256",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadCertificate(BadSshKey):
    """This is no user certificate that is accepted; the text says why."""


@attrs.frozen(kw_only=True)
class SshCertificate:
    """A user certificate, from `UncheckedCertificate.checked`; whether the CA counts is not said.

    Attributes:
        key: What was certified.
        ca: Who signed.
        serial: What the CA counts by; 0 if it does not.
        key_id: What the CA calls it; printable text.
        principals: Whom it lets in; at least one.
        valid_after, valid_before: Seconds since 1970 UTC; None for one that does not expire.
        command: What runs, whatever is asked for; None if anything may.
        sources: Where it may be used from; None for anywhere.
        verified: Whether each signature must say that the security key asked for its user.
        allows_pty, allows_forwarding: What its extensions permit.
    """

    key: SshPublicKey
    ca: SshPublicKey
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int | None
    command: bytes | None = None
    sources: tuple[Network, ...] | None = None
    verified: bool = False
    allows_pty: bool = False
    allows_forwarding: bool = False

    @property
    def fingerprint(self) -> str:
        """That of the key; what ``ssh-keygen -l`` shows of a certificate, too."""
        return self.key.fingerprint

    def verify(self, algorithm: bytes, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is the certified key's over ``data``; as `SshPublicKey.verify`.

        Args:
            algorithm: What the client said: the name of a type of certificates.
        """
        plain = _SIGNED_AS.get(algorithm)
        if plain is None or not self.key.verify(plain, signature, data):
            return False
        # A key that is no security key can never say it.
        return not self.verified or _says_verified(self.key, signature)

    def time_problem(self, now_seconds: float) -> str | None:
        """Return why it does not hold at a time; None if it does."""
        if now_seconds < self.valid_after:
            return "is not valid yet"
        if self.valid_before is not None and now_seconds >= self.valid_before:
            return "has expired"
        return None

    def admits_source(self, address: str) -> bool:
        """Whether it may be used from there."""
        if self.sources is None:
            return True
        try:
            source = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = source.ipv4_mapped if isinstance(source, ipaddress.IPv6Address) else None
        return any((mapped or source) in network for network in self.sources)


@attrs.frozen
class UncheckedCertificate:
    """What says that it is a certificate; anybody can write one.

    The CA's signature is looked at only when the CA is known: a stranger's may be made to take
    its time.

    Attributes:
        claimed: What it says.
    """

    claimed: SshCertificate
    _body: bytes = attrs.field(repr=False)
    _signature: bytes = attrs.field(repr=False)

    def checked(self) -> SshCertificate:
        """Return it as a certificate.

        Raises:
            BadCertificate: The CA's signature does not hold.
        """
        ca = self.claimed.ca
        algorithm, _ = take_string(self._signature)
        known = algorithm in SIGNATURE_ALGORITHMS
        if not known or not ca.verify(algorithm, self._signature, self._body):
            raise BadCertificate("the CA's signature does not hold (SHA-1 is refused)")
        return self.claimed


def is_certificate(blob: bytes) -> bool:
    """Whether a login's key says that it is a certificate, of whatever kind."""
    try:
        name, _ = take_string(blob)
    except BadSshKey:
        return False
    return b"-cert-v" in name


def read_certificate(blob: bytes) -> UncheckedCertificate:
    """Return what a wire blob says.

    Raises:
        BadCertificate: It is none, or none for users, or is damaged or says what is not known.
        BadSshKey: A key in it is none that is accepted.
    """
    if len(blob) > MAX_BLOB_BYTES:
        raise BadCertificate("the certificate is too long")
    name, rest = take_string(blob)
    kind = _TYPES.get(name)
    if kind is None:
        raise BadCertificate("certificates of that type are not accepted")
    _nonce, rest = take_string(rest)
    key, rest = _certified(*kind, rest)
    serial, rest = _number(rest, ">Q")
    role, rest = _number(rest, ">L")
    if role != _USER:
        raise BadCertificate("it is no user certificate")
    key_id, rest = take_string(rest)
    principals, rest = take_string(rest)
    after, rest = _number(rest, ">Q")
    before, rest = _number(rest, ">Q")
    critical, rest = take_string(rest)
    extensions, rest = take_string(rest)
    _reserved, rest = take_string(rest)
    ca_blob, rest = take_string(rest)
    body = blob[: len(blob) - len(rest)]
    signature, rest = take_string(rest)
    if rest:
        raise BadCertificate("something follows the certificate")
    command, sources, verified = _critical(critical)
    allowed = _options(extensions)
    claimed = SshCertificate(
        key=key,
        ca=_ca(ca_blob),
        serial=serial,
        key_id=_text(key_id, "key id", MAX_KEY_ID),
        principals=_principals(principals),
        valid_after=after,
        valid_before=None if before == _FOREVER else before,
        command=command,
        sources=sources,
        verified=verified,
        # What else extensions say is ignored, as PROTOCOL.certkeys has it; so is
        # no-touch-required: security keys must be touched here.
        allows_pty=allowed.get(b"permit-pty") == b"",
        allows_forwarding=allowed.get(b"permit-port-forwarding") == b"",
    )
    return UncheckedCertificate(claimed, body, signature)


def _certified(plain: bytes, strings: int, rest: bytes) -> tuple[SshPublicKey, bytes]:
    """Return the key that is certified, and what follows it."""
    begin = rest
    for _ in range(strings):
        _, rest = take_string(rest)
    fields = begin[: len(begin) - len(rest)]
    return read_blob(struct.pack(">L", len(plain)) + plain + fields), rest


def _ca(blob: bytes) -> SshPublicKey:
    if is_certificate(blob):
        raise BadCertificate("it is signed by a certificate: only plain keys can be CAs")
    return read_blob(blob)


def _says_verified(key: SshPublicKey, signature: bytes) -> bool:
    if not key.type.startswith("sk-"):
        return False
    _, rest = take_string(signature)
    _, tail = take_string(rest)
    return len(tail) == 5 and bool(tail[0] & _USER_VERIFIED)


def _number(data: bytes, shape: str) -> tuple[int, bytes]:
    size = struct.calcsize(shape)
    if len(data) < size:
        raise BadCertificate("the certificate is cut short")
    return int(struct.unpack_from(shape, data)[0]), data[size:]


def _text(data: bytes, what: str, limit: int) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\n"
    # It names the login in the audit log: what cannot be read there, names nothing.
    if not text.isprintable() or len(text) > limit:
        raise BadCertificate(f"its {what} is no text of at most {limit} characters")
    return text


def _principals(data: bytes) -> tuple[str, ...]:
    found = []
    while data:
        name, data = take_string(data)
        found.append(_text(name, "principal", MAX_KEY_ID))
        if len(found) > MAX_PRINCIPALS:
            raise BadCertificate(f"it has more than {MAX_PRINCIPALS} principals")
    if not found:
        # OpenSSH takes that for anybody; nobody means it.
        raise BadCertificate("it names no principal: ssh-keygen -s CA -n OPERATOR")
    return tuple(found)


def _options(data: bytes) -> dict[bytes, bytes]:
    """Return names and data; each name once, in order (PROTOCOL.certkeys)."""
    found: dict[bytes, bytes] = {}
    last: bytes | None = None
    while data:
        name, data = take_string(data)
        value, data = take_string(data)
        if last is not None and name <= last:
            raise BadCertificate("its options are not in order, or one comes twice")
        found[name] = value
        last = name
    return found


def _critical(data: bytes) -> tuple[bytes | None, tuple[Network, ...] | None, bool]:
    """Return what critical options say; one that is not known refuses the whole."""
    command: bytes | None = None
    sources: tuple[Network, ...] | None = None
    verified = False
    for name, value in _options(data).items():
        match name:
            case b"force-command":
                command = _inner(value)
            case b"source-address":
                sources = _networks(_inner(value))
            case b"verify-required" if not value:
                verified = True
            case _:
                shown = ascii(name[:40].decode("ascii", "replace"))
                raise BadCertificate(f"its critical option {shown} is not known here")
    return command, sources, verified


def _inner(value: bytes) -> bytes:
    text, rest = take_string(value)
    if rest or b"\0" in text:
        raise BadCertificate("one of its critical options is damaged")
    return text


def _networks(text: bytes) -> tuple[Network, ...]:
    try:
        words = text.decode("ascii").split(",")
        if len(words) > MAX_NETWORKS:
            raise ValueError
        # Bits behind the prefix are refused, as OpenSSH does: somebody mistyped one of both.
        return tuple(ipaddress.ip_network(word.strip()) for word in words)
    except ValueError:
        raise BadCertificate("its source-address is no list of addresses and networks") from None
