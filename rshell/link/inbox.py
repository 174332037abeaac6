"""Inbox: the receivers of one link's streams, and which event is whose."""

from __future__ import annotations

from collections.abc import Callable

from rshell.link.contracts import StreamReceiver
from rshell.link.core.events import (
    DataReceived,
    EventReceived,
    LimitReceived,
    LinkEvent,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from rshell.link.core.limits import CreditBudget

__all__ = ["Inbox"]


class Inbox:
    """Hands the events of streams to their receivers.

    Args:
        budget: Counts the streams that receive.
        gone: Told the number of each stream that is over.
    """

    __slots__ = ("_budget", "_gone", "_receivers")

    def __init__(self, budget: CreditBudget, gone: Callable[[int], None]) -> None:
        self._budget = budget
        self._gone = gone
        self._receivers: dict[int, StreamReceiver] = {}

    def __len__(self) -> int:
        return len(self._receivers)

    def add(self, number: int, receiver: StreamReceiver) -> None:
        """Tell ``receiver`` of a stream from now on."""
        if number not in self._receivers:
            self._budget.join()
        self._receivers[number] = receiver

    def take(self, number: int) -> StreamReceiver | None:
        """Forget the receiver of a stream that is over, and return it."""
        receiver = self._receivers.pop(number, None)
        if receiver is not None:
            self._gone(number)
            self._budget.leave()
        return receiver

    def clear(self) -> list[StreamReceiver]:
        """Forget all, and return them: the link is gone."""
        receivers = list(self._receivers.values())
        self._receivers.clear()
        return receivers

    def deliver(self, event: LinkEvent) -> bool:
        """Hand over an event of a stream; False if it is of another kind."""
        receiver: StreamReceiver | None
        match event:
            case DataReceived(stream=number):
                if receiver := self._receivers.get(number):
                    receiver.data_received(event)
            case LimitReceived(stream=number, finished=finished):
                receiver = self.take(number) if finished else self._receivers.get(number)
                if receiver is not None:
                    receiver.limit_received(event)
                    if finished:
                        receiver.stream_finished()
            case EventReceived(stream=number):
                if receiver := self._receivers.get(number):
                    receiver.event_received(event)
            case StreamOpened(stream=number, opened=opened):
                if receiver := self._receivers.get(number):
                    receiver.stream_opened(opened)
            case StreamRefused(stream=number, refused=refused):
                if receiver := self.take(number):
                    receiver.stream_refused(refused.code, refused.message)
            case StreamReset(stream=number, code=code, message=message):
                if receiver := self.take(number):
                    receiver.stream_reset(code, message)
            case StreamFinished(stream=number):
                if receiver := self.take(number):
                    receiver.stream_finished()
            case _:
                return False
        return True
