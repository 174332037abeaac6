"""Is this session recorded, and how much of it?  One pure function that the gate asks.

Roles decide (`rshell.access.terms`), and where they say nothing the gateway's configuration does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import attrs

from rshell.access.terms import SessionTerms

__all__ = ["RecordingMode", "RecordingPolicy", "decide_recording", "has_terminal"]

#: ``output`` is what the terminal showed, ``input`` also what was typed: passwords too.
RecordingMode = Literal["output", "input", "off"]

DAY_SECONDS = 86_400


@attrs.frozen(kw_only=True)
class RecordingPolicy:
    """What the gateway's configuration says.

    Attributes:
        mode: of every session that has a terminal and of which no role says anything else.
        keep_days: ended recordings that are older go; 0 keeps them for ever.
        keep_bytes: of the newest so much stays; 0 is no limit.
        on_failure: ``end`` ends (or refuses) a session that cannot be recorded, ``mark`` lets it
            go on; its recording says from where on something is missing.
    """

    mode: RecordingMode = "output"
    keep_days: int = 90
    keep_bytes: int = 10 * 1024**3
    on_failure: Literal["end", "mark"] = "end"


def has_terminal(handler: str, request: Mapping[str, Any]) -> bool:
    """Whether a session gets a terminal, by what the operator sent.

    A shell gets one unless it is told otherwise (`rshell.handlers.ShellRequest`): who leaves the
    word out must not be a shell that nobody records.
    """
    if handler == "shell" and "terminal" not in request:
        return True
    return isinstance(request.get("terminal"), dict)


def decide_recording(
    policy: RecordingPolicy, terms: SessionTerms, handler: str, request: Mapping[str, Any]
) -> RecordingMode:
    """Decide how much of a session is recorded.

    Args:
        policy: The gateway's.
        terms: What the operator's roles say of such a session.
        handler: What is used.
        request: As the operator sent it; only what has a terminal is recorded.
    """
    if not has_terminal(handler, request):
        return "off"
    mode, _rule = terms.recording(policy.mode)
    return cast(RecordingMode, mode)
