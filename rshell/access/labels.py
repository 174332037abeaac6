"""The syntax of labels: ``key=value``, and ``key-`` to remove one.

Labels decide who may do what, so only operators set them; a device never does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

__all__ = [
    "FACT_PREFIX",
    "KEY_PATTERN",
    "PSEUDO_LABELS",
    "BadLabel",
    "LabelChanges",
    "parse_label",
    "parse_label_changes",
]

KEY_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"

# Selectors answer these from the device itself.
PSEUDO_LABELS = frozenset({"id", "name", "state"})
# Selectors answer what begins so from what the device says of itself.
FACT_PREFIX = "facts."

_KEY = re.compile(KEY_PATTERN, re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9_.:/@+-]{0,253}", re.ASCII)


class BadLabel(ValueError):
    """Not a label; the text says what is wrong with it."""


@attrs.frozen
class LabelChanges:
    """What ``rshell label DEVICE k=v k-`` asks for."""

    put: Mapping[str, str]
    remove: frozenset[str]


def parse_label(text: str) -> tuple[str, str]:
    """Return key and value of ``key=value``; the value may be empty.

    Raises:
        BadLabel: no ``=``, or a key or value outside the syntax.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise BadLabel(f"a label is written key=value, not {text[:80]!r}")
    _check_key(key)
    if key.startswith(FACT_PREFIX):
        raise BadLabel(f"{key} is no label: what begins with {FACT_PREFIX} the device itself tells")
    if not _VALUE.fullmatch(value):
        raise BadLabel(
            f"the value of label {key} has at most 253 characters of letters, digits and _.:/@+-"
        )
    return key, value


def parse_label_changes(words: Iterable[str]) -> LabelChanges:
    """Return what a list of ``key=value`` and ``key-`` asks for.

    Raises:
        BadLabel: a malformed word, or a key named twice.
    """
    put: dict[str, str] = {}
    remove: set[str] = set()
    for word in words:
        if word.endswith("-") and "=" not in word:
            key = word[:-1]
            _check_key(key)
            twice = key in put or key in remove
            remove.add(key)
        else:
            key, value = parse_label(word)
            twice = key in put or key in remove
            put[key] = value
        if twice:
            raise BadLabel(f"label {key} is named twice")
    return LabelChanges(put, frozenset(remove))


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise BadLabel(
            "a label's key has 1 to 63 characters of letters, digits and _.-, "
            f"starting with a letter or digit, not {key[:80]!r}"
        )
    if key in PSEUDO_LABELS:
        raise BadLabel(f"{key!r} is no label: selectors answer it from the device itself")
