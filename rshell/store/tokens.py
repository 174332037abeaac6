"""Queries about invites: a token is used at most so often, each time by one key.

The use is one conditional UPDATE, so of any number of concurrent tries exactly as many
win as the invite allows, whatever the number of gateways.  The same key asking again
within ``REPLY_WINDOW`` gets the same answer, because replies get lost; any other key does
not.  Which of the reasons applied is told to the caller for the audit, never to the peer.

A use is *bound* when an operator named the key itself, by accepting the device or by registering
its key beforehand: then the right is the key's, and the answer is repeated until the device was
seen, whatever has become of the invite.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from rshell.identity.sources import is_within
from rshell.store import keys, pending, token_keys
from rshell.store.errors import NO_SUCH_INVITE, NameTaken, NotFound, StoreError
from rshell.store.pending_records import Applicant, KnownKey, Waiting
from rshell.store.records import NewToken, OwnerKind, Refusal, Token, TokenGrant, TokenRefused
from rshell.store.schema import devices, token_uses, tokens
from rshell.store.schema import keys as key_table
from rshell.store.times import MINUTE

__all__ = [
    "NO_SECRET",
    "accept_use",
    "add_token",
    "current_use",
    "find_token",
    "find_tokens",
    "keep_certificate",
    "knows",
    "revoke_created_by",
    "revoke_for",
    "revoke_token",
    "revoke_with_role",
    "set_owner",
    "still_open",
    "use_token",
]

REPLY_WINDOW = 15 * MINUTE
#: What stands for the secret of a public join string: whoever has that has no right.
NO_SECRET = hashlib.sha256(b"").digest()
#: Of spent, expired and revoked invites listings tell the newest so many.
MAX_LISTED = 1_000
#: And of those that hold, which no number of spent ones may hide.
MAX_HOLDING = 5_000
_NOBODY = Applicant()


def add_token(
    connection: Connection, token: NewToken, now: int, known: Sequence[KnownKey] = ()
) -> None:
    """Keep an invite.

    Args:
        token: its terms.
        now: microseconds UTC.
        known: the keys of an invite of that mode; they are its uses.

    Raises:
        NameTaken: it fixes the name of an active device.
        StoreError: it is malformed, or a key is known already.
    """
    if len(token.id) != 8 or len(token.secret_hash) != 32 or token.uses_max < 1:
        raise StoreError("an invite has an id of 8 bytes, a hash of 32 and at least one use")
    if token.secret_hash == NO_SECRET and token.mode != "accept":
        raise StoreError("who joins without a secret waits to be accepted")
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
            uses_max=0 if token.mode == "keys" else token.uses_max,
            uses=0,
            expires_at=token.expires_at,
            name=token.name,
            name_pattern=token.name_pattern,
            roles=msgspec.json.encode(sorted(set(token.roles))).decode(),
            labels=msgspec.json.encode(token.labels).decode(),
            created_by=token.created_by,
            created_at=now,
            revoked=False,
            mode=token.mode,
            sources=msgspec.json.encode(token.sources).decode(),
        )
    )
    if token.mode == "keys":
        token_keys.add(connection, token.id, known, now)


def use_token(
    connection: Connection,
    token_id: bytes,
    secret_hash: bytes,
    spki: bytes,
    kind: OwnerKind,
    now: int,
    applicant: Applicant = _NOBODY,
) -> TokenGrant | TokenRefused | Waiting:
    """Use an invite once for the key *spki*, or repeat that use.

    Args:
        token_id: as presented.
        secret_hash: SHA-256 of the secret presented.
        spki: SHA-256 of the public key whose possession was proved.
        kind: what the joiner wants to be; a token for another kind is not used up.
        now: microseconds UTC.
        applicant: where the joiner is, and what it wants to be called.
    """
    if secret_hash == NO_SECRET and kind == "device":
        known = _use_key(connection, token_id, spki, now, applicant)
        if known is not None:
            return known
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
    use = _use(connection, token_id, spki)
    if token.revoked and not (use is not None and use.bound):
        return TokenRefused(reason=Refusal.REVOKED)
    if not is_within(msgspec.json.decode(token.sources), applicant.host):
        return TokenRefused(reason=Refusal.WRONG_SOURCE)
    if use is not None:
        return _again(connection, token, use, now)
    if keys.find_key(connection, spki) is not None:
        return TokenRefused(reason=Refusal.KEY_KNOWN)
    if token.mode == "accept":
        return pending.ask(connection, token, spki, applicant, now)
    return _first(connection, token, spki, now)


def _use_key(
    connection: Connection, named: bytes, spki: bytes, now: int, applicant: Applicant
) -> TokenGrant | TokenRefused | None:
    """Use what an operator granted to this very key; None if that is nothing."""
    bound = select(token_uses).where(token_uses.c.spki == spki, token_uses.c.bound.is_(True))
    use = connection.execute(bound).first()
    entry = token_keys.named(connection, spki)
    if use is None and entry is None:
        return None
    token_id = use.token_id if use is not None else entry.token_id if entry is not None else b""
    token = connection.execute(select(tokens).where(tokens.c.id == token_id)).one()
    if not is_within(msgspec.json.decode(token.sources), applicant.host):
        return TokenRefused(reason=Refusal.WRONG_SOURCE)
    if use is not None:
        return _again(connection, token, use, now)
    if named and (token.revoked or token.expires_at <= now):
        return None  # as if it had never been known: the invite named may let it wait
    if token.revoked:
        return TokenRefused(reason=Refusal.REVOKED)
    if keys.find_key(connection, spki) is not None:
        return TokenRefused(reason=Refusal.KEY_KNOWN)
    used = _first(connection, token, spki, now, bound=True)
    if isinstance(used, TokenGrant):
        token_keys.mark_used(connection, spki, now)
        pending.forget(connection, spki)
    return used


def _again(
    connection: Connection, token: Row[Any], use: Row[Any], now: int
) -> TokenGrant | TokenRefused:
    """Repeat the answer to a key that has used an invite."""
    key = keys.find_key(connection, use.spki)
    if key is not None and key.status != "active":
        return TokenRefused(reason=Refusal.REVOKED)
    if use.bound:
        seen = select(devices.c.last_seen).where(devices.c.id == use.owner)
        late = connection.execute(seen).scalar_one_or_none() is not None
    else:
        late = now > use.used_at + REPLY_WINDOW
    if late:
        return TokenRefused(reason=Refusal.TOO_LATE)
    return _grant(connection, token, use)


def _first(
    connection: Connection, token: Row[Any], spki: bytes, now: int, *, bound: bool = False
) -> TokenGrant | TokenRefused:
    won = connection.execute(
        update(tokens)
        .where(
            tokens.c.id == token.id,
            tokens.c.uses < tokens.c.uses_max,
            tokens.c.expires_at > now,
            tokens.c.revoked.is_(False),
        )
        .values(uses=tokens.c.uses + 1)
    ).rowcount
    if won != 1:
        late = token.expires_at <= now
        return TokenRefused(reason=Refusal.EXPIRED if late else Refusal.REPLAY)
    values = {"token_id": token.id, "spki": spki, "used_at": now, "bound": bound}
    connection.execute(insert(token_uses).values(**values))
    use = _use(connection, token.id, spki)
    assert use is not None
    return _grant(connection, token, use)


def knows(connection: Connection, spki: bytes) -> bool:
    """Say whether a key waits, or was granted something by itself: its owner does not guess."""
    bound = select(token_uses.c.spki).where(token_uses.c.spki == spki, token_uses.c.bound.is_(True))
    return (
        pending.waits(connection, spki)
        or token_keys.named(connection, spki) is not None
        or connection.execute(bound).first() is not None
    )


def accept_use(connection: Connection, token_id: bytes, spki: bytes, now: int) -> TokenGrant:
    """Use an invite for a key that an operator accepts, also after the invite expired.

    Raises:
        StoreError: all its uses are spent, it was revoked, or the key is registered.
    """
    token = connection.execute(select(tokens).where(tokens.c.id == token_id)).one()
    if keys.find_key(connection, spki) is not None:
        raise StoreError("this key is registered already")
    won = connection.execute(
        update(tokens)
        .where(
            tokens.c.id == token_id, tokens.c.uses < tokens.c.uses_max, tokens.c.revoked.is_(False)
        )
        .values(uses=tokens.c.uses + 1)
    ).rowcount
    if won != 1:
        why = f"the invite {token_id.hex()} is revoked, or all its uses are spent"
        raise StoreError(f"{why}: give its device another join string (rshell invite device)")
    values = {"token_id": token_id, "spki": spki, "used_at": now, "bound": True}
    connection.execute(insert(token_uses).values(**values))
    use = _use(connection, token_id, spki)
    assert use is not None
    return _grant(connection, token, use)


def current_use(connection: Connection, grant: TokenGrant) -> TokenGrant:
    """Return *grant* with what has become of it since.

    Raises:
        StoreError: the store never gave such a grant, or the invite was revoked since.
    """
    token = connection.execute(select(tokens).where(tokens.c.id == grant.token_id)).one_or_none()
    use = _use(connection, grant.token_id, grant.spki)
    if token is None or use is None or (token.revoked and not use.bound):
        raise StoreError("this invite does not hold any more")
    return _grant(connection, token, use)


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


def find_tokens(connection: Connection, now: int) -> list[Token]:
    """Return the invites that hold and the newest others, newest first, without their hashes."""
    waiting = pending.counts(connection)
    newest = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id)
    alive = or_(tokens.c.expires_at > now, tokens.c.id.in_(waiting))
    holds = and_(tokens.c.revoked.is_(False), tokens.c.uses < tokens.c.uses_max, alive)
    rows = connection.execute(newest.where(holds).limit(MAX_HOLDING)).all()
    rows = [*rows, *connection.execute(newest.where(~holds).limit(MAX_LISTED))]
    rows.sort(key=lambda row: (-row.created_at, row.id))
    return [_token(row, waiting.get(row.id, 0)) for row in rows]


def find_token(connection: Connection, token_id: bytes) -> Token:
    """Return one invite, however old.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
    if row is None:
        raise NotFound(NO_SUCH_INVITE)
    return _token(row, pending.counts(connection).get(row.id, 0))


