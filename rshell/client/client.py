"""Client: the operator's library, a link to a gateway and everything that can be asked of it.

What the gateway answers itself is in `rshell.client.verbs`; that the link comes back, in
`rshell.client.uplink`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from twisted.internet.defer import Deferred

from rshell.client.commands import (
    MAX_OUTPUT_BYTES,
    Collected,
    CompletedCommand,
    RunMany,
    exec_request,
)
from rshell.client.dialling import GatewayLink, dial
from rshell.client.errors import ConnectionFailed, Refused
from rshell.client.profiles import Profile
from rshell.client.records import SessionInfo
from rshell.client.renewal import renew_when_due
from rshell.client.requests import encode_request
from rshell.client.session import Session, SessionReceiver
from rshell.client.uplink import Uplink
from rshell.client.verbs import GatewayVerbs
from rshell.handlers import PRIORITIES
from rshell.identity.credentials import Credentials, CredentialsDamaged
from rshell.identity.revoked import RevokedMemory
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW, SESSION_BYTES, WEIGHT_NORMAL

__all__ = ["Client", "connect"]

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
    uplink = Uplink(reactor, wheel, lambda: _dial_as(reactor, wheel, profile))
    try:
        await uplink.connect()
    except BaseException:
        wheel.stop()
        raise
    client = Client(reactor, wheel, uplink)
    if renew:
        renew_when_due(client, profile)
    return client


async def _dial_as(reactor: Any, wheel: TimerWheel, profile: Profile) -> GatewayLink:
    credentials = _newest_credentials(profile)
    # Read for each dial: another command may have heard of a newer list meanwhile.
    revoked = RevokedMemory(profile.directory / "revoked-gateways.json", credentials.root)
    try:
        return await dial(reactor, wheel, credentials, profile.addresses, revoked=revoked)
    except ConnectionFailed as error:
        # A renewal may be stored here that the gateway lost; then the older key still counts.
        previous = profile.store.previous() if error.code in ("auth", "expired") else None
        if previous is None:
            raise
        return await dial(reactor, wheel, previous, profile.addresses, revoked=revoked)


def _newest_credentials(profile: Profile) -> Credentials:
    """Return those on disk: they may have been renewed since the profile was loaded."""
    try:
        return profile.store.load() or profile.credentials
    except (CredentialsDamaged, OSError):
        return profile.credentials


class Client(GatewayVerbs):
    """One operator at a gateway; `connect` makes it.

    Calls may overlap freely: each is a stream of its own.  When the link breaks, sessions go on
    over the next one (see `Session`), and a call that finds no link waits for one, for a minute at
    most.  A gateway that refuses us for good, say because the operator was revoked, ends
    everything, and every later call fails with `ConnectionFailed`.

    Args:
        reactor: Twisted's, or a clock.
        wheel: The timers of the links; stopped by `close`.
        uplink: Has been connected.
    """

    def __init__(self, reactor: Any, wheel: TimerWheel, uplink: Uplink) -> None:
        super().__init__(uplink)
        self._reactor = reactor
        self._wheel = wheel

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
    def reactor(self) -> Any:
        """The reactor that this client runs on."""
        return self._reactor

    @property
    def closed(self) -> bool:
        """Whether there will be no link any more: `close` was called, or we were refused."""
        return self._uplink.refusal is not None

    def when_closed(self) -> Deferred[ConnectionFailed]:
        """Return what fires with the reason once there will be no link any more; see `closed`.

        For whoever waits without a session; those that have one hear of it by its outcome.
        """
        return self._uplink.when_refused()

    @property
    def operator(self) -> str:
        """Our name, as the gateway said when it welcomed us last."""
        return "" if self._uplink.welcome is None else self._uplink.welcome.name

    def on_notice(self, heard: Callable[[str, str, str], None]) -> None:
        """Have what the gateway says of our sessions told: with device, code, a line for people.

        For sessions that hear nothing themselves (see `Session`, ``noticed``).
        """
        self._uplink.notices.unheard = heard

    @property
    def gateway_time_ms(self) -> int:
        """The gateway's wall clock when it welcomed us last, milliseconds since 1970."""
        return 0 if self._uplink.welcome is None else self._uplink.welcome.time_ms

    async def close(self) -> None:
        """Say goodbye and wait, for `CLOSE_SECONDS` at most, until the link is gone.

        Sessions that are open end with the outcome ``lost``.  On their devices they live on, as
        after `Session.detach`.
        """
        lost = self._uplink.close()
        if not lost.called:
            late = self._reactor.callLater(CLOSE_SECONDS, self._uplink.abort)
            await lost
            if late.active():
                late.cancel()
        self._wheel.stop()

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
        timeout: float | None = None,
        grace_seconds: float | None = None,
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
            timeout: Seconds after which the device ends it with the outcome ``timeout``.
            grace_seconds: How long to try to come back when the way to the device breaks; None
                is a minute, which suits networks, not devices that restart.

        Returns:
            The session; refusals and all else come as its outcome.

        Raises:
            ConnectionFailed: There is no link, and there will be none.
            Refused: The request does not fit into a control frame, too many streams are open, or
                the gateway is too old for a time limit.
        """
        session = Session(self._uplink, device, handler, receiver, grace_seconds=grace_seconds)
        session.start(
            encode_request(request),
            login=login,
            weight=PRIORITIES.get(priority, WEIGHT_NORMAL),
            window=window,
            interactive=priority == "interactive",
            timeout=timeout,
        )
        return session

    def attach(
        self,
        info: SessionInfo,
        receiver: SessionReceiver,
        *,
        view: bool = False,
        priority: str = "interactive",
        window: int = DEFAULT_WINDOW,
        grace_seconds: float | None = None,
    ) -> Session:
        """Go on with a session that lives on a device, or watch it.

        Whoever may watch another operator's session sees it by `sessions`; to go on with one
        needs an administrator.

        Output that nobody has taken comes first.  Of it, what is older than this is counted by
        `Session.replay_left`, and what is gone already is told by the event ``gap``.

        Args:
            info: One of `sessions`.
            receiver: Takes the output.
            view: Only watch; whoever drives it goes on.  What is sent to it has no effect.
            priority: As in `open`.
            window: As in `open`.
            grace_seconds: As in `open`.

        Returns:
            The session.  Whoever drove it until now is told ``duplicate``.  Send input once
            `SessionReceiver.session_opened` was called.

        Raises:
            ConnectionFailed: There is no link, and there will be none.
            Refused: There is no such id, or too many streams are open.

        Example:
            ::

                for info in await client.sessions("pump-17"):
                    if info.state == "detached":
                        session = client.attach(info, receiver)
                        print(await session.outcome)
        """
        session = Session(
            self._uplink,
            info.device_id or info.device,
            info.handler,
            receiver,
            session_id=_session_id(info),
            attempt=0 if view else info.attempt,
            view=view,
            grace_seconds=grace_seconds,
        )

        async def newest() -> int | None:
            everybodys = info.operator not in ("", self.operator)
            found = await self.sessions(everybodys=everybodys, session=info.session)
            return found[0].attempt if found else None

        session.start(
            {},
            login=info.login,
            weight=PRIORITIES.get(priority, WEIGHT_NORMAL),
            window=window,
            interactive=priority == "interactive",
            newest=None if view else newest,
        )
        return session

    async def call(
        self,
        device: str,
        handler: str,
        request: Any,
        *,
        input: bytes = b"",  # as subprocess.run calls it
        login: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the device keeps it, not this coroutine
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> CompletedCommand:
        """Use a handler, also a plug-in's, and wait for its end.

        Args:
            device: Name or id.
            handler: For example ``facts``.
            request: As in `open`.
            input: What the handler reads.
            login: The account on the device; None asks for its default.
            timeout: Seconds after which the device ends the handler.
            max_output_bytes: What is kept of each of stdout and stderr.

        Returns:
            Output and outcome (``outcome.result`` is the handler's answer, if it has one); a
            handler that fails is no exception.

        Raises:
            RshellError: It cannot be asked for at all.

        Example:
            ::

                done = await client.call("pump-17", "facts", {"names": ["memory"]})
                print(done.outcome.result)
        """
        collected = Collected(max_output_bytes)
        session = self.open(device, handler, request, collected, login=login, timeout=timeout)
        session.write(input)
        session.write_eof()
        return collected.completed(device, await session.outcome)

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


def _session_id(info: SessionInfo) -> bytes:
    try:
        session_id = bytes.fromhex(info.session)
    except ValueError:
        session_id = b""
    if len(session_id) != SESSION_BYTES:
        raise Refused("bad-request", "a session's id is 32 hexadecimal digits", "")
    return session_id
