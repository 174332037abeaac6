"""``rshell forward``: ports and sockets of a device here, or ours there."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import attrs
import click
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from rshell.access.printable import printable
from rshell.cli.away import notice_for
from rshell.cli.choosing import names_one
from rshell.cli.fanout import Outputs
from rshell.cli.forward_stdio import StdioForward
from rshell.cli.options import common_options, settings_of
from rshell.cli.presenting import encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Away, Client, Outcome, RshellError
from rshell.client.forward_base import MAX_CONNECTIONS
from rshell.client.forward_connection import BROKEN_HERE, ForwardConnection
from rshell.client.forward_specs import ForwardSpec, Place, parse_place, parse_spec
from rshell.client.forwards import BackForward, Forward
from rshell.client.outcomes import describe_outcome
from rshell.link.unix_sockets import remove_stale

__all__ = ["forward"]

#: Connections that the kernel holds while we accept none.
BACKLOG = 128
#: Besides connections: streams, the link, the reactor, what accept(2) takes beyond a limit.
SPARE_DESCRIPTORS = 256
#: How long somebody here may take to answer a connection that came from the device.
CONNECT_SECONDS = 10.0


@click.command(short_help="Reach ports of a device, or let it reach ours.")
@click.option("-R", "--back", is_flag=True, help="The device listens; connections come to us.")
@click.option("--stdio", is_flag=True, help="One connection, on standard input and output.")
@click.option("-v", "--verbose", is_flag=True, help="Tell of each connection and its bytes.")
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=MAX_CONNECTIONS,
    show_default=True,
    metavar="N",
    help="At once, for each SPEC; more wait to be accepted.",
)
@common_options
@click.argument("device")
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...")
@click.pass_context
def forward(
    context: click.Context,
    device: str,
    specs: tuple[str, ...],
    back: bool,
    stdio: bool,
    verbose: bool,
    connections: int,
) -> int:
    """Forward connections until Ctrl-C. SPEC is [BIND:]PORT:HOST:PORT.

    \b
    rshell forward pump-17 8080:localhost:80       our port 8080 is its web server
    rshell forward pump-17 0:localhost:5432        any free port; it is printed
    rshell forward pump-17 8080:localhost:80 2222:localhost:22
    rshell forward pump-17 2375:/run/docker.sock   a unix socket, on either side
    rshell forward pump-17 '*:8080:10.0.0.7:80'    for everybody, to what the device reaches
    rshell forward -R pump-17 9000:localhost:9000  its port 9000 is ours
    ssh -o ProxyCommand='rshell forward --stdio pump-17 localhost:22' root@pump-17

    Without BIND only this machine can connect (with -R: only the device itself). Where it may
    connect to, the device's policy says (forward, by default itself only), and where it may
    listen (forward_back, by default nowhere).

    Connections survive a link that breaks for less than a minute. One that fails is told on
    standard error; the others go on.

    Exit status: 130 after Ctrl-C, 255 if it cannot begin or go on; with --stdio 0 once both
    directions have ended.
    """
    settings = settings_of(context)
    if not names_one(device):
        raise click.UsageError("forward takes one device, by its name or id")
    if stdio:
        if back or len(specs) != 1 or settings.json:
            raise click.UsageError("--stdio takes one HOST:PORT or PATH, and neither -R nor --json")
        target = _understood(parse_place, specs[0])

        async def joined(surroundings: Surroundings, client: Client) -> int:
            return await StdioForward(surroundings, client, device, target).run()

        return run_with_client(settings.home, joined)
    wanted = [_understood(parse_spec, spec) for spec in specs]

    _raise_descriptors(connections * len(specs))

    async def main(surroundings: Surroundings, client: Client) -> int:
        told = _Told(surroundings, device, settings.json, verbose)
        forwarding = _Forwarding(surroundings, client, device, told, connections)
        return await forwarding.run(wanted, back)

    return run_with_client(settings.home, main)


Parsed = TypeVar("Parsed")


def _understood(parse: Callable[[str], Parsed], text: str) -> Parsed:
    """Return what a word of the command line means.

    Raises:
        click.UsageError: Nothing: that is wrong usage, and not a forward that failed.
    """
    try:
        return parse(text)
    except RshellError as error:
        hint = f": {error.hint}" if error.hint else ""
        raise click.UsageError(error.message + hint) from None


class _Told:
    """What the user is told: lines for people, or JSON."""

    def __init__(self, surroundings: Surroundings, device: str, json: bool, verbose: bool) -> None:
        self._outputs = Outputs(surroundings.reactor)
        self._device = device
        self._json = json
        self._verbose = verbose
        self.notice = notice_for(surroundings.reactor, partial(self._outputs.write, stderr=True))

    def listening(self, spec: ForwardSpec, place: Place, back: bool) -> None:
        """A forward has begun."""
        if self._json:
            self._object(spec, listening=_shown(place))
            return
        here, there = str(place), str(spec.target)
        device = printable(self._device, 64)
        line = f"{device} {here} -> {there}" if back else f"{here} -> {device} {there}"
        self._outputs.write(f"{line}\n".encode(), False)

    def begun(self, spec: ForwardSpec, connection: ForwardConnection) -> None:
        """A connection is let through."""
        if not self._verbose:
            return
        if self._json:
            self._object(spec, connection=connection.number, begun={"from": connection.peer})
        else:
            self._line(f"connection {connection.number}{_from(connection.peer)}: {spec.text}")

    def over(self, spec: ForwardSpec, connection: ForwardConnection) -> None:
        """A connection has ended."""
        outcome = connection.outcome
        failed = outcome is not None and outcome.status != "ok" and outcome.code != BROKEN_HERE
        if outcome is None or not (failed or self._verbose):
            return
        if self._json:
            ended: dict[str, Any] = {"sent": connection.sent, "received": connection.received}
            shown = {"status": outcome.status, "code": outcome.code, "message": outcome.message}
            ended |= {key: value for key, value in shown.items() if value is not None}
            self._object(spec, connection=connection.number, ended=ended)
            return
        what = f"connection {connection.number}"
        if self._verbose:
            what += f": {connection.sent:,} bytes sent, {connection.received:,} received"
        else:
            what += _from(connection.peer)
        self._line(what if outcome.status == "ok" else f"{what}: {_why(outcome)}")

    def failed(self, spec: ForwardSpec, number: int, peer: str, outcome: Outcome) -> None:
        """A connection that came to the device could not go on here."""
        if self._json:
            shown = {"status": outcome.status, "code": outcome.code, "message": outcome.message}
            self._object(spec, connection=number, ended={"sent": 0, "received": 0, **shown})
        else:
            self._line(f"connection {number}{_from(peer)}: {spec.target}: {_why(outcome)}")

    def _object(self, spec: ForwardSpec, **more: Any) -> None:
        shown = {"device": self._device, "forward": spec.text, **more}
        self._outputs.write(encode_json(shown) + b"\n", False)

    def _line(self, text: str) -> None:
        line = f"rshell: {printable(self._device, 64)}: {printable(text, 600)}\n"
        self._outputs.write(line.encode(), True)

    async def drained(self) -> None:
        """Wait until all is written."""
        self.notice.stop()
        await self._outputs.drained()


@attrs.frozen
class _Watcher:
    """Tells of one forward's connections."""

    device: str
    spec: ForwardSpec
    told: _Told

    def connection_begun(self, connection: ForwardConnection) -> None:
        self.told.begun(self.spec, connection)

    def connection_over(self, connection: ForwardConnection) -> None:
        self.told.over(self.spec, connection)

    def link_changed(self, away: Away | None) -> None:
        self.told.notice.changed(self.device, away)


