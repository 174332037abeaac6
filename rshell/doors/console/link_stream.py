"""LinkStream: a console on a stream of an operator's link, for ``rshell console``.

The stream ends with the link (`gateway.console` is the gateway's own), and the console with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rshell.doors.console.session import ConsoleReceiver, ConsoleSession
from rshell.handlers import PRIORITIES, Outcome
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol

__all__ = ["LinkStream"]


@implementer(IPushProducer)
class LinkStream:
    """One such stream, from its OPEN to its end.

    Args:
        link: Carries it.
        number: Of the stream.
        request: Asked for it.
    """

    def __init__(self, link: LinkProtocol, number: int, request: Open) -> None:
        self._link = link
        self._number = number
        self._request = request
        self._channel: StreamChannel | None = None
        self._session: ConsoleSession | None = None

    def begin(self, make: Callable[[ConsoleReceiver], ConsoleSession]) -> None:
        """Ask for the console."""
        self._session = make(self)
        self._session.start()

    # -- ConsoleReceiver -------------------------------------------------------------------------

    def session_opened(self) -> None:
        channel = self._channel = StreamChannel(self._link, self)
        channel.accept(self._number, self._request, PRIORITIES["interactive"])
        if not channel.closed:
            channel.registerProducer(self, True)

    def output_received(self, data: bytes, stderr: bool) -> None:
        if self._channel is None:
            return
        if stderr:
            self._channel.write_stderr(data)
        else:
            self._channel.write(data)

    def session_ended(self, outcome: Outcome) -> None:
        self._session = None
        channel = self._channel
        if channel is None:
            code = outcome.code or ErrorCode.INTERNAL.value
            self._link.refuse(self._number, code, outcome.message or outcome.status)
        elif not channel.closed:
            channel.unregisterProducer()
            channel.finish(outcome)

    # -- IPushProducer ---------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        if self._session is not None:
            self._session.pause()

    def resumeProducing(self) -> None:
        if self._session is not None:
            self._session.resume()

    def stopProducing(self) -> None:
        self._over("the operator's link is gone")

    # -- ChannelReceiver -------------------------------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer asked for."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        if self._session is not None:
            self._session.write(data)

    def input_ended(self) -> None:
        if self._session is not None:
            self._session.write_eof()

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if self._session is not None:
            self._session.send_urgent(kind, body)

    def channel_closed(self, code: str, message: str) -> None:
        self._over(message or code)

    def _over(self, message: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.detach(message)
