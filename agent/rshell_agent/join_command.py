"""``rshell-agent join`` and ``rshell-agent key``: what a person at the device sees."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from rshell.identity.credentials import CredentialsDamaged, CredentialStore
from rshell.identity.join_string import BadJoinString, JoinString
from rshell.identity.keys import PublicKey, fingerprint, public_key_to_pem, spki_hash
from rshell.link.clock import use_monotonic_clock
from rshell_agent.device import proposed_name
from rshell_agent.facts import brief_facts
from rshell_agent.home import HomeInUse, HomeLock, state_directory
from rshell_agent.joining import (
    MAX_NAME_CHARACTERS,
    AlreadyJoined,
    BadJoinFile,
    JoinFailed,
    Joining,
    JoinWish,
    fingerprint_of,
    read_wish,
)

__all__ = ["CannotJoin", "join_command", "print_key"]

#: EX_TEMPFAIL of sysexits(3): it waits to be accepted, and may be asked again.
_PENDING = 75
_INTERRUPTED = 130
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


class CannotJoin(Exception):
    """The command ends with this line.

    Attributes:
        status: Of the exit; 2 for wrong usage.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def join_command(home: Path, text: str | None, name: str | None, force: bool, no_wait: bool) -> int:
    """Join with a string, ``-`` for standard input, or go on with an earlier one for None.

    Returns:
        The exit status: 0, 75 if it waits and was told not to, 130 if it was interrupted.

    Raises:
        CannotJoin: It came to nothing.
    """
    wish, patient = _wish(home, text, name, force)
    command = _Command(home, wish, no_wait)
    try:
        react(lambda reactor: Deferred.fromCoroutine(command.work(reactor, patient)))
    except SystemExit as end:
        if end.code:
            raise
    if command.failure:
        raise CannotJoin(command.failure)
    if command.status == _INTERRUPTED and command.waits:
        # With --force there is an identity, as which `run` would go on.
        where = f"rshell-agent {'join' if wish.force else 'run'} --home {home}"
        print(f"rshell-agent: still waiting; go on with: {where}", file=sys.stderr)
    return command.status


def _wish(home: Path, text: str | None, name: str | None, force: bool) -> tuple[JoinWish, bool]:
    """Return what to join, and whether it was wished for before."""
    if name is not None and len(name) > MAX_NAME_CHARACTERS:
        raise CannotJoin(f"a name has at most {MAX_NAME_CHARACTERS} characters", 2)
    if text is None:
        try:
            found = read_wish(home)
        except BadJoinFile as error:
            raise CannotJoin(str(error)) from None
        if found is None:
            raise CannotJoin(
                f"give a join string: {home} waits for none (rshell invite device makes one)", 2
            )
        return JoinWish(found.join_string, name or found.name, force or found.force), True
    if text == "-":
        text = sys.stdin.readline(4096)
    elif not text.startswith("rsh1p."):
        print(
            "rshell-agent: a join string on the command line can be seen in `ps`; "
            "`rshell-agent join -` reads it from standard input",
            file=sys.stderr,
        )
    try:
        return JoinWish(JoinString.parse(text), name, force), False
    except BadJoinString as error:
        raise CannotJoin(str(error)) from None


class _Command:
    """One run of ``join``.

    Attributes:
        status: Of the exit.
        failure: One line, if it came to nothing.
        waits: Whether a gateway had the device wait.
    """

    def __init__(self, home: Path, wish: JoinWish, no_wait: bool) -> None:
        self.status = _INTERRUPTED
        self.failure = ""
        self.waits = False
        self._home = home
        self._wish = wish
        self._no_wait = no_wait
        self._said = ""

    async def work(self, reactor: Any, patient: bool) -> None:
        """Do it; never fails."""
        use_monotonic_clock(reactor)
        try:
            state_directory(self._home)
            lock = HomeLock(self._home)
            try:
                await self._join(reactor, patient)
            finally:
                lock.release()
        except _NotWaiting:
            self.status = _PENDING
        except JoinFailed as error:
            self.failure = f"not joined ({error.code}): {error.message}"
        except (AlreadyJoined, HomeInUse, OSError) as error:
            self.failure = str(error)

    async def _join(self, reactor: Any, patient: bool) -> None:
        uniform = random.SystemRandom().uniform
        joining = Joining(reactor, self._home, self._wish, uniform, self._told, give_up=True)
        joined = await joining.joined(patient=patient and not self._no_wait)
        self.status = 0
        run = f"rshell-agent run --home {self._home}"
        print(f"joined as {joined.name} ({joined.id}); now run: {run}")

    def _told(self, error: JoinFailed) -> None:
        """Say what is being waited for, once, and what is in the way, when that changes."""
        if error.pending and not self.waits:
            self.waits = True
            key = fingerprint_of(self._home)
            print(
                "this device waits to be accepted: compare its fingerprint with `rshell pending`, "
                f"then: rshell accept {key}\n\n    {key}\n",
                flush=True,
            )
            if self._no_wait:
                raise _NotWaiting
        text = "" if error.pending else f"{error.message} ({error.code}); trying on"
        if text and text != self._said:
            print(f"rshell-agent: {text}", file=sys.stderr, flush=True)
        self._said = text


class _NotWaiting(Exception):
    """It was told not to wait."""


def print_key(home: Path, line: bool, name: str | None, only_fingerprint: bool) -> int:
    """Print the public key that this home joins with, made if need be, or has joined with.

    Args:
        home: The agent's home; created if absent.
        line: As ``NAME<TAB>KEY`` instead of PEM.
        name: In that line; the host's name if None.
        only_fingerprint: Print what people compare instead.

    Raises:
        CannotJoin: There is no name, or the home cannot be used.
    """
    try:
        key = _public_key(home)
    except OSError as error:
        raise CannotJoin(str(error)) from None
    pem = public_key_to_pem(key)
    if only_fingerprint:
        print(fingerprint(spki_hash(key)))
    elif line:
        called = name or proposed_name(brief_facts()["hostname"])
        if called is None:
            raise CannotJoin("this host's name is of no use: give --name")
        if not _NAME.fullmatch(called):
            rule = "1 to 63 characters of a-z, 0-9 and '-', not starting with '-'"
            raise CannotJoin(f"a device's name has {rule}", 2)
        print(f"{called}\t{''.join(pem.splitlines()[1:-1])}")
    else:
        print(pem, end="")
        print(f"rshell-agent: fingerprint {fingerprint(spki_hash(key))}", file=sys.stderr)
    return 0


def _public_key(home: Path) -> PublicKey:
    store = CredentialStore(home)
    try:
        found = store.load()
    except CredentialsDamaged:
        found = None
    return (store.pending_key() if found is None else found.key).public_key()
