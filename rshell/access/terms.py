"""What roles say of a session besides that it may be: how long, how idle, how much is recorded.

Where several grants allow the same session, the longest limit holds, because grants add up; and the
most is recorded, because who watches over operators must not be outvoted by another role of theirs.

Neighbours: `rshell.access.roles` finds the grants, `rshell.gateway.session_limits` keeps to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from rshell.access.grants import RECORD_MODES
from rshell.store.records import Grant

__all__ = ["NO_TERMS", "SessionTerms", "terms_of"]


@attrs.frozen
class SessionTerms:
    """What holds for one session.

    Attributes:
        idle_seconds: without input before it ends; 0 is no limit.
        idle_rule: whose limit that is, ``ROLE/NUMBER`` or ``admin``.
        time_seconds: from its beginning to its end; 0 is no limit.
        time_rule: likewise.
        records: what each grant wants recorded, None for what the gateway's configuration says.
    """

    idle_seconds: int = 0
    idle_rule: str | None = None
    time_seconds: int = 0
    time_rule: str | None = None
    records: tuple[tuple[str, str | None], ...] = ()

    def recording(self, default: str) -> tuple[str, str | None]:
        """Return the most that any grant wants recorded, and which does; None: the default does.

        Args:
            default: what the gateway's configuration says.
        """
        most: tuple[str, str | None] = (default, None)
        wanted = [(mode, rule) for rule, mode in self.records if mode is not None]
        if wanted and len(wanted) == len(self.records):
            most = wanted[0]  # no grant left it to the configuration
        for one in wanted:
            if RECORD_MODES.index(one[0]) > RECORD_MODES.index(most[0]):
                most = one
        return most


NO_TERMS = SessionTerms()


def terms_of(granting: Sequence[tuple[str, Grant]]) -> SessionTerms:
    """Return what grants, each with its rule, say together; without any there is no limit."""
    if not granting:
        return NO_TERMS
    idle, idle_rule = _longest(granting, lambda grant: grant.idle_limit)
    time, time_rule = _longest(granting, lambda grant: grant.time_limit)
    return SessionTerms(
        idle,
        idle_rule,
        time,
        time_rule,
        tuple((rule, grant.record) for rule, grant in granting),
    )


def _longest(
    granting: Sequence[tuple[str, Grant]], limit: Callable[[Grant], int]
) -> tuple[int, str]:
    """Return the most generous limit, 0 for none, and whose it is."""
    best_rule, best = granting[0][0], limit(granting[0][1])
    for rule, grant in granting[1:]:
        if best and (limit(grant) == 0 or limit(grant) > best):
            best_rule, best = rule, limit(grant)
    return best, best_rule
