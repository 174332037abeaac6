"""The gateway's SSH host key: ed25519, made at the first start, in the home."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.keys import Key

from rshell.identity.files import write_atomic

__all__ = ["FILE_NAME", "HostKeyDamaged", "load_host_key"]

FILE_NAME = "ssh_host_ed25519_key"


class HostKeyDamaged(Exception):
    """The file holds no such key, or others can read it; the text is one line."""


def load_host_key(home: Path) -> Key:
    """Return the private host key of a gateway's home; make it if there is none.

    Its public half is written beside it, for ``known_hosts``.

    Raises:
        HostKeyDamaged: It cannot be used.
        OSError: It cannot be read or written.
    """
    path = home / FILE_NAME
    if not path.exists():
        _make(path)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise HostKeyDamaged(f"{path} can be read by others: chmod 600 {path}")
    try:
        private = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise HostKeyDamaged(f"{path} is no ed25519 key: restore it, or remove it for a new one")
    return Key(private)


def _make(path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_atomic(path.with_suffix(".pub"), public + b" rshell gateway\n", 0o644)
    write_atomic(path, private)
