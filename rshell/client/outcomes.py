"""How a session ended, in one record for all the ways there are."""

from __future__ import annotations

from typing import Any

import msgspec

from rshell.client.errors import advice_for
from rshell.handlers import Outcome
from rshell.link.core.errors import ErrorCode

__all__ = ["Outcome", "describe_of", "describe_outcome", "outcome_of_closing", "read_outcome"]

_GONE = frozenset(
    {
        ErrorCode.LINK_LOST,
        ErrorCode.LOST,
        ErrorCode.UNKNOWN,
        ErrorCode.SHUTDOWN,
        ErrorCode.DUPLICATE,
    }
)
#: What ran was ended because its time was over.
_TIMES = frozenset({ErrorCode.TIMEOUT, ErrorCode.IDLE_LIMIT, ErrorCode.TIME_LIMIT})
#: How the gateway's own words begin when somebody does not hold a session any more.
_DISPLACED = ("taken over by ", "no longer granted", "operator ")
#: What to say where the other side gave a code and no words.
_WORDS = {
    ErrorCode.UNKNOWN: "the device cannot tell whether it ran before, and did not run it again",
    ErrorCode.LOST: "the device does not have it any more",
    ErrorCode.DUPLICATE: "taken over by another attach",
}


def read_outcome(body: dict[str, Any]) -> Outcome:
    """Return the outcome that a device sent; one of the wrong shape is an error of its own."""
    try:
        return msgspec.convert(body, Outcome, strict=True)
    except (msgspec.ValidationError, ValueError, TypeError, RecursionError):
        return Outcome(
            status="error",
            code=ErrorCode.PROTOCOL.value,
            message="the device sent an outcome that cannot be read",
        )


def outcome_of_closing(code: str, message: str, opened: bool) -> Outcome:
    """Return the outcome of a stream that ended without one.

    Args:
        code: of REFUSED or RESET, or ``link-lost``.
        message: for people.
        opened: whether the device had accepted: what was lost before never ran, except with
            ``link-lost``, where nobody knows.
    """
    known = ErrorCode.read(code)
    if known in _GONE:
        status = "lost"
    elif known is ErrorCode.OFFLINE:
        status = "lost" if opened else "offline"
    elif known in _TIMES and opened:
        status = "timeout"
    elif opened and known not in (ErrorCode.POLICY, ErrorCode.REVOKED):
        status = "error"
    else:
        status = "refused"
    if known is ErrorCode.DUPLICATE and opened and not message.startswith(_DISPLACED):
        message = _WORDS[known]
    return Outcome(status=status, code=code, message=message or _WORDS.get(known))


def describe_of(device: str, outcome: Outcome, *, advice: bool = True) -> str:
    """Return an outcome with its device's name in front, once: the gateway's words may have it.

    Args:
        device: Where, safe to show.
        outcome: What.
        advice: Whether to say where to learn more of a device that is away.
    """
    text = describe_outcome(outcome, device if advice else "")
    return text if text.startswith(f"{device} ") else f"{device}: {text}"


def describe_outcome(outcome: Outcome, device: str = "") -> str:
    """Return an outcome as a few words for a person, with what to do next if there is advice.

    Args:
        outcome: What.
        device: Where, safe to show: what is away is told with where to learn more.
    """
    match outcome.status:
        case "ok":
            return "ok"
        case "exit":
            return f"exit status {outcome.exit_code}"
        case "signal":
            return f"ended by signal {outcome.signal or '?'}"
        case "timeout":
            return outcome.message or "timed out"
        case "offline":
            text = outcome.message or "not connected"
            text = text if "offline" in text else f"offline: {text}"
            return (
                f"{text} ({advice_for(ErrorCode.OFFLINE.value, text, device)})" if device else text
            )
        case "lost":
            return f"the session is lost: {outcome.message or outcome.code or 'the link broke'}"
        case _:
            text = f"{outcome.status}: {outcome.message or outcome.code or 'no reason given'}"
            advice = advice_for(outcome.code or "", text)
            return f"{text} ({advice})" if advice else text
