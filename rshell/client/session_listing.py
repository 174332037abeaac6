"""Sessions as people see them: found by the first digits of an id, and as rows of a table.

The command and the console show the same columns.
"""

from __future__ import annotations

import re
from typing import Protocol

from rshell.client.errors import Refused, RshellError
from rshell.client.records import SessionInfo

__all__ = ["SESSION_HEADINGS", "SHOWN_DIGITS", "find_session", "session_cells"]

#: As many digits of a session's id as listings show.
SHOWN_DIGITS = 8
SESSION_HEADINGS = (
    *("SESSION", "DEVICE", "HANDLER", "LOGIN", "OPERATOR", "STATE"),
    *("AGE", "IDLE", "IN", "OUT", "REC", "DOOR", "FROM"),
)


class _Asks(Protocol):
    """What a client is asked for here."""

    async def sessions(
        self, selector: str = "", *, everybodys: bool = False, session: str = ""
    ) -> list[SessionInfo]: ...


async def find_session(client: _Asks, wanted: str) -> SessionInfo:
    """Return the one session, of ours or one that we may watch, whose id begins so.

    Raises:
        Refused: There is none, or there are several.
        RshellError: Code ``bad-request``: these are no digits of an id.
    """
    if not re.fullmatch(r"[0-9a-f]{4,32}", wanted):
        raise RshellError(
            "bad-request",
            "a session is named by its id, or by four or more of its first digits",
            "list them with: rshell sessions",
        )
    try:
        every = await client.sessions(everybodys=True, session=wanted)
    except Refused as error:
        if error.code != "policy":
            raise
        every = await client.sessions(session=wanted)
    found = [info for info in every if info.session.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{info.session} on {info.device}" for info in found[:4])
        raise Refused("bad-request", f"several sessions begin with {wanted}: {names}", "")
    raise Refused(
        "not-found", f"no session begins with {wanted}", "list them with: rshell sessions"
    )


def session_cells(info: SessionInfo) -> tuple[str, ...]:
    """Return what stands below `SESSION_HEADINGS`; not yet safe for a terminal."""
    return (
        info.session[:SHOWN_DIGITS],
        info.device,
        info.handler,
        info.login or "-",
        info.operator,
        _state(info),
        _span(info.age_ms),
        "-" if info.idle_ms is None else _span(info.idle_ms),
        _size(info.bytes_in),
        _size(info.bytes_out),
        info.recorded or "-",
        info.door or "-",
        info.address or "-",
    )


def _state(info: SessionInfo) -> str:
    state = info.state
    if info.state == "detached":
        state += f" {_span(info.detached_ms)}"
    if info.outcome is not None:
        state = f"{info.state}: {info.outcome.status}"
    if info.driver not in (None, info.operator):
        state += f" by {info.driver}"
    if info.device_state == "lost":
        state += " (device away)"
    if info.watchers:
        state += f", watched by {', '.join(sorted({one.operator for one in info.watchers}))}"
    elif info.viewers:
        state += f", {info.viewers} watching"
    return state


def _span(milliseconds: int) -> str:
    """Return a duration in one unit: ``45s``, ``12m``, ``3h``, ``2d``."""
    seconds = milliseconds // 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _size(count: int) -> str:
    """Return a number of bytes in four characters or so: ``512``, ``3.4k``, ``28M``."""
    size = float(count)
    for unit in ("", "k", "M", "G"):
        if size < 1000:
            return f"{size:.0f}{unit}" if size >= 10 or not unit else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}T"
