"""The far ends of a gateway's links: a device's and an operator's, as a test wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rshell.link.channel import StreamChannel
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol
from tests.gateway.wires import Wire

__all__ = ["Ask", "DeviceEnd", "End", "LastingTalk", "OperatorEnd", "Talk"]


class Ask:
    """One OPEN sent as it is, and what was answered; it reads and sends nothing.

    Attributes:
        opened: OPENED.
        closed: code and message of the end, once it is over.
    """

    def __init__(self, link: LinkProtocol, request: Open) -> None:
        self.opened: Opened | None = None
        self.closed: tuple[str, str] | None = None
        self.outcome: dict[str, Any] | None = None
        self._link = link
        self.number = link.open_stream(request, self)

    @property
    def code(self) -> str | None:
        """Why it is over; None while it is not."""
        return None if self.closed is None else self.closed[0]

    def reset(self, code: str, message: str = "") -> None:
        """Give it up."""
        self._link.reset(self.number, code, message)

    def next_control(self) -> OutEvent | OutLimit | None:
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return None

    def stream_opened(self, opened: Opened) -> None:
        self.opened = opened

    def stream_refused(self, code: str, message: str) -> None:
        self.closed = (code, message)

    def stream_reset(self, code: str, message: str) -> None:
        self.closed = (code, message)

    def stream_finished(self) -> None:
        self.closed = ("none", "")

    def link_lost(self, reason: str) -> None:
        self.closed = ("link-lost", reason)

    def data_received(self, event: DataReceived) -> None:
        pass

    def event_received(self, event: EventReceived) -> None:
        if event.event.kind == "outcome":
            self.outcome = event.event.body

    def limit_received(self, event: LimitReceived) -> None:
        pass


class Talk:
    """One stream as its end sees it: a channel, and everything it told.

    Attributes:
        opened: OPENED, at the end that asked.
        closed: code and message of the end, once it is over.
        outcome: the outcome event's body.
    """

    def __init__(self, link: LinkProtocol) -> None:
        self.channel = StreamChannel(link, self)
        self.opened: Opened | None = None
        self.data = bytearray()
        self.stderr = bytearray()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.eof = False
        self.closed: tuple[str, str] | None = None

    @property
    def outcome(self) -> dict[str, Any] | None:
        """The outcome's body, or None."""
        return next((body for kind, body in self.events if kind == "outcome"), None)

    @property
    def code(self) -> str | None:
        """Why it is over; None while it is not."""
        return None if self.closed is None else self.closed[0]

    def answer(self) -> Any:
        """Return the JSON document that a verb answered with."""
        assert self.outcome is not None, f"no answer: {self.closed}"
        return msgspec.json.decode(bytes(self.data))

    def channel_opened(self, opened: Opened) -> None:
        self.opened = opened

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.data += data
        if stderr:
            self.stderr += data

    def input_ended(self) -> None:
        self.eof = True

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        self.events.append((kind, body))

    def channel_closed(self, code: str, message: str) -> None:
        self.closed = (code, message)


class LastingTalk(Talk):
    """A stream whose end outlives its links, as a client's and a keeper's do.

    Attributes:
        detached: why, each time.
    """

    def __init__(self, link: LinkProtocol) -> None:
        super().__init__(link)
        self.detached: list[str] = []
        self.channel = StreamChannel(link, self, resumable=True)

    def channel_detached(self, reason: str) -> None:
        self.detached.append(reason)


class End:
    """Owner of one dialled link.

    Attributes:
        wire: how it is joined to the gateway.
        gateway_link: the gateway's side of it.
    """

    link: LinkProtocol
    gateway_link: LinkProtocol
    wire: Wire

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.welcome: Welcome | None = None
        self.goaway: GoAway | None = None
        self.lost: str | None = None
        self.answers: list[Sessions] = []
        self.requests: list[tuple[int, Open]] = []
        self.on_request: Callable[[int, Open], None] | None = None

    @property
    def told(self) -> str | None:
        """The code of the GOAWAY that came, if any."""
        return None if self.goaway is None else self.goaway.code

    def link_handshaken(self, link: LinkProtocol) -> None:
        link.hello(self.hello)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        raise AssertionError("a dialler gets no HELLO")

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.welcome = welcome

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.goaway = goaway

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        self.answers.append(sessions)

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.requests.append((number, request))
        if self.on_request is not None:
            self.on_request(number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.lost = reason

    def call(self, handler: str, **fields: Any) -> Talk:
        """Ask for a stream."""
        talk = Talk(self.link)
        fields.setdefault("session", b"S" * 16)
        talk.channel.request(Open(handler=handler, **fields))
        return talk

    def ask(self, handler: str = "shell", **fields: Any) -> Ask:
        """Send an OPEN as it is: any attempt, any positions."""
        fields.setdefault("session", b"S" * 16)
        fields.setdefault("device", "pump-1")
        if fields.get("resume") is None:
            fields.setdefault("limit", 262144)
        return Ask(self.link, Open(handler=handler, **fields))


class DeviceEnd(End):
    """An agent's side; accepts nothing unless told to."""

    def accept(self) -> Talk:
        """Accept the newest request."""
        number, request = self.requests[-1]
        talk = Talk(self.link)
        talk.channel.accept(number, request)
        return talk

    def refuse(self, code: str, message: str) -> None:
        """Refuse the newest request."""
        self.link.refuse(self.requests[-1][0], code, message)


class OperatorEnd(End):
    """A client's side."""
