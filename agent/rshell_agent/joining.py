"""Joining a fleet: from a join string to stored credentials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.join_string import JoinString
from rshell.identity.joining import JoinFailed, join
from rshell.link.core.messages import Joined
from rshell_agent.device import proposed_name
from rshell_agent.facts import brief_facts
from rshell_agent.home import HomeLock, state_directory

__all__ = ["AlreadyJoined", "JoinFailed", "join_device"]


class AlreadyJoined(Exception):
    """This home has credentials; the message says what to do."""


async def join_device(
    reactor: Any, home: Path, join_string: JoinString, name: str | None = None, force: bool = False
) -> Joined:
    """Make a key, join with it, and store what comes back.

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
        JoinFailed: The gateway could not be reached or trusted, or refused.
        UnsafeDirectory: The home is open to others.
        OSError: The home cannot be written.
    """
    state = state_directory(home)
    lock = HomeLock(home)
    try:
        store = CredentialStore(home)
        if not force:
            _check_new(store, home)
        key = store.pending_key()
        facts = brief_facts()
        proposal = name or proposed_name(facts["hostname"])
        joined = await join(reactor, join_string, "device", key, proposal, facts)
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
    finally:
        lock.release()


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
