"""Which addresses to try, and in which order: all of every gateway (rule C6, RFC 8305).

The order is random, so that a fleet spreads over its gateways; the address of the last healthy
link comes first.  An address that took a connection and gave no WELCOME is struck: it is tried when
all others have failed, so that something that answers quickly and does nothing keeps nobody away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain, zip_longest
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from rshell.link.addresses import split_address
from rshell_agent.journal import Journal

__all__ = ["Randomness", "Target", "Targets"]

#: Once one name is found, the others have this long: a resolver that hangs for one of them must
#: not keep us from the rest.
OTHERS_SECONDS = 1.0
#: At four a second (RFC 8305) the last one starts after eight seconds.
MAX_TARGETS = 32


@attrs.frozen
class Target:
    """One address of one gateway.

    Attributes:
        host: The name that its certificate must carry.
        address: IPv4 or IPv6; the name itself when a proxy resolves it.
        port: TCP port.
    """

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return self.host if self.host == self.address else f"{self.host} ({self.address})"


class Randomness(Protocol):
    """What the dialler needs of `random.Random`."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""

    def shuffle(self, x: list[Any]) -> None:
        """Put the list into random order."""


class Targets:
    """Finds the addresses and remembers how they fared.

    Args:
        clock: For waiting.
        gateways: Returns the "host:port" of every gateway, asked for at each search.
        resolve: (host, port) -> Deferred of addresses, which ends by itself.
        random: For the order.
        journal: Is told of names that are not found.
    """

    def __init__(
        self,
        clock: IReactorTime,
        gateways: Callable[[], tuple[str, ...]],
        resolve: Callable[[str, int], Deferred[list[str]]],
        random: Randomness,
        journal: Journal,
    ) -> None:
        self._clock = clock
        self._gateways = gateways
        self._resolve = resolve
        self._random = random
        self._journal = journal
        self._strikes: dict[Target, int] = {}
        self._healthy: Target | None = None
        #: What each name meant last, for when the resolver is out of order.
        self._known: dict[str, list[Target]] = {}

    async def find(
        self, preferred: Collection[str] = (), avoid: Target | None = None
    ) -> list[list[Target]]:
        """Look up all gateways and put their addresses in order.

        Args:
            preferred: Gateways ("host:port") to try before the others.
            avoid: An address that is about to go away: its gateway is tried last.

        Returns:
            Groups of addresses: the first is tried as a whole, then the next.

        Raises:
            OSError: There is no address at all; the message says why for each name.
        """
        gateways = self._gateways()
        found, reasons = await self._look_up_all(gateways)
        first = [t for name in gateways if name in preferred for t in found.get(name, ())]
        rest = [t for name in gateways if name not in preferred for t in found.get(name, ())]
        ordered = [*self._shuffled(first), *self._shuffled(rest)]
        if not ordered:
            raise OSError("; ".join(reasons)[:200] or "no gateway is configured")
        if not first and self._healthy in ordered:
            ordered.remove(self._healthy)
            ordered.insert(0, self._healthy)
        groups: dict[tuple[bool, int], list[Target]] = {}
        for target in ordered[:MAX_TARGETS]:
            last = avoid is not None and (target.host, target.port) == (avoid.host, avoid.port)
            groups.setdefault((last, self._strikes.get(target, 0)), []).append(target)
        known = set(ordered)
        self._strikes = {t: count for t, count in self._strikes.items() if t in known}
        return [groups[key] for key in sorted(groups)]

    def failed(self, target: Target) -> None:
        """It took a connection, but gave no WELCOME."""
        self._strikes[target] = self._strikes.get(target, 0) + 1
        if self._healthy == target:
            self._healthy = None

    def welcomed(self, target: Target) -> None:
        """It gave a WELCOME."""
        self._strikes.pop(target, None)

    def lived(self, target: Target, *, healthy: bool) -> None:
        """A link to it is over; ``healthy`` if it lasted."""
        self._healthy = target if healthy else None

    def _shuffled(self, targets: list[Target]) -> list[Target]:
        """Return them in random order, IPv6 and IPv4 in turn."""
        self._random.shuffle(targets)
        six = [target for target in targets if ":" in target.address]
        four = [target for target in targets if ":" not in target.address]
        pairs: Sequence[tuple[Target | None, Target | None]] = list(zip_longest(six, four))
        return [target for target in chain.from_iterable(pairs) if target is not None]

    # -- names ---------------------------------------------------------------------------------

    async def _look_up_all(
        self, gateways: tuple[str, ...]
    ) -> tuple[dict[str, list[Target]], list[str]]:
        """Ask for all names at once; return what was found, and why the rest was not."""
        search = _Search(self._clock)
        lookups = [search.add(name, self._look_up(name)) for name in gateways]
        try:
            await search.finished()
        finally:
            search.stop()
            for lookup in lookups:
                lookup.cancel()
        reasons = []
        for name in gateways:
            if name in search.found:
                self._known[name] = search.found[name]
                continue
            reason = search.reasons.get(name, "the resolver is slow")
            reasons.append(f"{name}: {reason}")
            self._journal.note("dns", reason, target=name)
            if name in self._known:
                search.found[name] = list(self._known[name])
        self._known = {name: self._known[name] for name in gateways if name in self._known}
        return search.found, reasons

    def _look_up(self, name: str) -> Deferred[list[Target]]:
        async def targets() -> list[Target]:
            host, port = split_address(name)
            return [Target(host, address, port) for address in await self._resolve(host, port)]

        return Deferred.fromCoroutine(targets())


class _Search:
    """Several lookups under way.

    Attributes:
        found: Targets by name.
        reasons: Why a name was not found.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.found: dict[str, list[Target]] = {}
        self.reasons: dict[str, str] = {}
        self._clock = clock
        self._open = 0
        self._asked = False
        self._over = False
        self._timer: IDelayedCall | None = None
        self._finished: Deferred[None] = Deferred()

    def add(self, name: str, lookup: Deferred[list[Target]]) -> Deferred[Any]:
        """Wait for one more lookup."""
        self._open += 1
        lookup.addCallbacks(self._found, self._failed, callbackArgs=(name,), errbackArgs=(name,))
        return lookup

    def finished(self) -> Deferred[None]:
        """Return what fires when all have ended, or a second after the first success."""
        self._asked = True
        self._check()
        return self._finished

    def stop(self) -> None:
        """Take no more answers."""
        self._over = True
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _found(self, targets: list[Target], name: str) -> None:
        self._open -= 1
        if self._over:
            return
        self.found[name] = targets
        self._check()

    def _failed(self, failure: Failure, name: str) -> None:
        self._open -= 1
        if self._over:
            return
        self.reasons[name] = getattr(failure.value, "strerror", None) or failure.getErrorMessage()
        self._check()

    def _check(self) -> None:
        if not self._asked:
            return
        if not self._open:
            self._fire()
        elif self.found and self._timer is None:
            self._timer = self._clock.callLater(OTHERS_SECONDS, self._fire)

    def _fire(self) -> None:
        if not self._finished.called:
            self._finished.callback(None)
