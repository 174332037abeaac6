"""Devices of a simulated fleet, written straight into a gateway's store, as if each had joined.

Thousands of joins would take longer than what is measured.  Each device has a key and certificate
of its own: the gateway knows a device by its key.
"""

from __future__ import annotations

import json
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import insert

from rshell.gateway.home import GatewayHome
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import PrivateKey, new_key, spki_hash
from rshell.store.database import open_writer
from rshell.store.schema import device_labels as labels_table
from rshell.store.schema import devices as devices_table
from rshell.store.schema import keys as keys_table

__all__ = ["KEYS_FILE", "ROOT_FILE", "DeviceKey", "device_name", "enrol", "read_keys", "store_rows"]

KEYS_FILE, ROOT_FILE = "devices.jsonl", "root.pem"
#: One in so many devices has the label that selector measurements look for.
SITES = 10
_BATCH = 2_000


@attrs.frozen
class DeviceKey:
    """What one device presents."""

    key: PrivateKey = attrs.field(repr=False)
    certificate: x509.Certificate


def device_name(number: int) -> str:
    """Return the name of a simulated device."""
    return f"sim-{number}"


def enrol(home: GatewayHome, directory: Path, count: int, first: int = 0) -> None:
    """Make keys and certificates of devices; write them to ``directory`` and the gateway's store.

    Args:
        home: of a gateway that does not run.
        directory: private to us: gets the keys of the devices, one JSON object a line.
        count: of devices.
        first: the number of the first.
    """
    now = datetime.now(UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / ROOT_FILE).write_bytes(chain_to_pem((home.keys.root.certificate,)))
    found = []
    with (directory / KEYS_FILE).open("a") as out:
        for _ in range(count):
            device_id, key = str(uuid.uuid4()), new_key()
            leaf = home.keys.issue_device(key.public_key(), device_id, now)
            out.write(json.dumps({"key": _der_of(key), "leaf": _text(_leaf_der(leaf))}) + "\n")
            found.append((device_id, spki_hash(key.public_key())))
    store_rows(home.database, found, first, now)


def store_rows(database: Path, devices: list[tuple[str, bytes]], first: int, now: datetime) -> None:
    """Write rows of devices that joined: (id, hash of the public key), numbered from ``first``."""
    now_us = int(now.timestamp() * 1_000_000)
    rows, keys, labels = [], [], []
    for number, (device_id, spki) in enumerate(devices, first):
        rows.append(
            {
                "id": device_id,
                "name": device_name(number),
                "name_provisional": False,
                "status": "active",
                "created_at": now_us,
                "epoch": 0,
                "dial": 0,
                "link_generation": 0,
                "facts": "{}",
            }
        )
        keys.append(
            {
                "spki": spki,
                "kind": "device",
                "owner": device_id,
                "status": "active",
                "created_at": now_us,
                "comment": "",
            }
        )
        labels.append({"device_id": device_id, "key": "site", "value": f"s{number % SITES}"})
    engine = open_writer(database)
    try:
        for start in range(0, len(rows), _BATCH):
            with engine.begin() as connection:
                connection.execute(insert(devices_table), rows[start : start + _BATCH])
                connection.execute(insert(keys_table), keys[start : start + _BATCH])
                connection.execute(insert(labels_table), labels[start : start + _BATCH])
    finally:
        engine.dispose()


def read_keys(directory: Path, first: int, step: int) -> Iterator[tuple[int, DeviceKey]]:
    """Yield the devices that `enrol` wrote, with their numbers.

    Args:
        directory: of `enrol`.
        first: the number of the first.
        step: every one of so many.
    """
    with (directory / KEYS_FILE).open() as lines:
        for number, line in enumerate(lines):
            if number >= first and (number - first) % step == 0:
                row = json.loads(line)
                key = serialization.load_der_private_key(b64decode(row["key"]), None)
                leaf = x509.load_der_x509_certificate(b64decode(row["leaf"]))
                yield number, DeviceKey(key, leaf)  # type: ignore[arg-type]  # `new_key` made it


def _der_of(key: PrivateKey) -> str:
    return _text(
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _leaf_der(leaf: x509.Certificate) -> bytes:
    return leaf.public_bytes(serialization.Encoding.DER)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
