"""The seams of rshell: what a plug-in provides and what it is given.

Everything here is stable surface.  All methods are called in the reactor's thread.
"""

# zope interface methods have no self

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer, ITransport
from zope.interface import Attribute, Interface

from rshell.handlers import Outcome, ProcessRequest

__all__ = ["ICommandHandler", "IDeviceContext", "IHandlerChannel", "ITypedHandler"]


class ICommandHandler(Interface):
    """The device-side code behind a verb.

    Providers are found with `twisted.plugin` (put an instance into a module of
    ``twisted/plugins/``), must be enabled by name in the device's policy, and are checked with
    `verifyObject` when the agent loads them.
    """

    name = Attribute("The verb: ``[a-z][a-z0-9-]{0,62}``, unique on the device.")
    summary = Attribute("One line for listings, at most 200 characters.")
    request_type = Attribute(
        "A `msgspec.Struct` with ``forbid_unknown_fields``; its JSON schema is published."
    )
    priority = Attribute("``interactive``, ``normal`` or ``bulk``: the share of a busy link.")

    async def run(request: Any, channel: Any, device: Any) -> Outcome:
        """Serve one session, from its opening to its outcome.

        Use the channel before you act: at its first use a session that has run before is refused,
        and a session whose first answer was lost may be given to ``run`` once more until then.
        After it, ``run`` goes on while the operator's link is away; see docs/handlers.md.

        Args:
            request: An instance of ``request_type``.
            channel: `IHandlerChannel`.  The stream is accepted at its first use.
            device: `IDeviceContext`.

        Returns:
            `rshell.handlers.Outcome`; it ends the stream.

        Raises:
            rshell.handlers.BadRequest: Before the channel was used: the request is refused.
            Exception: Anything else ends the stream with status ``error``; the operator sees
                a stable code, the device's log the traceback.
            twisted.internet.defer.CancelledError: Raised inside ``run`` when the operator
                cancels, or nobody has come back within 60 s after the link broke; clean up and
                let it pass.
        """


class ITypedHandler(ICommandHandler):
    """A handler that also announces the types of what it answers: optional.

    Listings show them, and programs that call the handler can rely on them.
    """

    result_type = Attribute(
        "A `msgspec.Struct`, of which `rshell.handlers.Outcome.result` is an instance when the "
        "status is ``ok``; or None."
    )
    event_types = Attribute(
        "A map from each kind of event to the `msgspec.Struct` of its body; ``progress`` need not "
        "be listed."
    )


class IHandlerChannel(ITransport, IConsumer, IPushProducer):
    """A handler's end of its stream: a transport, producer and consumer with back-pressure."""

    session = Attribute("The session's id: 16 bytes.")
    operator = Attribute("The operator's name, as the gateway vouches for it.")
    login = Attribute("The account that was asked for, or None for the policy's first.")

    def write_stderr(data: bytes) -> None:
        """Send bytes on the second channel, in order with ``write``."""

    def send_event(kind: str, body: dict[str, Any]) -> None:
        """Send an event behind all bytes written so far.

        Args:
            kind: ``progress``, or a word of the handler's own.
            body: A map of JSON values, at most 8 KiB encoded.
        """

    async def read() -> bytes:
        """Return the next bytes of input; ``b""`` once the operator has ended it.

        If the stream is over before that, an exception ends the handler: let it pass.
        Credit returns to the operator as bytes are read.  Not together with `start_protocol`.
        """

    def start_protocol(protocol: IProtocol) -> None:
        """Run a Twisted `IProtocol` over the channel.

        ``dataReceived`` gets the input; `IHalfCloseableProtocol` providers hear its end by
        ``readConnectionLost``, others by ``connectionLost``.
        """

    def on_event(receiver: Callable[[str, dict[str, Any]], None]) -> None:
        """Call ``receiver(kind, body)`` for each event from the operator (``window``, …)."""

    async def splice(process: ProcessRequest) -> Outcome:
        """Hand stream and outcome to the keeper, which runs ``process``.

        Only spliced streams survive the agent.  Must be the first use of the channel.

        Args:
            process: `rshell.handlers.ProcessRequest`.

        Returns:
            `rshell.handlers.Outcome` as the keeper told it; return it from ``run``.
        """


class IDeviceContext(Interface):
    """What a handler may know of its device."""

    name = Attribute("The device's name as the gateway knows it.")
    home = Attribute("pathlib.Path of the agent's home; a handler keeps its state below it.")
    clock = Attribute("IReactorTime: the only source of time and timers for a handler.")

    def fact(name: str) -> str:
        """Return a fact that never changes while the agent runs, or ``""``.

        ``hostname``, ``os`` (as ID in os-release(5)), ``os_name``, ``kernel``, ``architecture``.
        """

    def facts(names: Iterable[str] = ()) -> dict[str, Any]:
        """Look at the device now.

        Args:
            names: Which facts (docs/facts.md); none means all.

        Returns:
            JSON values, at most 7,680 bytes encoded.
        """
