"""Which devices a question may be about: what is asked of names, ids and labels.

A `Narrowing` leaves out rows that cannot be meant, by indexes, before anything of them is read into
Python.  It decides nothing: whoever asks judges each row that comes (``rshell.access.selectors``),
and so what has no index, or would make a statement too long, need not be told.

Neighbours: ``clauses.py`` says it in SQL, ``devices.py`` reads by it, ``rshell.access.narrowing``
makes it of a selector.
"""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["EVERYTHING", "MAX_IDS", "Condition", "Narrowing", "is_wild"]

#: Ids of one statement: far below what SQLite takes, and few enough to look up one by one.
MAX_IDS = 500


def is_wild(text: str) -> bool:
    """Whether ``*`` or ``?`` in it stand for other characters."""
    return "*" in text or "?" in text


@attrs.frozen
class Condition:
    """One thing that is asked of a device: a value is among some, or is not.

    Attributes:
        of: what is looked at; a label that is absent is not among any.
        key: the label's; "" for a name or an id.
        values: texts in which ``*`` is any text and ``?`` any one character, none of them with
            ``[``.
        negated: it must not be among them.
    """

    of: Literal["name", "id", "label"]
    key: str
    values: tuple[str, ...]
    negated: bool = False


@attrs.frozen
class Narrowing:
    """Conditions that all have to hold, and perhaps a list of the only devices of interest.

    Attributes:
        among: ids; None does not limit them.
    """

    conditions: tuple[Condition, ...] = ()
    among: frozenset[str] | None = None


#: Leaves nothing out.
EVERYTHING = Narrowing()
