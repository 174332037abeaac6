"""``twistd rshell``: options, the service, the ports.  The only place with the global reactor."""

from __future__ import annotations

import gc
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from twisted.application import service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from rshell import __version__
from rshell.doors.link import LinkDoor
from rshell.gateway.arrivals import MAX_WAITING, Arrivals
from rshell.gateway.config import (
    BadConfig,
    GatewayConfig,
    default_home,
    read_config_file,
    split_host,
)
from rshell.gateway.core import Gateway, tls_of
from rshell.gateway.door_services import SshAddress
from rshell.gateway.handshake_cost import affordable_rate, handshake_seconds
from rshell.gateway.home import GatewayHome, HomeError, lock_home, prepare_home
from rshell.identity.tls import GatewayTLS
from rshell.link.clock import TimerWheel, use_monotonic_clock
from rshell.link.polling import poll_lightly
from rshell.store.errors import StoreError
from rshell.store.store import Store
from rshell.store.threads import PooledThreads

if TYPE_CHECKING:
    from rshell.doors.console.door import Consoles

__all__ = ["CannotStart", "GatewayService", "Options", "makeService"]

_TCP = {"tcp", "tcp4", "tcp6"}
_WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104  # compared with, never bound


#: Objects made and not freed between two looks for garbage in cycles, and how many of these make
#: a deeper one.  Python's 700 suits a program of a second: here nearly all that ends is freed at
#: once, and 5,000 commands under way are half a million objects, walked over and over.
_COLLECT_AFTER = (20_000, 20, 20)


class CannotStart(Exception):
    """The gateway cannot start; the text is one line that says what to do."""


