"""``DEVICE:PATH`` and local paths, as ``cp``, ``ls``, ``cat`` and ``rm`` take them.  Pure."""

from __future__ import annotations

import os
import re

import attrs

from rshell.access.printable import printable
from rshell.client.errors import RshellError

__all__ = ["BadPlace", "Place", "on_device", "parse_place"]

#: A name or an id; selectors name many devices, and a place is one.
_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


class BadPlace(RshellError):
    """A word that is neither a local path nor ``DEVICE:PATH``; code ``bad-request``."""

    def __init__(self, text: str, why: str) -> None:
        hint = "a device's file is DEVICE:PATH; a local one with a colon in its name is ./NAME"
        super().__init__("bad-request", f"{printable(text, 100)}: {why}", hint)


@attrs.frozen
class Place:
    """Where a file is.

    Attributes:
        device: Name or id; None for this machine.
        path: As typed, in bytes, since names need not be UTF-8.  On a device, a relative one is
            relative to the login's home, and ``b"."`` that itself.
    """

    device: str | None
    path: bytes

    @property
    def shown(self) -> str:
        """The place as it was typed, made safe to show."""
        path = printable(os.fsdecode(self.path), 500)
        return path if self.device is None else f"{self.device}:{path}"


def parse_place(text: str) -> Place:
    """Return what a word names.

    As with scp, a colon before the first slash makes it a device's: ``pump-1:/etc/motd``,
    ``pump-1:notes`` in the login's home, ``pump-1:`` the home itself.  ``./a:b`` is local.

    Raises:
        BadPlace: Before the colon is no device's name, or there is a NUL.
    """
    if not text or "\0" in text:
        raise BadPlace(text.replace("\0", "?"), "no path at all" if not text else "has a NUL")
    head, colon, path = text.partition(":")
    if not colon or "/" in head:
        return Place(None, os.fsencode(text))
    if not head:
        raise BadPlace(text, "there is no device before the colon")
    if "@" in head:
        raise BadPlace(text, "an account is given by --as LOGIN")
    if not _DEVICE.fullmatch(head):
        raise BadPlace(text, f"{head!r} is no device's name")
    return Place(head, os.fsencode(path) or b".")


def on_device(text: str) -> Place:
    """Return what a word names, which must be on a device.

    Raises:
        BadPlace: It is local, or no place at all.
    """
    place = parse_place(text)
    if place.device is None:
        raise BadPlace(text, "there is no device in it")
    return place
