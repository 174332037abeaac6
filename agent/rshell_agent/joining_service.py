"""The agent of a device that has not joined yet: it asks until it is let in, then is the agent.

So an image for many devices needs a join string in HOME/join and no person: each device makes a key
of its own, and goes on asking after every restart.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.logger import Logger

from rshell.identity.credentials import CredentialsDamaged, CredentialStore
from rshell_agent.home import HomeLock, state_directory
from rshell_agent.joining import (
    BadJoinFile,
    JoinFailed,
    Joining,
    JoinWish,
    fingerprint_of,
    read_wish,
)
from rshell_agent.service import NotJoined
from rshell_agent.status import Status, StatusFile
from rshell_agent.watchdog import Watchdog

__all__ = ["JoiningAgent", "wish_of_home"]


def wish_of_home(home: Path) -> JoinWish | None:
    """Return what a home that has not joined waits for, None if it has, or waits for nothing.

    Raises:
        NotJoined: It has not joined, and its file cannot be used.
    """
    try:
        if CredentialStore(home).load() is not None:
            return None
    except (CredentialsDamaged, OSError):
        return None  # the agent says what is wrong
    try:
        return read_wish(home)
    except BadJoinFile as error:
        raise NotJoined(str(error)) from None


class JoiningAgent(Service):
    """Joins, and then is the agent.

    Args:
        reactor: Its clock must be monotonic already.
        home: The agent's home.
        wish: What to join.
        make_agent: Makes the agent's service, once the home has joined.
        watchdog: Hears that we live.

    Raises:
        HomeInUse: An agent runs on the home.
        UnsafeDirectory: The home is open to others.
        OSError: The home cannot be used.
    """

    name = "rshell-agent"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        home: Path,
        wish: JoinWish,
        make_agent: Callable[[], Service],
        watchdog: Watchdog,
    ) -> None:
        self._reactor = reactor
        self._home = home.absolute()
        self._wish = wish
        self._make_agent = make_agent
        self._watchdog = watchdog
        state_directory(self._home)
        self._lock: HomeLock | None = HomeLock(self._home)
        try:
            self._fingerprint = fingerprint_of(self._home)
        except BaseException:
            self._unlock()
            raise
        self._agent: Service | None = None
        self._working: Deferred[None] | None = None
        self._last_error = ""
        self._status = StatusFile(self._home, reactor, self._gather)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's is untyped
        self._log.info(
            "asking {host}:{port} to be let in; this device's fingerprint is {key}",
            host=self._wish.join_string.host,
            port=self._wish.join_string.port,
            key=self._fingerprint,
        )
        self._watchdog.start()
        self._status.write()
        self._working = Deferred.fromCoroutine(self._work())
        self._working.addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's is untyped
        if self._agent is not None:
            return maybeDeferred(self._agent.stopService)
        if self._working is not None:
            self._working.cancel()
        self._watchdog.stop()
        if self._lock is not None:
            self._status.close()
        self._unlock()
        return succeed(None)

    async def _work(self) -> None:
        chance = random.SystemRandom()
        joining = Joining(
            self._reactor, self._home, self._wish, chance.uniform, self._told, give_up=False
        )
        joined = await joining.joined()
        self._log.info("joined as {name} ({id})", name=joined.name, id=joined.id)
        self._status.stop()
        self._unlock()
        self._agent = self._make_agent()
        self._agent.startService()

    def _told(self, error: JoinFailed) -> None:
        text = "" if error.pending else f"{error.code}: {error.message}"
        if text != self._last_error and text:
            self._log.warn("not let in yet: {why}", why=text)
        elif error.pending and not self._last_error:
            self._log.debug("waiting to be accepted")
        self._last_error = text
        self._status.changed()

    def _failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        self._log.error("cannot join: {reason}", reason=failure.getErrorMessage())
        self._reactor.stop()

    def _gather(self) -> Status:
        string = self._wish.join_string
        return Status(
            state="pending" if self.running else "stopped",
            gateway=f"{string.host}:{string.port}",
            name=self._wish.name or "",
            last_error=self._last_error,
            fingerprint=self._fingerprint,
        )

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
