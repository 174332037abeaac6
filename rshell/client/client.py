"""Client: the operator's library, one link to a gateway and everything that can be asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from rshell.client.commands import (
    MAX_OUTPUT_BYTES,
    Collected,
    CompletedCommand,
    RunMany,
    exec_request,
)
from rshell.client.dialling import GatewayLink, dial
from rshell.client.errors import ConnectionFailed, Refused, RshellError
from rshell.client.outcomes import Outcome, describe_outcome
from rshell.client.profiles import Profile
from rshell.client.records import AuditRow, Device, Handler, Invitation, Whoami
from rshell.client.renewal import renew_when_due
from rshell.client.session import Session, SessionReceiver, encode_request
from rshell.handlers import PRIORITIES
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW, WEIGHT_NORMAL
from rshell.link.core.errors import ErrorCode

__all__ = ["Client", "connect"]

#: A listing of ten thousand devices is some 10 MB.
MAX_ANSWER_BYTES = 256 * 1024 * 1024
#: How long `Client.close` waits for the gateway to take our goodbye.
CLOSE_SECONDS = 3.0


async def connect(reactor: Any, profile: Profile, *, renew: bool = True) -> Client:
    """Connect to the profile's gateway.

    Args:
        reactor: Twisted's; nothing here looks for the global one.
        profile: Of `rshell.client.find_profile` or `rshell.client.Profile.load`.
        renew: Whether to renew the operator's certificate, in the background, when it is due.

    Returns:
        The client; close it when done, or use it with ``async with``.

    Raises:
        ConnectionFailed: No gateway welcomed us; ``code`` and ``hint`` say why and what to do.

    Example:
        ::

            async def main(reactor):
                async with await connect(reactor, find_profile(None, os.environ)) as client:
                    for device in await client.devices("site=berlin"):
                        done = await client.run(device.name, argv=["uptime"])
                        print(device.name, done.stdout.decode())

            task.react(lambda reactor: ensureDeferred(main(reactor)))
    """
    wheel = TimerWheel(reactor)
    try:
        link = await _dial_as(reactor, wheel, profile)
    except BaseException:
        wheel.stop()
        raise
    client = Client(reactor, wheel, link)
    if renew:
        renew_when_due(client, profile)
    return client


async def _dial_as(reactor: Any, wheel: TimerWheel, profile: Profile) -> GatewayLink:
    try:
        return await dial(reactor, wheel, profile.credentials, profile.addresses)
    except ConnectionFailed as error:
        # A renewal may be stored here that the gateway lost; then the older key still counts.
        previous = profile.store.previous() if error.code in ("auth", "expired") else None
        if previous is None:
            raise
        return await dial(reactor, wheel, previous, profile.addresses)


class Client:
    """One operator's link to a gateway; `connect` makes it.

    Calls may overlap freely: each is a stream of its own.  When the link breaks, everything that
    runs ends with the outcome ``lost`` and every later call fails with `ConnectionFailed`.
    """

    def __init__(self, reactor: Any, wheel: TimerWheel, gateway: GatewayLink) -> None:
        self._reactor = reactor
        self._wheel = wheel
        self._gateway = gateway

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self._gateway.lost_reason is not None

    @property
    def gateway_time_ms(self) -> int:
        """The gateway's wall clock when it welcomed us, milliseconds since 1970."""
        return 0 if self._gateway.welcome is None else self._gateway.welcome.time_ms

    async def close(self) -> None:
        """Say goodbye and wait, for `CLOSE_SECONDS` at most, until the link is gone."""
        lost = self._gateway.when_lost()
        self._gateway.end()
        if not self.closed:
            late = self._reactor.callLater(CLOSE_SECONDS, self._give_up)
            await lost
            if late.active():
                late.cancel()
        self._wheel.stop()

    def _give_up(self) -> None:
        if self._gateway.link is not None:
            self._gateway.link.abort("closed")

    # -- sessions --------------------------------------------------------------------------------

    def open(
        self,
        device: str | None,
        handler: str,
        request: Any,
        receiver: SessionReceiver,
        *,
        login: str | None = None,
        priority: str = "normal",
        window: int = DEFAULT_WINDOW,
    ) -> Session:
        """Open a session of a handler on a device.

        Args:
            device: Name or id.
            handler: For example ``shell``, ``exec`` or a plug-in's.
            request: Its request: a struct of `rshell.handlers`, or a dict of JSON values.
            receiver: Takes the output; see `SessionReceiver`.
            login: The account on the device; None asks for its default.
            priority: ``interactive``, ``normal`` or ``bulk``: the share of a busy link.
            window: Bytes the device may be ahead of the receiver.

        Returns:
            The session; refusals and all else come as its outcome.

        Raises:
            ConnectionFailed: The link is gone.
            Refused: The request does not fit into a control frame, or too many streams are open.
        """
        link = self._gateway.link
        if link is None or link.closed:
            raise ConnectionFailed(
                "link-lost", f"the link to the gateway is gone: {self._gateway.lost_reason}", ""
            )
        session = Session(device, handler, receiver)
        weight = PRIORITIES.get(priority, WEIGHT_NORMAL)
        encoded = encode_request(request)
        session.start(link, self._wheel, encoded, login=login, weight=weight, window=window)
        return session

    async def run(
        self,
        device: str,
        *,
        argv: Sequence[str | bytes] | None = None,
        line: str | bytes | None = None,
        input: bytes = b"",  # as subprocess.run calls it
        login: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the device keeps it, not this coroutine
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> CompletedCommand:
        """Run a command on a device and wait for its end.

        Args:
            device: Name or id.
            argv: Program and arguments, run as they are, without any shell.
            line: Instead: a line for the login's shell.
            input: What the command reads from standard input.
            login: The account on the device; None asks for its default.
            timeout: Seconds after which the device ends the command.
            max_output_bytes: What is kept of each of stdout and stderr.

        Returns:
            Output and outcome; a failing command is no exception.

        Raises:
            RshellError: The command cannot be asked for at all.

        Example:
            ::

                done = await client.run("pump-17", line="df -h / | tail -1", timeout=10)
                if done.outcome.status != "ok":
                    print(done.stderr.decode())
        """
        request = exec_request(argv, line, timeout)
        collected = Collected(max_output_bytes)
        session = self.open(device, "exec", request, collected, login=login)
        session.write(input)
        session.write_eof()
        return collected.completed(device, await session.outcome)

    def run_many(
        self,
        devices: Iterable[str],
        *,
        argv: Sequence[str | bytes] | None = None,
        line: str | bytes | None = None,
        login: str | None = None,
        timeout: float | None = None,
        concurrency: int = 50,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> RunMany:
        """Run a command on many devices, ``concurrency`` at a time, without any input.

        Args are those of `run`.

        Returns:
            An asynchronous iterator of `CompletedCommand`, in the order in which they end.

        Raises:
            RshellError: The command cannot be asked for at all.

        Example:
            ::

                async for done in client.run_many(["pump-1", "pump-2"], argv=["uptime"]):
                    print(done.device, done.outcome.status)
        """
        request = encode_request(exec_request(argv, line, timeout))

        def start(device: str) -> tuple[Session, Collected]:
            collected = Collected(max_output_bytes)
            session = self.open(device, "exec", request, collected, login=login)
            session.write_eof()
            return session, collected

        return RunMany(devices, start, concurrency)

    # -- what the gateway answers itself -----------------------------------------------------------

    async def call_gateway(self, verb: str, request: Mapping[str, Any] | None = None) -> Any:
        """Ask the gateway itself.

        Args:
            verb: The handler's name without ``gateway.``, for example ``devices``.
            request: Its request.

        Returns:
            The JSON document that it answered.

        Raises:
            Refused: It did not, or said why not.
            ConnectionFailed: The link is gone.
        """
        collected = Collected(MAX_ANSWER_BYTES)
        session = self.open(None, f"gateway.{verb}", dict(request or {}), collected)
        session.write_eof()
        outcome = await session.outcome
        if outcome.status != "ok":
            raise _refusal(outcome, verb)
        try:
            return msgspec.json.decode(collected.stdout)
        except (msgspec.DecodeError, RecursionError):  # a device's schema is within some answers
            raise Refused(
                "protocol", f"the gateway's answer to {verb} cannot be read", ""
            ) from None

    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        answer = await self.call_gateway(verb, request)
        try:
            return msgspec.convert(answer, kind)
        except msgspec.ValidationError as error:
            raise Refused(
                "version",
                f"the gateway's answer to {verb} is not understood: {error}",
                "upgrade rshell here or on the gateway",
            ) from None

    async def devices(self, selector: str = "") -> list[Device]:
        """Return the devices that a selector picks; all that may be seen if it is empty.

        Raises:
            Refused: The selector is wrong (code ``bad-request``), or the role forbids it.
        """
        found: list[Device] = await self._ask("devices", list[Device], {"selector": selector})
        return found

    async def handlers(self, device: str | None = None) -> list[Handler]:
        """Return the handlers of a device, or the gateway's own for None.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        found: list[Handler] = await self._ask("handlers", list[Handler], {"device": device})
        return found

    async def invite_device(
        self,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_seconds: int = 3600,
        uses: int = 1,
    ) -> Invitation:
        """Make a join string for devices; it is a secret until it is used or expires.

        Args:
            name: What the device will be called; None lets it propose its host name.
            labels: What it will be labelled with.
            ttl_seconds: How long the string is good for.
            uses: How many devices may join by it.

        Raises:
            Refused: The role forbids it, or a value is wrong.
        """
        request = {
            "kind": "device",
            "name": name,
            "labels": dict(labels or {}),
            "ttl_s": ttl_seconds,
            "uses": uses,
        }
        invitation: Invitation = await self._ask("invite", Invitation, request)
        return invitation

    async def invite_operator(self, name: str, role: str, *, ttl_seconds: int = 3600) -> Invitation:
        """Make a join string for a new operator; it is a secret until it is used or expires.

        Raises:
            Refused: The role forbids it, or there is no such role.
        """
        request = {"kind": "operator", "name": name, "role": role, "ttl_s": ttl_seconds}
        invitation: Invitation = await self._ask("invite", Invitation, request)
        return invitation

    async def label(
        self, device: str, put: Mapping[str, str], remove: Iterable[str] = ()
    ) -> Device:
        """Set and remove labels of a device, and return it.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        request = {"device": device, "set": dict(put), "remove": sorted(remove)}
        labelled: Device = await self._ask("label", Device, request)
        return labelled

    async def rename(self, device: str, name: str) -> Device:
        """Give a device another name, and return it; its own name accepts a provisional one.

        Raises:
            Refused: There is no such device, the name is taken or none, or the role forbids it.
        """
        renamed: Device = await self._ask("rename", Device, {"device": device, "name": name})
        return renamed

    async def revoke(self, kind: str, name: str) -> int:
        """Take a device's or operator's rights away, for good, and end its links.

        Args:
            kind: ``device`` or ``operator``.
            name: Which.

        Returns:
            How many links were closed.

        Raises:
            Refused: There is no such one, or the role forbids it.
        """
        answer = await self.call_gateway("revoke", {"kind": kind, "name": name})
        closed = answer.get("links_closed", 0) if isinstance(answer, dict) else 0
        return closed if isinstance(closed, int) else 0

    async def audit(
        self, *, limit: int = 100, device: str | None = None, operator: str | None = None
    ) -> list[AuditRow]:
        """Return the newest rows of the audit log, newest first.

        Raises:
            Refused: The role forbids it.
        """
        request = {"limit": limit, "device": device, "operator": operator}
        rows: list[AuditRow] = await self._ask("audit", list[AuditRow], request)
        return rows

    async def whoami(self) -> Whoami:
        """Return this operator's name and role, as the gateway knows them."""
        answer: Whoami = await self._ask("whoami", Whoami, {})
        return answer


def _refusal(outcome: Outcome, verb: str) -> RshellError:
    code = outcome.code or outcome.status
    if outcome.status == "lost":
        return ConnectionFailed(code, describe_outcome(outcome), "")
    # The advice for a bad request speaks of a device's handler; the gateway's text says it all.
    hint = "" if code == ErrorCode.BAD_REQUEST else None
    return Refused(code, outcome.message or f"the gateway refused {verb}: {code}", hint)
