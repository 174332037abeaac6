"""Regulator: paces whatever produces a stream's bytes by what waits to be sent."""

from __future__ import annotations

from typing import Any

from rshell.link.core.ends import StreamEnd

__all__ = ["SEND_BUFFER_BYTES", "Regulator"]

#: A producer is paused while more than this waits to be sent.
SEND_BUFFER_BYTES = 64 * 1024


class Regulator:
    """Holds the producer registered with one end of a stream.

    Args:
        end: Whose unsent bytes count.
    """

    def __init__(self, end: StreamEnd) -> None:
        self._end = end
        self._producer: Any = None
        self._streaming = False
        self._paused = False
        self._pulling = False

    @property
    def registered(self) -> bool:
        """Whether there is a producer."""
        return self._producer is not None

    def register(self, producer: Any, streaming: bool) -> None:
        """Take a producer, as `IConsumer.registerProducer`.

        Raises:
            RuntimeError: There is one already.
        """
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        self._producer = producer
        self._streaming = streaming
        self._paused = False
        if streaming:
            self.regulate()
        else:
            self._pull()

    def unregister(self) -> None:
        """Forget the producer."""
        self._producer = None

    def stop(self) -> None:
        """The stream is over: tell the producer, and forget it."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    def sent(self) -> None:
        """Something may have been sent: let a producer that waits go on."""
        if self._producer is not None and (self._paused or not self._streaming):
            self.regulate()

    def regulate(self) -> None:
        """Pause or resume the producer by what waits to be sent."""
        if self._producer is None:
            return
        full = self._end.unsent > SEND_BUFFER_BYTES
        if self._streaming:
            if full and not self._paused:
                self._paused = True
                self._producer.pauseProducing()
            elif not full and self._paused:
                self._paused = False
                self._producer.resumeProducing()
        elif not full:
            self._pull()

    def _pull(self) -> None:
        """Ask a pull producer for more until enough waits; its writes do not ask again."""
        if self._pulling:
            return
        self._pulling = True
        try:
            while self._producer is not None and self._end.unsent <= SEND_BUFFER_BYTES:
                before = self._end.written
                self._producer.resumeProducing()
                if self._end.written == before:
                    break
        finally:
            self._pulling = False