def revoke_token(connection: Connection, token_id: bytes) -> None:
    """Void an invite, the repetition of its replies included.

    Raises:
        NotFound: there is none.
    """
    changed = connection.execute(
        update(tokens).where(tokens.c.id == token_id).values(revoked=True)
    ).rowcount
    if changed != 1:
        raise NotFound(NO_SUCH_INVITE)


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


def _grant(connection: Connection, token: Row[Any], use: Row[Any]) -> TokenGrant:
    entry = token_keys.named(connection, use.spki) if token.mode == "keys" else None
    return TokenGrant(
        token_id=token.id,
        spki=use.spki,
        kind=token.kind,
        created_by=token.created_by,
        name=token.name if entry is None else entry.name,
        name_pattern=token.name_pattern,
        roles=tuple(msgspec.json.decode(token.roles)),
        labels=msgspec.json.decode(token.labels),
        owner=use.owner,
        certificate=use.certificate,
        bound=use.bound,
    )


def _token(row: Row[Any], waiting: int) -> Token:
    values = {name: value for name, value in row._mapping.items() if name != "secret_hash"}
    decoded = {
        "labels": msgspec.json.decode(row.labels),
        "roles": tuple(msgspec.json.decode(row.roles)),
        "sources": tuple(msgspec.json.decode(row.sources)),
        "public": row.secret_hash == NO_SECRET or row.mode == "keys",
        "waiting": waiting,
    }
    return Token(**{**values, **decoded})
