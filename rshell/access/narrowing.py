"""What of a selector the store can answer: conditions on names, ids and labels.

Apart from `rshell.access.selectors`, which a command line loads without the store.
"""

from __future__ import annotations

from rshell.access.labels import PSEUDO_LABELS
from rshell.access.selectors import Selector
from rshell.store.narrowing import Condition

__all__ = ["conditions_of"]


def conditions_of(selector: Selector) -> tuple[Condition, ...]:
    """Return what holds of every device that is meant, and the store has an index for.

    States and facts are not among it: of the devices that are left, `Selector.matches` decides.
    """
    found = []
    for term in selector.terms:
        values = tuple(glob.text for glob in term.values)
        if term.form == "absent" and not term.asks_facts:
            found.append(Condition("label", term.key, ("*",), negated=True))
        elif term.key == "name":
            found.append(Condition("name", "", values, term.negated))
        elif term.key == "id":
            found.append(Condition("id", "", values, term.negated))
        elif term.key not in PSEUDO_LABELS and not term.asks_facts:
            found.append(Condition("label", term.key, values, term.negated))
    return tuple(found)