class Options(usage.Options):
    """Command line of ``twistd rshell``."""

    synopsis = "[twistd options] rshell [options]"
    longdesc = (
        "The rshell gateway: accepts the links of your devices and operators over mutual TLS. "
        "An empty home is set up on the first start. Example: "
        "twistd -n rshell --home /var/lib/rshell --links tcp:7411 --advertise gw.example.net"
    )
    optParameters = [
        [
            "home",
            None,
            None,
            "Directory of keys and data (default: $RSHELL_HOME, else "
            "/var/lib/rshell for root, else ~/.local/state/rshell).",
        ],
        [
            "config",
            "c",
            None,
            "TOML file: [gateway] links, ssh, web, advertise, advertise_ssh; "
            "[admission] handshakes_per_second; [clones] action; [recordings] shell, keep_days, "
            "keep_bytes, on_failure; [audit] syslog; [ssh] rekey_bytes, rekey_seconds.",
        ],
        [
            "ssh",
            None,
            None,
            "Endpoint of the ssh door, e.g. tcp:2222; without it, and if empty, it is off.",
        ],
        [
            "advertise-ssh",
            None,
            None,
            "HOST or HOST:PORT where operators' ssh dials that door, if it is not the first "
            "--advertise and the port where it listens.",
        ],
        ["web", None, None, "Endpoint of the web door; empty is off."],
    ]
    compData = usage.Completions(
        optActions={"home": usage.CompleteDirs(), "config": usage.CompleteFiles()}
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in Twisted
        self["links"] = []
        self["advertise"] = []

    def opt_links(self, endpoint: str) -> None:
        """Twisted endpoint for links, e.g. tcp:0:interface=127.0.0.1; repeatable (tcp:7411)."""
        self["links"].append(endpoint)

    def opt_advertise(self, host: str) -> None:
        """HOST or HOST:PORT that devices and operators dial; repeatable."""
        self["advertise"].append(host)

    def opt_version(self) -> NoReturn:
        """Show the version of rshell and exit."""
        sys.stdout.write(f"rshell {__version__}\n")
        sys.exit(0)

    def config_record(self) -> GatewayConfig:
        """Return the validated settings: defaults, then the config file, then the options.

        Raises:
            BadConfig: One of them cannot be used.
        """
        home = Path(self["home"]) if self["home"] else default_home()
        config = GatewayConfig(home=Path(os.path.abspath(home)))
        if self["config"]:
            config = read_config_file(Path(self["config"]), config)
        links = tuple(endpoint for endpoint in self["links"] if endpoint)
        if self["links"]:
            config = attrs.evolve(config, links=links)
        given = {
            name: self[option]
            for name, option in (
                ("ssh", "ssh"),
                ("web", "web"),
                ("advertise_ssh", "advertise-ssh"),
            )
            if self[option] is not None
        }
        if self["advertise"]:
            given["advertise"] = tuple(self["advertise"])
        config = attrs.evolve(config, **given)
        for text in (*config.advertise, *filter(None, (config.advertise_ssh,))):
            split_host(text)
        if not config.links:
            raise BadConfig("a gateway without links reaches no device: give --links ENDPOINT")
        return config


class GatewayService(service.Service):
    """Runs one gateway: store, ports, and what lies between.

    Args:
        config: Validated.
        home: Prepared.
        reactor: Provides time, TCP and threads.
        pidfile: twistd's, to be removed by a start that fails; "" for none.
    """

    _log = Logger()

    def __init__(
        self, config: GatewayConfig, home: GatewayHome, reactor: Any, pidfile: str = ""
    ) -> None:
        self._pidfile = pidfile
        self._config = config
        self._home = home
        self._reactor = reactor
        self._ports: list[Any] = []  # IListeningPort with a TCP address and a read switch
        self._ssh_port: Any = None
        self._store: Store | None = None
        self._gateway: Gateway | None = None
        self._wheel: TimerWheel | None = None
        self._arrivals: Arrivals | None = None
        self._starting: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Bind the ports: a port that cannot be bound ends the start (twistd then fails).

        Raises:
            CannotStart: Nothing was left running.
        """
        use_monotonic_clock(self._reactor)
        poll_lightly(self._reactor)
        self._home.remove_endpoints()
        try:
            self._store = Store.open(
                self._home.database,
                PooledThreads(self._reactor.callFromThread, call_later=self._reactor.callLater),
            )
            self._open_ports(self._store)
        except BaseException as error:
            self._remove_pidfile()
            for port in self._all_ports():
                port.stopListening()
            if self._store is not None:
                # Its threads would keep a process alive that has nothing to do.  Nothing is
                # queued, so this joins them at once.
                self._store.close()
            if isinstance(error, StoreError):
                raise CannotStart(str(error)) from None
            raise

    def _open_ports(self, store: Store) -> None:
        wheel = self._wheel = TimerWheel(self._reactor)
        files = raise_descriptor_limit()
        tls = tls_of(self._home)
        gateway = self._gateway = Gateway(
            self._home,
            store,
            wheel,
            handshakes_per_second=self._handshake_rate(tls),
            clone_action=self._config.clones,
            recording=self._config.recordings,
            recording_threads=PooledThreads(
                self._reactor.callFromThread, readers=1, name="rshell-recordings"
            ),
            syslog=self._config.syslog,
            tell_watched=self._config.tell_watched,
        )
        door = LinkDoor(gateway)
        self._serve_consoles(gateway, door)
        self._arrivals = Arrivals(
            gateway.tls,
            wheel,
            gateway.devices,
            door,
            gateway.joiner,
            # Strangers must not use up the descriptors of those who are known.
            min(MAX_WAITING, files // 4),
            admission=gateway.admission,
            metrics=gateway.metrics,
            max_files=files,
        )
        for endpoint in self._config.links:
            self._ports.append(self._listen("--links", endpoint, self._arrivals.wrapped()))
        if self._config.ssh:
            ssh, host_key = self._ssh_door(gateway, door.consoles)
            self._ssh_port = self._listen("--ssh", self._config.ssh, ssh)
            bound = self._ssh_port.getHost()
            host, port = self._config.ssh_address((bound.host, bound.port), gateway.name)
            gateway.ssh_door = SshAddress(host, port, (host_key,))
        gateway.advertised = self._advertised()

    def _all_ports(self) -> list[Any]:
        return self._ports + ([self._ssh_port] if self._ssh_port is not None else [])

    def _ssh_door(
        self, gateway: Gateway, consoles: Consoles | None
    ) -> tuple[IProtocolFactory, str]:
        """Return the door, and its host key as in ``known_hosts``."""
        try:
            # Late: conch takes a while to import, and is needed for this door only.
            from rshell.doors.ssh.door import SshDoor
            from rshell.doors.ssh.host_key import HostKeyDamaged, load_host_key
            from rshell.doors.ssh.transport import Rekeying
        except ImportError as error:
            raise CannotStart(
                f"--ssh needs {error.name}: pip install 'rshell[gateway]', or leave --ssh out"
            ) from None
        try:
            key = load_host_key(self._home.path)
        except (HostKeyDamaged, OSError) as error:
            raise CannotStart(f"the ssh door: {error}") from None
        told = " ".join(key.public().toString("OPENSSH").decode("ascii").split()[:2])
        console = None if consoles is None else consoles.for_door
        rekeying = Rekeying(self._config.ssh_rekey_bytes, self._config.ssh_rekey_seconds)
        return SshDoor(gateway, key, console=console, rekeying=rekeying), told

    def _serve_consoles(self, gateway: Gateway, door: LinkDoor) -> None:
        try:
            # Late: conch takes half a second to import.
            from rshell.doors.console.door import Consoles
            from rshell.doors.console.watchdog import Watchdog
        except ImportError as error:
            self._log.warn("no console: {name} is not installed", name=error.name)
            return
        door.consoles = Consoles(gateway, self._reactor, door.vouch, Watchdog(gateway.wheel))

    def _handshake_rate(self, tls: GatewayTLS) -> float:
        """Return handshakes a second at most: as configured, else what this machine can do."""
        if self._config.handshakes_per_second is not None:
            return self._config.handshakes_per_second
        seconds = handshake_seconds(tls, self._home.keys)
        rate = affordable_rate(seconds)
        self._log.info(
            "a handshake takes {ms:.2f} ms: at most {rate:.0f} a second will begin",
            ms=seconds * 1000,
            rate=rate,
        )
        return rate

    def _listen(self, option: str, endpoint: str, factory: IProtocolFactory) -> Any:
        result: list[Any] = []
        try:
            server = serverFromString(self._reactor, with_backlog(endpoint))
            listening = server.listen(factory)
        except Exception as error:  # whatever the parsers of all kinds of endpoints raise
            raise CannotStart(f"{option} {endpoint}: not a server endpoint ({error})") from None
        listening.addBoth(result.append)
        outcome = result[0] if result else None
        if isinstance(outcome, Failure):
            reason: Any = outcome.value
            if isinstance(reason, CannotListenError):
                reason = getattr(reason.socketError, "strerror", None) or reason.socketError
            raise CannotStart(f"cannot listen on {endpoint}: {reason}")
        if outcome is None:
            raise CannotStart(f"{endpoint} cannot be listened on at once")
        if not isinstance(outcome.getHost(), IPv4Address | IPv6Address):
            what = option.removeprefix("--")
            raise CannotStart(f"{option} {endpoint}: {what} need a TCP endpoint, such as tcp:7411")
        # Until the service is started nobody is answered.
        outcome.stopReading()
        return outcome

    def _advertised(self) -> list[tuple[str, int]]:
        port = self._ports[0].getHost().port
        if self._config.advertise:
            pairs = [split_host(text) for text in self._config.advertise]
            return [(host, given or port) for host, given in pairs]
        host = self._ports[0].getHost().host
        if host not in _WILDCARDS:
            return [(host, port)]
        self._log.warn(
            "devices will be told to dial {name}:{port}; give --advertise HOST if they cannot",
            name=self._gateway.name if self._gateway else "",
            port=port,
        )
        return [(self._gateway.name if self._gateway else "localhost", port)]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # untyped in Twisted
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._failed)

    async def _start(self) -> None:
        assert self._gateway is not None
        if self._config.web:
            self._log.warn(
                "--web {endpoint}: this release has no web door; it stays closed",
                endpoint=self._config.web,
            )
        await self._gateway.start()
        for port in self._all_ports():
            port.startReading()
        addresses = [self._local_address(port) for port in self._ports]
        endpoints: dict[str, object] = {"links": addresses[0], "links_all": addresses}
        ssh = ""
        if self._ssh_port is not None:
            endpoints["ssh"] = self._local_address(self._ssh_port)
            ssh = f", ssh on {endpoints['ssh']}"
        self._home.write_endpoints(endpoints)
        self._log.info(
            "rshell {version} gateway of fleet {fleet}: links on {links}{ssh}, home {home}",
            version=__version__,
            fleet=self._home.keys.fleet,
            links=", ".join(addresses),
            ssh=ssh,
            home=self._home.path,
        )

    @staticmethod
    def _local_address(port: Any) -> str:
        address = port.getHost()
        host = "127.0.0.1" if address.host in _WILDCARDS else address.host
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, StoreError | OSError):
            self._log.error("the gateway could not start: {why}", why=str(failure.value))
            _say(f"the gateway could not start: {failure.value}")
        else:
            self._log.failure("the gateway could not start", failure)
        if not self.running:
            return
        self._remove_pidfile()
        # twistd knows no other way to end with a failing status once the reactor runs.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _remove_pidfile(self) -> None:
        """Leave none behind: in a container the next start may have the same number."""
        if self._pidfile:
            Path(self._pidfile).unlink(missing_ok=True)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]  # untyped in Twisted
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            await self._starting
        self._home.remove_endpoints()
        for port in self._all_ports():
            await maybeDeferred(port.stopListening)
        self._ports.clear()
        self._ssh_port = None
        if self._gateway is not None:
            await self._gateway.stop()
        if self._store is not None:
            await self._store.close()
        if self._wheel is not None:
            self._wheel.stop()


def _say(line: str) -> None:
    """Write a line to the real standard error: twistd puts its log in the place of sys.stderr."""
    stderr = sys.__stderr__ or sys.stderr
    stderr.write(f"rshell: {line}\n")
    stderr.flush()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass  # a container may forbid it: what there is has to do
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def with_backlog(endpoint: str) -> str:
    """Return a TCP endpoint string with a listen backlog for a whole fleet that comes back.

    Twisted's default of 50 makes every connection beyond wait a second for its next SYN.
    """
    kind = endpoint.partition(":")[0]
    return f"{endpoint}:backlog=1024" if kind in _TCP and "backlog=" not in endpoint else endpoint


class _TwistdService(service.Service):
    """Adapts the service to twistd: a start that fails says one line and fails."""

    def __init__(self, inner: GatewayService, foreground: bool) -> None:
        self._inner = inner
        self._foreground = foreground

    def privilegedStartService(self) -> None:
        try:
            self._inner.privilegedStartService()
        except CannotStart as error:
            if self._foreground:
                # An exception would show as a traceback; the line is all there is to say.
                # By now twistd has turned sys.stderr into its log.
                stderr = sys.__stderr__ or sys.stderr
                stderr.write(f"rshell: {error}\n")
                stderr.flush()
                raise SystemExit(1) from None
            raise

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # untyped in Twisted
        self._inner.startService()
        _seldom_collect()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]  # untyped in Twisted
        return self._inner.stopService()


def makeService(options: Options) -> service.IService:
    """Build the service for twistd; whatever is wrong with settings or home ends it here."""
    from twisted.internet import reactor

    try:
        config = options.config_record()
        # Held until the process ends; a daemon inherits it.
        lock_home(config.home)
        home = prepare_home(config.home, config.names())
    except (BadConfig, HomeError) as error:
        raise SystemExit(f"rshell: {error}") from None
    parent: Any = options.parent
    foreground = parent is None or bool(parent.get("nodaemon"))
    pidfile = os.path.abspath(parent["pidfile"]) if parent and parent.get("pidfile") else ""
    return _TwistdService(GatewayService(config, home, reactor, pidfile), foreground)


def _seldom_collect() -> None:
    """Look for garbage in cycles less often, and never again among what start-up has made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
