"""Where the device's policy stands: which file, whose keeper, and whether it is a boundary.

For ``rshell-agent policy check``.  It looks at files and asks a running keeper; it changes nothing.
What is allowed in detail is policy_check.py's.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from pathlib import Path
from typing import Any

import attrs

from rshell_agent.keeper import wire
from rshell_agent.keeper.command import socket_address
from rshell_agent.keeper.policy import Policy, PolicyFile

__all__ = ["Condition", "RunningKeeper", "Standing", "look", "user_name"]

#: A keeper answers from memory; one that does not is no help in a check.
_ANSWER_SECONDS = 2.0


def user_name(uid: int) -> str:
    """Return a user's name, or its number as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@attrs.frozen
class RunningKeeper:
    """What a keeper that runs says of itself.

    Attributes:
        pid: Its process number.
        uid: Whose it is.
        digest: Of the policy that it obeys.
        policy: The file that it was started with, if it can be seen, or None.
    """

    pid: int
    uid: int
    digest: str
    policy: str | None


@attrs.frozen
class Condition:
    """One thing that must be so for a policy to be a boundary (docs/keeper.md K9)."""

    what: str
    holds: bool
    why: str


@attrs.frozen
class Standing:
    """Where a policy stands.

    Attributes:
        file: The file, read as the keeper reads it.
        policy: What it says.
        exists: Whether there is a file at all.
        keeper_uid: Whose keeper it is: of one that runs, else of the last one, else our own.
        running: The keeper that runs, or None.
        conditions: Whether it is a boundary, and why (not).
    """

    file: PolicyFile
    policy: Policy
    exists: bool
    keeper_uid: int
    running: RunningKeeper | None
    conditions: tuple[Condition, ...]

    @property
    def boundary(self) -> bool:
        """Whether the policy holds against whoever has the agent."""
        return all(condition.holds for condition in self.conditions)

    @property
    def differs(self) -> bool:
        """Whether the keeper that runs obeys another policy than the one looked at."""
        running = self.running
        return running is not None and running.digest != self.policy.report()["digest"]


def look(home: Path, path: str | None) -> Standing:
    """Read the policy of a home as its keeper does.

    Args:
        home: The agent's home; it exists.
        path: The policy file, if it is neither ``home/agent.toml`` nor the running keeper's.

    Raises:
        OSError: The home cannot be looked at.
    """
    running = _ask(home)
    if path is None and running is not None:
        path = running.policy
    keeper_uid = _keeper_uid(home, running)
    file = PolicyFile(str(home), path, keeper_uid)
    policy = file.current()
    return Standing(
        file,
        policy,
        os.path.exists(file.path),
        keeper_uid,
        running,
        _conditions(file, policy, keeper_uid),
    )


def _keeper_uid(home: Path, running: RunningKeeper | None) -> int:
    if running is not None:
        return running.uid
    try:
        return (home / "keeper.lock").stat().st_uid  # the last one's
    except OSError:
        return os.geteuid()


def _conditions(file: PolicyFile, policy: Policy, keeper_uid: int) -> tuple[Condition, ...]:
    keeper, agent = user_name(keeper_uid), user_name(file.agent_uid)
    separate = file.agent_uid not in (0, keeper_uid)
    named = {user_name(0), user_name(file.agent_uid), "self"}.intersection(policy.logins)
    logins = ", ".join(sorted(named))
    return (
        Condition("the keeper runs as root", keeper_uid == 0, f"it is {keeper}'s"),
        Condition(
            "the agent runs as a user of its own",
            separate,
            f"it is {agent}'s" if separate else f"it is {agent}'s, like the keeper",
        ),
        Condition(
            "logins name neither root nor the agent's user",
            not named,
            f"logins name {logins}" if named else "they do not",
        ),
        Condition(
            "root alone can change the policy file",
            keeper_uid == 0 and not policy.error and not policy.shared,
            "only a keeper that runs as root looks for that"
            if keeper_uid
            else (policy.error or ", ".join(policy.shared) or "nobody else can"),
        ),
    )


# -- asking the keeper -----------------------------------------------------------------------------


def _ask(home: Path) -> RunningKeeper | None:
    """Return what a running keeper says; None if none answers, or not to us."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_ANSWER_SECONDS)
            with socket_address(str(home)) as address:
                sock.connect(address)
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("3i", raw)
            return RunningKeeper(pid, uid, _digest(sock), _started_with(pid))
    except (OSError, wire.WireError):
        return None


def _digest(sock: socket.socket) -> str:
    hello: wire.Map = {"proto": {"min": 1, "max": 1}, "purpose": "control"}
    call: wire.Map = {"id": 1, "call": "policy"}
    sock.sendall(wire.encode_map(wire.HELLO, hello) + wire.encode_map(wire.CALL, call))
    decoder = wire.Decoder()
    while data := sock.recv(65536):
        for kind, _, payload in decoder.feed(data):
            body: dict[str, Any] = wire.parse_map(payload)
            if kind == wire.REPLY and not body.get("more"):
                return str(body.get("digest"))
    raise OSError("the keeper closed the connection")


def _started_with(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return os.fsdecode(words[words.index(b"--policy") + 1])
    except (OSError, ValueError, IndexError):
        return None
