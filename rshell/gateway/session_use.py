"""SessionUse: how much and how lately a session is used, seen by looking now and then.

Whatever relays a stream counts its bytes anyway.  Comparing two counts tells whether somebody typed
in between, so neither a clock nor a timer is needed on the way of each frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rshell.access.terms import SessionTerms

if TYPE_CHECKING:
    from rshell.gateway.callers import StreamEnder

__all__ = ["SessionUse"]


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

    def look(self, stream: StreamEnder, now: float) -> None:
        """Take in what a stream has carried by now."""
        count = stream.bytes_in if self.typed else stream.bytes_in + stream.bytes_out
        if count != self._seen:
            self._seen, self.used = count, now
