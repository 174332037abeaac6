"""From "host:port" to the addresses that a dialler tries one by one."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

__all__ = ["BadAddress", "NameLookup", "resolve", "split_address"]

DEFAULT_PORT = 7411
#: A resolver answers within its own retries, or hangs for minutes: longer than this is no answer.
LOOKUP_SECONDS = 10.0
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)


class BadAddress(ValueError):
    """Text that is no "host:port"; the message is one line for a person."""


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``host`` or ``[IPv6]:port``.

    Raises:
        BadAddress: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or host.count(":") != text.count(":") - 1 or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    valid = _is_ipv6(host) if bracketed else _HOST.fullmatch(host) is not None
    if not valid or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise BadAddress(f"{text[:80]!r} is not an address: write host:port or [IPv6]:port")
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


Look = Callable[[str, int, int], list[str]]


def _look(host: str, port: int, flags: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _in_daemon(work: Callable[[], None]) -> None:
    # not the reactor's pool, which is waited for at the end: a resolver may hang for minutes
    Thread(target=work, daemon=True).start()


class NameLookup:
    """Asks the system's resolver, which cannot be told to stop.

    Each name that is being looked up has one thread of its own, however often it is asked for: a
    resolver that hangs costs a thread for each name, and keeps neither another name from being
    found nor the process from ending, as it would in the reactor's pool.

    Args:
        reactor: Its ``callFromThread`` and ``callLater``.
        look: (host, port, flags) -> addresses; `socket.getaddrinfo` by default.
        in_thread: Runs the look-up of one name beside the reactor.
        timeout_seconds: What one question may take.
    """

    def __init__(
        self,
        reactor: Any,
        look: Look = _look,
        in_thread: Callable[[Callable[[], None]], None] = _in_daemon,
        timeout_seconds: float = LOOKUP_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._look = look
        self._in_thread = in_thread
        self._timeout = timeout_seconds
        self._waiting: dict[tuple[str, int], list[Deferred[list[str]]]] = {}

    def resolve(self, host: str, port: int) -> Deferred[list[str]]:
        """Find all addresses of ``host``.

        Args:
            host: A DNS name, or an IPv4 or IPv6 address without brackets.
            port: TCP port, only passed on to the resolver.

        Returns:
            A Deferred with IPv4 and IPv6 addresses, at least one, in the resolver's order; it
            fails with OSError when there is none in time.
        """
        try:
            return succeed(_look(host, port, socket.AI_NUMERICHOST))
        except (OSError, ValueError):
            pass  # a name; what is wrong with it the look-up says
        answer: Deferred[list[str]] = Deferred()
        waiting = self._waiting.get((host, port))
        if waiting is None:
            self._waiting[host, port] = [answer]
            self._in_thread(lambda: self._ask(host, port))
        else:
            waiting[:] = [other for other in waiting if not other.called]
            waiting.append(answer)
        return answer.addTimeout(self._timeout, self._reactor, self._late)

    def _late(self, _result: object, seconds: float) -> Any:
        raise TimeoutError(f"the resolver did not answer within {seconds:g} s")

    def _ask(self, host: str, port: int) -> None:
        result: list[str] | Failure
        try:
            result = self._look(host, port, 0)
        except (OSError, ValueError) as error:
            result = Failure(error if isinstance(error, OSError) else OSError(str(error)))
        except BaseException:  # whatever it is, those who wait must hear of it
            result = Failure()
        self._reactor.callFromThread(self._answered, (host, port), result)

    def _answered(self, name: tuple[str, int], result: list[str] | Failure) -> None:
        for answer in self._waiting.pop(name):
            if answer.called:
                continue  # too late for this one
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(list(result))


def resolve(reactor: Any, host: str, port: int) -> Deferred[list[str]]:
    """Find all addresses of ``host``, once; see `NameLookup.resolve`."""
    return NameLookup(reactor).resolve(host, port)