class _Forwarding:
    """All forwards of one command, until something ends it."""

    def __init__(
        self,
        surroundings: Surroundings,
        client: Client,
        device: str,
        told: _Told,
        connections: int,
    ) -> None:
        self._surroundings = surroundings
        self._client = client
        self._device = device
        self._told = told
        self._connections = connections
        self._over: Deferred[RshellError | int] = Deferred()
        self._forwards: list[Forward | BackForward] = []
        self._begun = False
        self._numbers = itertools.count(1)
        surroundings.interrupts.act = self._interrupted

    async def run(self, specs: list[ForwardSpec], back: bool) -> int:
        """Begin them all; return the exit status of their end.

        Raises:
            RshellError: One of them cannot begin, or go on.
        """
        try:
            if not back:
                await self._begin([(spec, self._forward(spec)) for spec in specs])
            else:
                await self._begin_back([(spec, self._back(spec)) for spec in specs])
            self._begun = True
            self._client.when_closed().addCallback(self._refused)
            how = await self._over
        finally:
            for one in self._forwards:
                await one.close()
            await self._told.drained()
        if isinstance(how, RshellError):
            raise how
        return how

    def _options(self, spec: ForwardSpec) -> dict[str, Any]:
        watcher = _Watcher(self._device, spec, self._told)
        return {
            "watcher": watcher,
            "max_connections": self._connections,
            "numbers": self._numbers,
        }

    def _forward(self, spec: ForwardSpec) -> Forward:
        one = Forward(
            self._client,
            self._surroundings.reactor,
            self._device,
            spec.target,
            **self._options(spec),
        )
        self._forwards.append(one)
        return one

    def _back(self, spec: ForwardSpec) -> BackForward:
        reactor = self._surroundings.reactor
        endpoint = _client_endpoint(reactor, spec.target)
        one = BackForward(
            self._client, reactor, self._device, spec.listen, endpoint, **self._options(spec)
        )
        one.failed = partial(self._told.failed, spec)
        self._forwards.append(one)
        return one

    async def _begin(self, forwards: list[tuple[ForwardSpec, Forward]]) -> None:
        for _, one in forwards:
            await one.check()
        for spec, one in forwards:
            place = await one.listen(_server_endpoint(self._surroundings.reactor, spec.listen))
            self._told.listening(spec, place, False)

    async def _begin_back(self, forwards: list[tuple[ForwardSpec, BackForward]]) -> None:
        for spec, one in forwards:
            place = await one.listen()
            one.ended.addCallback(self._listener_over)
            self._told.listening(spec, place, True)

    def _listener_over(self, outcome: Outcome) -> None:
        if not self._over.called:
            text = f"{self._device} listens no more: {outcome.message or outcome.status}"
            self._over.callback(RshellError(outcome.code or outcome.status, text))

    def _refused(self, error: RshellError) -> None:
        """The gateway wants us no more; without a connection no session would tell."""
        if not self._over.called:
            self._over.callback(error)

    def _interrupted(self, count: int) -> None:
        status = self._surroundings.interrupts.status
        if count > 1 or self._over.called or not self._begun:
            self._surroundings.leave(status)
        else:
            self._over.callback(status)


