"""Joining a fleet: from a join string to stored credentials, perhaps after a long wait.

A device that has to wait for an operator keeps its join string in HOME/join and asks again, with
the same key, until it is let in.  Whoever makes an image for many devices puts the string there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.files import write_atomic
from rshell.identity.join_string import BadJoinString, JoinString
from rshell.identity.joining import JoinFailed, join
from rshell.identity.keys import fingerprint, spki_hash
from rshell.link.core.messages import Joined
from rshell_agent.device import proposed_name
from rshell_agent.facts import brief_facts
from rshell_agent.home import HomeLock, state_directory

__all__ = [
    "AlreadyJoined",
    "BadJoinFile",
    "JoinFailed",
    "JoinWish",
    "Joining",
    "fingerprint_of",
    "forget_wish",
    "join_device",
    "keep_wish",
    "read_wish",
]

#: A join string has at most 512 characters; a file given by mistake is not read whole.
_MAX_FILE_BYTES = 4096
#: What a gateway takes in JOIN; it makes a name of at most 63 of it.
MAX_NAME_CHARACTERS = 64
#: Between tries that no gateway answered: soon for a glitch, then as rarely as while waiting.
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 600.0
#: What a gateway may ask for; more would look dead to whoever sits beside the device.
MAX_POLL_SECONDS = 3600.0
#: A device that was refused asks so rarely: somebody may yet invite its key.
REFUSED_RETRY_SECONDS = 3600.0


class AlreadyJoined(Exception):
    """This home has credentials; the message says what to do."""


class BadJoinFile(Exception):
    """HOME/join cannot be used; the message is one line for a person."""


@attrs.frozen
class JoinWish:
    """What a device wants to join, and as what.

    Attributes:
        join_string: As parsed.
        name: The name to propose; the host's name if None.
        force: Replace the credentials of a home that has joined already.
    """

    join_string: JoinString
    name: str | None = None
    force: bool = False


def read_wish(home: Path) -> JoinWish | None:
    """Return what HOME/join says, None if there is no such file.

    Its first line is a join string; ``name = N`` and ``force = yes`` may follow.

    Raises:
        BadJoinFile: It cannot be read or understood.
    """
    path = home / "join"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadJoinFile(f"{path} cannot be read: {error.strerror or error}") from None
    first, *rest = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    known: dict[str, str] = {}
    for line in rest:
        key, _, value = (part.strip() for part in line.partition("="))
        if key not in ("name", "force"):
            raise BadJoinFile(f"{path}: besides the join string it may say name and force")
        known[key] = value
    if len(known.get("name", "")) > MAX_NAME_CHARACTERS:
        raise BadJoinFile(f"{path}: a name has at most {MAX_NAME_CHARACTERS} characters")
    try:
        string = JoinString.parse(first)
    except BadJoinString as error:
        raise BadJoinFile(f"{path}: {error}") from None
    return JoinWish(string, known.get("name") or None, known.get("force") == "yes")


def keep_wish(home: Path, wish: JoinWish) -> None:
    """Write HOME/join, for its owner's eyes only.

    Raises:
        OSError: It cannot be written.
    """
    lines = [wish.join_string.encode()]
    # A name is whatever somebody typed; in the file it is one line.
    name = " ".join("".join(c if c.isprintable() else " " for c in wish.name or "").split())
    if name:
        lines.append(f"name = {name}")
    if wish.force:
        lines.append("force = yes")
    write_atomic(home / "join", ("\n".join(lines) + "\n").encode(), 0o600)


def forget_wish(home: Path) -> None:
    """Remove HOME/join: it was fulfilled, or never will be.

    Raises:
        OSError: It cannot be removed.
    """
    (home / "join").unlink(missing_ok=True)


def fingerprint_of(home: Path) -> str:
    """Return what people compare: of the key that this home joins with, made if need be.

    Raises:
        UnsafeDirectory: The home is open to others.
        OSError: The home cannot be written.
    """
    return fingerprint(spki_hash(CredentialStore(home).pending_key().public_key()))


async def join_device(
    reactor: Any, home: Path, join_string: JoinString, name: str | None = None, force: bool = False
) -> Joined:
    """Make a key, join with it, and store what comes back; ask once.

    A join whose answer was lost is completed by calling this again: the key is on disk before it
    is used, and the gateway answers the same key alike for 15 minutes (rule J4).

    Args:
        reactor: Where the connection lives.
        home: The agent's home; created if absent.
        join_string: As parsed; it is spent by this.
        name: The name to propose; the host's name if None.
        force: Replace the credentials of a home that has joined already.

    Returns:
        The gateway's answer: the fleet, this device's id and name.

    Raises:
        AlreadyJoined: There are credentials, and no ``force``.
        HomeInUse: An agent runs on this home.
        JoinFailed: The gateway could not be reached or trusted, refused, or has us wait.
        UnsafeDirectory: The home is open to others.
        OSError: The home cannot be written.
    """
    state_directory(home)
    lock = HomeLock(home)
    try:
        return await _join(reactor, home, JoinWish(join_string, name, force))
    finally:
        lock.release()


class Joining:
    """Asks until the device is let in.

    Args:
        reactor: Where connections and timers live.
        home: The agent's home, locked by the caller.
        wish: What to join, and as what.
        uniform: Draws a number between two.
        told: Called with each answer that is no admission, before the wait.
        give_up: Whether a refusal ends it; else the device asks on, rarely.
    """

    def __init__(
        self,
        reactor: Any,
        home: Path,
        wish: JoinWish,
        uniform: Callable[[float, float], float],
        told: Callable[[JoinFailed], None],
        *,
        give_up: bool,
    ) -> None:
        self._reactor = reactor
        self._home = home
        self._wish = wish
        self._uniform = uniform
        self._told = told
        self._give_up = give_up
        self._failures = 0
        self._kept = False

    async def joined(self, *, patient: bool = True) -> Joined:
        """Return the admission, after however long.

        Args:
            patient: Whether it waits also for a gateway that does not answer, before one has had
                this device wait.

        Raises:
            AlreadyJoined: There are credentials, and no ``force``.
            JoinFailed: As `join_device`, when asking again is of no use.
            UnsafeDirectory: The home is open to others.
            OSError: The home cannot be written.
        """
        while True:
            try:
                joined = await _join(self._reactor, self._home, self._wish)
            except JoinFailed as error:
                if error.final and self._give_up:
                    if self._kept:
                        forget_wish(self._home)
                    raise
                if error.pending and not patient:
                    keep_wish(self._home, self._wish)  # from now on it goes on after a restart
                    self._kept = patient = True
                if not patient:
                    raise
                self._told(error)
                await deferLater(self._reactor, self._wait_seconds(error))
            else:
                forget_wish(self._home)
                return joined

    def _wait_seconds(self, error: JoinFailed) -> float:
        if error.final:
            return self._uniform(1.0, 1.2) * REFUSED_RETRY_SECONDS
        if error.refused and error.retry_seconds:
            self._failures = 0
            return self._uniform(1.0, 1.2) * min(error.retry_seconds, MAX_POLL_SECONDS)
        self._failures = min(self._failures + 1, 16)
        most = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**self._failures)
        return self._uniform(FIRST_RETRY_SECONDS / 2, most)


async def _join(reactor: Any, home: Path, wish: JoinWish) -> Joined:
    state = state_directory(home)
    store = CredentialStore(home)
    if not wish.force:
        _check_new(store, home)
    key = store.pending_key()
    facts = brief_facts()
    proposal = wish.name or proposed_name(facts["hostname"])
    joined = await join(reactor, wish.join_string, "device", key, proposal, facts)
    try:
        credentials = Credentials.new(
            key, joined.chain.encode(), joined.root.encode(), tuple(joined.gateways)
        )
    except CredentialsDamaged as error:
        raise JoinFailed("protocol", f"the gateway's answer is of no use: {error}") from None
    if credentials.name.kind != "device":
        raise JoinFailed("protocol", "the gateway's answer is not for a device")
    store.save(credentials)
    store.confirm()  # another identity's slot is no fallback for this one
    _learn_time(state, joined.time_ms)
    return joined


def _check_new(store: CredentialStore, home: Path) -> None:
    try:
        found = store.load()
    except CredentialsDamaged:
        return
    if found is not None:
        raise AlreadyJoined(
            f"{home} has joined the fleet {found.name.fleet} as device {found.name.name}; "
            "use --force to join again, or --home for another home"
        )


def _learn_time(state: Path, time_ms: int) -> None:
    try:
        ClockFloor(state).learn(datetime.fromtimestamp(time_ms / 1000, UTC))
    except (OverflowError, ValueError, OSError):
        pass  # an impossible time teaches nothing
