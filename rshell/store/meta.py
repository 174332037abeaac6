"""Queries about the fleet as a whole: its id, the start counter, handler catalogues."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from rshell.store.errors import LimitReached, StoreError
from rshell.store.schema import catalogues, meta

__all__ = ["catalogue", "fleet", "next_start", "put_catalogue", "set_fleet"]

# Far above any real catalogue, far below what would hurt.
MAX_CATALOGUE_BYTES = 1_000_000


def next_start(connection: Connection) -> int:
    """Count one start of the gateway and return the count, from 1."""
    starts = int(_get(connection, "starts") or "0") + 1
    connection.execute(update(meta).where(meta.c.key == "starts").values(value=str(starts)))
    return starts


def fleet(connection: Connection) -> str | None:
    """Return the fleet's id, or None before it was set."""
    return _get(connection, "fleet")


def set_fleet(connection: Connection, fleet_id: str) -> None:
    """Set the fleet's id, once.

    Raises:
        StoreError: the store belongs to another fleet.
    """
    present = _get(connection, "fleet")
    if present is None:
        connection.execute(insert(meta).values(key="fleet", value=fleet_id))
    elif present != fleet_id:
        raise StoreError("the store belongs to another fleet")


def put_catalogue(connection: Connection, digest: str, body: str) -> None:
    """Keep a handlers' catalogue under its digest; a known digest is left alone.

    Raises:
        LimitReached: the catalogue is larger than ``MAX_CATALOGUE_BYTES``.
    """
    if len(body) > MAX_CATALOGUE_BYTES:
        raise LimitReached(f"a catalogue of more than {MAX_CATALOGUE_BYTES} bytes")
    if catalogue(connection, digest) is None:
        connection.execute(insert(catalogues).values(digest=digest, body=body))


def catalogue(connection: Connection, digest: str) -> str | None:
    """Return the catalogue's JSON text, or None."""
    found = select(catalogues.c.body).where(catalogues.c.digest == digest)
    body: str | None = connection.execute(found).scalar_one_or_none()
    return body


def _get(connection: Connection, key: str) -> str | None:
    value: str | None = connection.execute(
        select(meta.c.value).where(meta.c.key == key)
    ).scalar_one_or_none()
    return value