def _raise_descriptors(wanted: int) -> None:
    """Let this process have a socket for each connection, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_DESCRIPTORS
    if resource.RLIM_INFINITY not in (soft, hard):
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _server_endpoint(reactor: Any, place: Place) -> IStreamServerEndpoint:
    if place.path:
        try:
            remove_stale(place.path)
        except OSError as error:
            text = f"cannot listen at {printable(place.path, 200)}: {error.strerror}"
            raise RshellError("cannot-listen", text) from None
        unix: IStreamServerEndpoint = UNIXServerEndpoint(
            reactor, place.path, backlog=BACKLOG, mode=0o600, wantPID=0
        )
        return unix
    host = "127.0.0.1" if place.host in ("", "localhost") else place.host
    host = "" if host == "*" else host
    kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    tcp: IStreamServerEndpoint = kind(reactor, place.port, backlog=BACKLOG, interface=host)
    return tcp


def _client_endpoint(reactor: Any, place: Place) -> IStreamClientEndpoint:
    endpoint: IStreamClientEndpoint
    if place.path:
        endpoint = UNIXClientEndpoint(reactor, place.path, CONNECT_SECONDS)
    else:
        endpoint = HostnameEndpoint(
            reactor, place.request["host"].encode(), place.port, CONNECT_SECONDS
        )
    return endpoint


def _shown(place: Place) -> dict[str, Any]:
    return {"path": place.path} if place.path else {"host": place.host, "port": place.port}


def _from(peer: str) -> str:
    return f" from {peer}" if peer else ""


def _why(outcome: Outcome) -> str:
    if outcome.status in ("error", "refused"):
        return outcome.message or outcome.code or outcome.status
    return describe_outcome(outcome)
