"""LiveSession: one attempt of a session at the gate, parked or joined.

What it is not: the session itself, which lives on the device and outlives its attempts
(`rshell.gateway.session_table` lists those).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from rshell.access.printable import printable
from rshell.gateway.callers import Caller, OpenRefused, StreamEnder
from rshell.gateway.session_use import SessionUse
from rshell.link.core.errors import ErrorCode
from rshell.link.protocol import LinkProtocol
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.live_recording import LiveRecording

__all__ = ["LiveSession", "SessionKey"]

#: Device id, session, its operator: attempts of one key displace each other.
SessionKey = tuple[str, bytes, str]


def _nothing() -> None:
    """Stand in for a call that nobody wants."""


@attrs.define(eq=False, kw_only=True)
class LiveSession:
    """One attempt that passed the policy.

    Attributes:
        view: it watches a session that another attempt drives (rule R9).
        age_ms: since the first attempt, as its operator's end said.
        received: when its OPEN came, seconds of the wheel's clock.
        row: of the audit log, once it is committed; 0 before.
        owner: whose session it is; another than the caller watches it, or took it over.
        use: how lately it was used.
        seat: somebody is supposed to type at it: a terminal, or a shell.
        asked: the request, of a handler whose role names what may be asked (``forward``).
        judged: by which version of the roles it was granted last.
        stream: what joins operator and device, once there is one.
        device_link: the link that the stream was opened on.
        recording: of its session, while this attempt is recorded.
        anew: whoever is at the operator's end was not there before this attempt.
        refused: why it ended before it was joined.
        woken: called when ``refused`` is set.
    """

    session: bytes
    attempt: int
    age_ms: int
    view: bool
    caller: Caller
    device: Device
    handler: str
    login: str | None
    received: float
    owner: Operator
    use: SessionUse
    seat: bool = False
    row: int = 0
    asked: Mapping[str, Any] | None = None
    judged: int = 0
    stream: StreamEnder | None = None
    device_link: LinkProtocol | None = None
    recording: LiveRecording | None = None
    anew: bool = True
    refused: OpenRefused | None = None
    woken: Callable[[], None] = _nothing

    @property
    def key(self) -> SessionKey:
        """What attempts of one session share."""
        return self.device.id, self.session, self.owner.name

    @property
    def foreign(self) -> bool:
        """Whether the session is somebody else's than the caller's."""
        return self.owner.name != self.caller.operator.name

    @property
    def who(self) -> str:
        """Who the caller is, and where, in words for others."""
        caller = self.caller
        return printable(f"{caller.operator.name} ({caller.door}, {caller.address})", 120)

    def end(self, code: str, message: str) -> None:
        """End it at both ends, or tell who waits that it is refused."""
        if self.stream is not None:
            self.stream.broken(code, message)
        else:
            self._refuse(code, message)

    def displace(self, message: str) -> None:
        """A higher attempt took over: the device keeps the session."""
        if self.stream is not None:
            self.stream.displaced(message)
        else:
            self._refuse(ErrorCode.DUPLICATE.value, message)

    def part(self, code: str, message: str) -> None:
        """Part who joined another's session from it: that goes on without them."""
        if self.view or self.stream is None:
            self.end(code, message)  # a viewer's stream is only theirs
        else:
            self.displace(message)

    def _refuse(self, code: str, message: str) -> None:
        if self.refused is None:
            self.refused = OpenRefused(code, message)
            self.woken()
