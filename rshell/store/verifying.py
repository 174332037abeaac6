"""Checking the audit log: the chain of hashes, its signed checkpoints, and its head.

A checkpoint is a row of kind ``checkpoint`` whose details hold number and hash of the row before
it, signed together with the time by a key that is not in the database.  Whoever rewrites the
database can make a chain that holds, but not the signatures: what a checkpoint covers is safe from
everybody without the key, and the number and hash that an operator noted (``against``) even from
those who have it.

What it is not: this module knows no cryptography; signing and checking are functions it is given.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from rshell.store.audit import Stamped, append_all, ascending, digest, head
from rshell.store.errors import StoreError
from rshell.store.records import AuditRecord, AuditVerdict
from rshell.store.schema import audit

__all__ = ["CHECKPOINT", "Verifier", "checkpoint", "signed_text", "verify"]

#: The kind of a checkpoint's row.
CHECKPOINT = "checkpoint"

#: ``verifier(signature, text)`` tells whether the signature is the key's.
Verifier = Callable[[bytes, bytes], bool]


def signed_text(seq: int, hashed: bytes, at: int) -> bytes:
    """Return what a checkpoint signs: the row's number and hash, and the time (microseconds)."""
    return f"rshell audit checkpoint 1\n{seq}\n{hashed.hex()}\n{at}\n".encode()


def checkpoint(
    connection: Connection, key: str, sign: Callable[[bytes], bytes], now: int
) -> int | None:
    """Append a row that signs the chain up to here.

    Args:
        connection: the writer's, in a transaction.
        key: fingerprint of the key that signs.
        sign: signs.
        now: microseconds UTC.

    Returns:
        The row's number; None if nothing was written since the last checkpoint.

    Raises:
        StoreError: the head of the chain is damaged.
    """
    seq, hashed = head(connection, lock=True)
    newest = connection.execute(select(audit.c.kind).where(audit.c.seq == seq)).scalar()
    if newest in (None, CHECKPOINT):
        return None
    signature = base64.b64encode(sign(signed_text(seq, hashed, now))).decode()
    record = AuditRecord(
        kind=CHECKPOINT,
        details={"seq": seq, "hash": hashed.hex(), "key": key, "signature": signature},
    )
    (outcome,) = append_all(connection, [Stamped(now, record)])
    if isinstance(outcome, StoreError):
        raise outcome
    return outcome


def verify(
    connection: Connection,
    keys: Mapping[str, Verifier] | None = None,
    against: tuple[int, bytes] | None = None,
) -> AuditVerdict:
    """Walk the whole chain from the first row, check each checkpoint, and compare the head.

    Args:
        connection: a reader's.
        keys: who may have signed, by fingerprint; None checks no signature.
        against: number and hash of a row as somebody noted them earlier.
    """
    walk = _Walk(keys, against)
    for row in ascending(connection):
        reason = walk.step(row._asdict())
        if reason:
            return walk.verdict(reason)
    try:
        newest = head(connection)
    except StoreError as error:
        return walk.verdict(str(error))
    if newest != (walk.rows, walk.previous):
        return walk.verdict("rows are missing at the end")
    if against is not None and against[0] > walk.rows:
        return walk.verdict("rows are missing at the end: the one to compare with is not there")
    return walk.verdict("")


class _Walk:
    """The state of one check.

    Attributes:
        rows: sound ones so far.
        previous: hash of the last of them.
    """

    def __init__(
        self, keys: Mapping[str, Verifier] | None, against: tuple[int, bytes] | None
    ) -> None:
        self.rows = 0
        self.previous = bytes(32)
        self._keys = keys
        self._against = against
        self._checkpoints = 0
        self._signed = 0

    def step(self, row: Mapping[str, Any]) -> str:
        """Take the next row; return what is wrong with it, or nothing."""
        if row["seq"] != self.rows + 1:
            return "rows are missing or were inserted before this one"
        if row["previous_hash"] != self.previous:
            return "the row does not follow the one before it"
        if row["hash"] != digest(row, self.previous):
            return "the row was edited"
        if row["kind"] == CHECKPOINT and self._keys is not None:
            reason = self._check_signature(row, self._keys)
            if reason:
                return reason
            self._checkpoints += 1
            self._signed = self.rows
        if self._against and self._against[0] == row["seq"] and self._against[1] != row["hash"]:
            return "the row is another one than the one to compare with"
        self.rows, self.previous = row["seq"], row["hash"]
        return ""

    def _check_signature(self, row: Mapping[str, Any], keys: Mapping[str, Verifier]) -> str:
        try:
            details = msgspec.json.decode(row["details"])
            names = (details["seq"], details["hash"], details["key"])
            signature = base64.b64decode(details["signature"], validate=True)
        except (msgspec.DecodeError, KeyError, TypeError, binascii.Error, ValueError):
            return "the checkpoint cannot be read"
        if names[:2] != (self.rows, self.previous.hex()):
            return "the checkpoint signs another row than the one before it"
        verifier = keys.get(names[2]) if isinstance(names[2], str) else None
        if verifier is None:
            return "the checkpoint is signed by a key that is not known here"
        if not verifier(signature, signed_text(self.rows, self.previous, row["at"])):
            return "the checkpoint's signature is wrong"
        return ""

    def verdict(self, reason: str) -> AuditVerdict:
        """Return what was found."""
        return AuditVerdict(
            rows=self.rows,
            broken_at=self.rows + 1 if reason else None,
            reason=reason,
            checkpoints=self._checkpoints,
            signed=self._signed,
            head=self.previous,
        )
