"""The device's end of a handler's stream: while its OPEN is not answered, and after."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rshell.link.channel import ResumableReceiver, StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Opened
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol
from rshell_agent.guarding import may_carry_event

__all__ = ["AwaitedAnswer", "DeviceStream"]

#: An event that has no turn on the link looks again after this.
TURN_SECONDS = 0.05


class DeviceStream(StreamChannel):
    """A device's end: hears of its end at once, also while it does not read (rule O6).

    Its events wait for their turn on the link, which it shares with other handlers.
    """

    def __init__(
        self, link: LinkProtocol, receiver: ResumableReceiver, clock: IReactorTime
    ) -> None:
        super().__init__(link, receiver, resumable=True)
        self._clock = clock
        self._turn: IDelayedCall | None = None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        if self.end.event_due and not may_carry_event(self._link, self._clock.seconds()):
            if self._turn is None:
                self._turn = self._clock.callLater(TURN_SECONDS, self._turn_came)
            return None
        return super().next_frame(room, credit)

    def _turn_came(self) -> None:
        self._turn = None
        self._wake()

    def _close(self, code: str, message: str) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()
        super()._close(code, message)

    def _end(self, code: str, message: str) -> None:
        self._close(code, message)


class AwaitedAnswer:
    """Stands for the stream while its OPEN is not answered: hears if the peer gives up."""

    def __init__(self, gave_up: Callable[[str, str], None]) -> None:
        self._gave_up = gave_up

    def stream_reset(self, code: str, message: str) -> None:
        self._gave_up(code, message)

    def link_lost(self, reason: str) -> None:
        self._gave_up(ErrorCode.LINK_LOST.value, reason)

    def next_control(self) -> OutEvent | OutLimit | None:
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return None

    def stream_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def stream_refused(self, code: str, message: str) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, event: DataReceived) -> None:
        """Not before OPENED."""

    def event_received(self, event: EventReceived) -> None:
        """Not before OPENED."""

    def limit_received(self, event: LimitReceived) -> None:
        """Not before OPENED."""

    def stream_finished(self) -> None:
        """Not before OPENED."""
