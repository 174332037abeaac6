"""The rule for device names: ``[a-z0-9][a-z0-9-]{0,62}``.

A name is also a DNS label, an ssh user name and a file name, so it is kept to what is
safe in all three.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MAX_NAME", "BadName", "check_name", "suggest_name"]

MAX_NAME = 63

# The ssh user name that means the gateway's own console.
RESERVED = frozenset({"console"})

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)
_FALLBACK = "device"


class BadName(ValueError):
    """A device cannot have that name; the text says why."""


def check_name(text: str) -> str:
    """Return *text* if a device may be called so.

    Raises:
        BadName: it breaks the rule, is reserved, or looks like a device's id.
    """
    if not _NAME.fullmatch(text):
        raise BadName(
            "a device's name has 1 to 63 characters of a-z, 0-9 and '-', not starting with '-'"
        )
    if text in RESERVED:
        raise BadName(f"the name {text!r} is reserved")
    if _UUID.fullmatch(text):
        # devices are also addressed by id: a name must never be taken for another's
        raise BadName("a device's name may not look like a device's id")
    return text


def suggest_name(hostname: str) -> str:
    """Return a valid name for a device that calls itself *hostname*, whatever that is.

    The first label of the host name, lower case, accents dropped, every other run of
    characters one ``-``.  Where that says nothing (``localhost``) the result is ``device``.
    """
    plain = unicodedata.normalize("NFKD", hostname[:1024]).encode("ascii", "ignore").decode()
    labels = [_slug(label) for label in plain.lower().split(".")]
    labels = [label for label in labels if label]
    if labels and all(label.isdigit() for label in labels):
        name = "-".join(labels)  # an address, of which the first part says little
    else:
        name = labels[0] if labels else ""
    name = name[:MAX_NAME].rstrip("-")
    if name in {"", "localhost"}:
        return _FALLBACK
    if name in RESERVED or _UUID.fullmatch(name):
        name = f"{_FALLBACK}-{name}"
    return name


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")
