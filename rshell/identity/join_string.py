"""The one line that lets a new machine join: where to, whom to trust there, and the token.

``rsh1.HOST:PORT.ROOT-PIN.TOKEN-ID.SECRET``, the last three base64url without padding. It carries
the hash of the fleet's root key, so already the first contact is authenticated. The secret is
shown once; the gateway stores only its hash. Pass it by file or standard input, never in argv.

``rsh1p.HOST:PORT.ROOT-PIN[.TOKEN-ID]`` is public: it says where to ask and whom to trust, and gives
no right.  It has a mark of its own, so that a join string that was cut is never taken for one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
import secrets

import attrs

__all__ = ["BadJoinString", "JoinString", "new_token", "token_hash"]

_VERSION = "rsh1"
_PUBLIC = "rsh1p"
_PIN_BYTES = 32  # SHA-256 of the root's SubjectPublicKeyInfo
_ID_BYTES = 8  # public: finds the row
_SECRET_BYTES = 20  # 160 bits: beyond guessing, and the whole line stays below 150 characters
# One with a secret; one that lets a device ask and wait; one for keys that are known already.
_LENGTHS = ((_ID_BYTES, _SECRET_BYTES), (_ID_BYTES, 0), (0, 0))
_MAX_CHARACTERS = 512  # a DNS name has at most 253
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


class BadJoinString(ValueError):
    """A join string cannot be used; the message is one line for a person, without its secret."""


def token_hash(secret: bytes) -> bytes:
    """Hash a token's secret for storing.

    A plain SHA-256 (32 bytes) is enough: the secret is random, so there is no list to try.
    """
    return hashlib.sha256(secret).digest()


def new_token() -> tuple[bytes, bytes]:
    """Draw the id (8 bytes) and the secret (20 bytes) of a new token."""
    return secrets.token_bytes(_ID_BYTES), secrets.token_bytes(_SECRET_BYTES)


@attrs.frozen
class JoinString:
    """What a join string says.

    Attributes:
        host: DNS name or address of a gateway, IPv6 without brackets.
        port: its TCP port, 1 to 65535.
        root_pin: SHA-256 of the root's SubjectPublicKeyInfo, 32 bytes.
        token_id: 8 bytes, not secret; empty in a string for devices whose keys are known.
        secret: 20 bytes; whoever has them can join.  Empty in a string that gives no right.

    Raises:
        BadJoinString: a part does not have its shape.
    """

    host: str
    port: int
    root_pin: bytes
    token_id: bytes = b""
    secret: bytes = attrs.field(repr=False, default=b"")

    def __attrs_post_init__(self) -> None:
        if not _is_host(self.host):
            raise BadJoinString("the join string names no valid host")
        if not 1 <= self.port <= 65535:
            raise BadJoinString("the join string names no valid port")
        lengths = (len(self.token_id), len(self.secret))
        if len(self.root_pin) != _PIN_BYTES or lengths not in _LENGTHS:
            raise BadJoinString("the join string is incomplete or damaged: copy it again")

    @property
    def public(self) -> bool:
        """Whether it gives no right: it may be printed on the box."""
        return not self.secret

    def encode(self) -> str:
        """Return the line to hand over. It contains the secret, if there is one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        parts = [_encode(part) for part in (self.root_pin, self.token_id, self.secret) if part]
        return ".".join((_PUBLIC if self.public else _VERSION, f"{host}:{self.port}", *parts))

    @classmethod
    def parse(cls, text: str) -> JoinString:
        """Read a join string; white space around it is ignored.

        Raises:
            BadJoinString: it is none, is of another version, or was cut.
        """
        text = text.strip()
        if len(text) > _MAX_CHARACTERS or not re.match(r"rsh[0-9]", text, re.ASCII):
            raise BadJoinString("this is not a join string: those begin with rsh1.")
        version, _, rest = text.partition(".")
        if version not in (_VERSION, _PUBLIC):
            raise BadJoinString("this join string is of a version this rshell does not know")
        # the host has dots, or colons within brackets; behind its last colon there are none
        host, _, tail = rest.rpartition(":")
        port, *parts = tail.split(".")
        if len(parts) not in ((1, 2) if version == _PUBLIC else (3,)) or "" in parts:
            raise BadJoinString("the join string is incomplete or damaged: copy it again")
        host, number = _read_address(host, port)
        pin, token_id, secret = [*(_decode(part) for part in parts), b"", b""][:3]
        return cls(host=host, port=number, root_pin=pin, token_id=token_id, secret=secret)


def _read_address(host: str, port: str) -> tuple[str, int]:
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if bracketed is not (":" in host):
        raise BadJoinString("the join string names no valid host")
    if not _PORT.fullmatch(port):
        raise BadJoinString("the join string names no valid port")
    return host, int(port)


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6 and "%" not in host
    except ValueError:
        return False


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    if not _BASE64.fullmatch(text):
        raise BadJoinString("the join string has characters which do not belong there")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise BadJoinString("the join string is incomplete or damaged: copy it again") from None
    if _encode(data) != text:
        # the unused low bits of the last character: one token has one spelling only
        raise BadJoinString("the join string is incomplete or damaged: copy it again")
    return data
