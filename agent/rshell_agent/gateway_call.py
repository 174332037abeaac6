"""One question of the device to its gateway, on a stream of its own (docs/protocol.md, 10)."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import SESSION_BYTES
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol

__all__ = ["CALL_SECONDS", "CallFailed", "GatewayCall"]

CALL_SECONDS = 30.0
#: A chain and a few addresses; more is a broken gateway.
_MAX_ANSWER = 64 * 1024


class CallFailed(Exception):
    """The gateway did not answer, or not as it should; the message says why.

    Attributes:
        code: With which it refused, if it did.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class GatewayCall:
    """One question to the gateway on a stream of ours: collects its answer and outcome.

    Attributes:
        answer: Fires with the bytes of the answer, or fails with CallFailed.
    """

    def __init__(self, link: LinkProtocol) -> None:
        self.answer: Deferred[bytes] = Deferred(self._cancelled)
        self._given_up = False
        self._channel = StreamChannel(link, self)
        self._data = bytearray()

    def ask(self, handler: str, request: dict[str, Any], clock: IReactorTime) -> None:
        """Open the stream; ``answer`` fails if nothing came within `CALL_SECONDS`.

        Raises:
            LocalProtocolError: The link takes no streams.
        """
        session = os.urandom(SESSION_BYTES)
        self._channel.request(Open(handler=handler, session=session, request=request))
        self.answer.addTimeout(CALL_SECONDS, clock, _no_answer)

    def _cancelled(self, _: Deferred[bytes]) -> None:
        # who cancels shall read CancelledError, and not that the gateway failed
        self._given_up = True
        self._channel.abortConnection()

    def channel_opened(self, opened: Opened) -> None:
        """The gateway will answer."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        self._data += data
        if len(self._data) > _MAX_ANSWER:
            self._channel.abortConnection()

    def input_ended(self) -> None:
        """The outcome follows."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind != "outcome" or self.answer.called:
            return
        if body.get("status") == "ok":
            self.answer.callback(bytes(self._data))
        else:
            text = f"{body.get('code')}: {body.get('message')}"
            self.answer.errback(CallFailed(f"the gateway answered {text[:200]!a}"))

    def channel_closed(self, code: str, message: str) -> None:
        if not self.answer.called and not self._given_up:
            self.answer.errback(CallFailed(f"{code}: {message}", code))


def _no_answer(_result: object, seconds: float) -> Any:
    raise CallFailed(f"no answer within {seconds:g} s")
