"""Queries about invites: a token is used at most so often, each time by one key.

The use is one conditional UPDATE, so of any number of concurrent tries exactly as many
win as the invite allows, whatever the number of gateways.  The same key asking again
within ``REPLY_WINDOW`` gets the same answer, because replies get lost; any other key does
not.  Which of the reasons applied is told to the caller for the audit, never to the peer.
"""

from __future__ import annotations

import hmac
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from rshell.store import keys
from rshell.store.errors import NameTaken, NotFound, StoreError
from rshell.store.records import NewToken, OwnerKind, Refusal, Token, TokenGrant, TokenRefused
from rshell.store.schema import devices, token_uses, tokens
from rshell.store.schema import keys as key_table
from rshell.store.times import MINUTE

__all__ = [
    "add_token",
    "current_use",
    "find_tokens",
    "keep_certificate",
    "revoke_created_by",
    "revoke_for",
    "revoke_token",
    "revoke_with_role",
    "set_owner",
    "still_open",
    "use_token",
]

REPLY_WINDOW = 15 * MINUTE


def add_token(connection: Connection, token: NewToken, now: int) -> None:
    """Keep an invite.

    Raises:
        NameTaken: it fixes the name of an active device.
        StoreError: it is malformed.
    """
    if len(token.id) != 8 or len(token.secret_hash) != 32 or token.uses_max < 1:
        raise StoreError("an invite has an id of 8 bytes, a hash of 32 and at least one use")
    if token.kind == "operator" and not (token.name and token.roles):
        raise StoreError("an operator's invite names the operator and the roles")
    if token.kind == "device" and token.name is not None:
        if token.uses_max > 1:
            raise StoreError("an invite that fixes the name can be used once only")
        taken = select(devices.c.id).where(
            devices.c.name == token.name, devices.c.status == "active"
        )
        if connection.execute(taken).first() is not None:
            raise NameTaken(f"there is a device {token.name} already: revoke or rename it first")
    connection.execute(
        insert(tokens).values(
            id=token.id,
            secret_hash=token.secret_hash,
            kind=token.kind,
            uses_max=token.uses_max,
            uses=0,
            expires_at=token.expires_at,
            name=token.name,
            name_pattern=token.name_pattern,
            roles=msgspec.json.encode(sorted(set(token.roles))).decode(),
            labels=msgspec.json.encode(token.labels).decode(),
            created_by=token.created_by,
            created_at=now,
            revoked=False,
        )
    )


def use_token(
    connection: Connection,
    token_id: bytes,
    secret_hash: bytes,
    spki: bytes,
    kind: OwnerKind,
    now: int,
) -> TokenGrant | TokenRefused:
    """Use an invite once for the key *spki*, or repeat that use.

    Args:
        token_id: as presented.
        secret_hash: SHA-256 of the secret presented.
        spki: SHA-256 of the public key whose possession was proved.
        kind: what the joiner wants to be; a token for another kind is not used up.
        now: microseconds UTC.
    """
    token = connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
    # An unknown id costs the same comparison as a known one.
    stored = bytes(32) if token is None else token.secret_hash
    right = hmac.compare_digest(stored, secret_hash)
    if token is None:
        return TokenRefused(reason=Refusal.UNKNOWN)
    if not right:
        return TokenRefused(reason=Refusal.MISMATCH)
    if token.kind != kind:
        return TokenRefused(reason=Refusal.WRONG_KIND)
    if token.revoked:
        return TokenRefused(reason=Refusal.REVOKED)
    use = _use(connection, token_id, spki)
    key = keys.find_key(connection, spki)
    if use is not None:
        if key is not None and key.status != "active":
            return TokenRefused(reason=Refusal.REVOKED)
        if now > use.used_at + REPLY_WINDOW:
            return TokenRefused(reason=Refusal.TOO_LATE)
        return _grant(token, spki, use.owner, use.certificate)
    if key is not None:
        return TokenRefused(reason=Refusal.KEY_KNOWN)
    won = connection.execute(
        update(tokens)
        .where(
            tokens.c.id == token_id,
            tokens.c.uses < tokens.c.uses_max,
            tokens.c.expires_at > now,
            tokens.c.revoked.is_(False),
        )
        .values(uses=tokens.c.uses + 1)
    ).rowcount
    if won != 1:
        late = token.expires_at <= now
        return TokenRefused(reason=Refusal.EXPIRED if late else Refusal.REPLAY)
    connection.execute(insert(token_uses).values(token_id=token_id, spki=spki, used_at=now))
    return _grant(token, spki, None, None)


