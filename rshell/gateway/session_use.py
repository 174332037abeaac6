"""SessionUse: how much and how lately a session is used, seen by looking now and then.

Whatever relays a stream counts its bytes anyway.  Comparing two counts tells whether somebody typed
in between, so neither a clock nor a timer is needed on the way of each frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rshell.access.grants import seconds_words
from rshell.access.terms import SessionTerms
from rshell.link.core.errors import ErrorCode

if TYPE_CHECKING:
    from rshell.gateway.callers import StreamEnder

__all__ = ["Limited", "SessionUse"]

#: The operator is told so long before the end, or a quarter of the limit if that is shorter.
WARNING_SECONDS = 60.0


@attrs.frozen
class Limited:
    """A limit that is near, or reached.

    Attributes:
        code: ``idle-limit`` or ``time-limit``.
        text: for the operator.
        over: it is reached: the session has to end.
    """

    code: ErrorCode
    text: str
    over: bool


@attrs.define(eq=False)
class SessionUse:
    """Of one attempt.

    Attributes:
        began: when its session did, seconds of the wheel's clock.
        used: when it was used last, likewise, as far as was looked.
        typed: only what the operator sends is use; else any byte is.
        terms: of the session; None if they were not asked for yet.
        judged: by which version of the roles ``terms`` were found.
        warned: of which limit's approach the operator was told.
    """

    began: float
    used: float
    typed: bool = False
    terms: SessionTerms | None = None
    judged: int = 0
    warned: str = ""
    _seen: int = 0

    def limited(
        self, terms: SessionTerms, now: float, *, seat: bool, told: bool = True
    ) -> Limited | None:
        """Return the limit that is reached, or whose approach the operator was not told of.

        Args:
            terms: Of the session, as they are now.
            now: Seconds of the wheel's clock.
            seat: Somebody is supposed to type at it.
            told: Whether the operator can be told anything now.
        """
        if not (terms.time_seconds or terms.idle_seconds):
            return None  # as of most
        for code, limit, rule, since in (
            (ErrorCode.TIME_LIMIT, terms.time_seconds, terms.time_rule, self.began),
            (ErrorCode.IDLE_LIMIT, terms.idle_seconds * seat, terms.idle_rule, self.used),
        ):
            left = since + limit - now
            if not limit:
                continue
            idle = code is ErrorCode.IDLE_LIMIT
            if left <= 0:
                what = "nothing was typed for" if idle else "the session has lasted"
                return Limited(code, f"{what} {seconds_words(limit)}, the limit of {rule}", True)
            near = left <= min(WARNING_SECONDS, limit / 4)
            if not near and self.warned == code:
                self.warned = ""  # somebody typed, or the limit is another by now
            elif near and told and not self.warned:
                self.warned = code
                seconds = max(1, round(left))
                why = "nobody types here" if idle else "its time is over"
                text = f"this session ends in {seconds} second{'s' * (seconds > 1)}: {why}"
                return Limited(code, f"{text} (limit {seconds_words(limit)})", False)
        return None

    def look(self, stream: StreamEnder, now: float) -> None:
        """Take in what a stream has carried by now."""
        count = stream.bytes_in if self.typed else stream.bytes_in + stream.bytes_out
        if count != self._seen:
            self._seen, self.used = count, now