def current_use(connection: Connection, grant: TokenGrant) -> TokenGrant:
    """Return *grant* with what has become of it since.

    Raises:
        StoreError: the store never gave such a grant, or the invite was revoked since.
    """
    token = connection.execute(select(tokens).where(tokens.c.id == grant.token_id)).one_or_none()
    use = _use(connection, grant.token_id, grant.spki)
    if token is None or use is None or token.revoked:
        raise StoreError("this invite does not hold any more")
    return _grant(token, grant.spki, use.owner, use.certificate)


def set_owner(connection: Connection, grant: TokenGrant, owner: str) -> None:
    """Note which device id or operator name the use made."""
    connection.execute(_this_use(grant).values(owner=owner))


def keep_certificate(
    connection: Connection, grant: TokenGrant, certificate: str, not_after: int
) -> str:
    """Keep the certificate issued for a use, so that a lost reply can be repeated.

    Returns:
        The certificate to answer with: the one kept first, if two were issued.

    Raises:
        StoreError: nobody was enrolled by the use yet, or the key was revoked meanwhile.
    """
    use = current_use(connection, grant)
    key = keys.find_key(connection, grant.spki)
    if use.owner is None or key is None or key.status != "active":
        raise StoreError("this invite does not hold any more")
    if use.certificate is not None:
        return use.certificate
    connection.execute(_this_use(grant).values(certificate=certificate))
    connection.execute(
        update(key_table).where(key_table.c.spki == grant.spki).values(not_after=not_after)
    )
    return certificate


def find_tokens(connection: Connection) -> list[Token]:
    """Return all invites, newest first, without their hashes."""
    rows = connection.execute(select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id))
    return [_token(row) for row in rows]


def revoke_token(connection: Connection, token_id: bytes) -> None:
    """Void an invite, the repetition of its replies included.

    Raises:
        NotFound: there is none.
    """
    changed = connection.execute(
        update(tokens).where(tokens.c.id == token_id).values(revoked=True)
    ).rowcount
    if changed != 1:
        raise NotFound("there is no such invite")


def revoke_for(connection: Connection, kind: OwnerKind, name: str) -> None:
    """Void every invite that names this device or operator."""
    connection.execute(
        update(tokens).where(tokens.c.kind == kind, tokens.c.name == name).values(revoked=True)
    )


def revoke_created_by(connection: Connection, operator: str) -> None:
    """Void every invite this operator made."""
    connection.execute(update(tokens).where(tokens.c.created_by == operator).values(revoked=True))


def still_open(connection: Connection, role: str, now: int) -> list[bytes]:
    """Return the invites by which somebody may still get this role."""
    query = select(tokens).where(
        tokens.c.kind == "operator",
        tokens.c.revoked.is_(False),
        tokens.c.expires_at > now,
        tokens.c.uses < tokens.c.uses_max,
    )
    rows = connection.execute(query)
    return [row.id for row in rows if role in msgspec.json.decode(row.roles)]


def revoke_with_role(connection: Connection, role: str) -> None:
    """Void every invite that gives this role."""
    query = select(tokens).where(tokens.c.kind == "operator", tokens.c.revoked.is_(False))
    for row in connection.execute(query).all():
        if role in msgspec.json.decode(row.roles):
            revoke_token(connection, row.id)


def _use(connection: Connection, token_id: bytes, spki: bytes) -> Row[Any] | None:
    query = select(token_uses).where(token_uses.c.token_id == token_id, token_uses.c.spki == spki)
    return connection.execute(query).one_or_none()


def _this_use(grant: TokenGrant) -> Any:
    return update(token_uses).where(
        token_uses.c.token_id == grant.token_id, token_uses.c.spki == grant.spki
    )


def _grant(token: Row[Any], spki: bytes, owner: str | None, certificate: str | None) -> TokenGrant:
    return TokenGrant(
        token_id=token.id,
        spki=spki,
        kind=token.kind,
        created_by=token.created_by,
        name=token.name,
        name_pattern=token.name_pattern,
        roles=tuple(msgspec.json.decode(token.roles)),
        labels=msgspec.json.decode(token.labels),
        owner=owner,
        certificate=certificate,
    )


def _token(row: Row[Any]) -> Token:
    values = {name: value for name, value in row._mapping.items() if name != "secret_hash"}
    decoded = {
        "labels": msgspec.json.decode(row.labels),
        "roles": tuple(msgspec.json.decode(row.roles)),
    }
    return Token(**{**values, **decoded})
