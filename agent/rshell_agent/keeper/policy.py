"""What the device allows: `[policy]` of agent.toml (docs/keeper.md K7 to K10).

It decides; it does not start anything. Other sections of the file belong to the agent.
"""

from __future__ import annotations

import json
import os
import pwd
import stat

from rshell_agent.keeper.process import Account, pwd_name
from rshell_agent.keeper.wire import Map, Refused

__all__ = ["BUILT_IN", "Policy", "PolicyFile"]

BUILT_IN = ("shell", "exec", "files", "sftp", "tail", "reboot", "forward", "facts")
LIMITS = {
    "max_sessions": 64,
    "detached_max": 8,
    "shell_limit_seconds": 86400,
    "exec_limit_seconds": 3600,
}
LISTS: dict[str, list[str]] = {  # and what holds where the file names none
    "handlers": list(BUILT_IN),
    "logins": ["self"],
    "read": ["/"],
    "write": ["/"],
    "deny_read": [],
    "deny_write": [],
    "forward": ["localhost:*"],
    "forward_back": [],
}
_PLACES = ("read", "write", "deny_read", "deny_write")
_MAX_FILE = 1 << 20  # a policy is a page, not a book
_MOST = 64  # entries of a list, and characters in a name
_LONGEST = 1024  # characters of a path or target: reports of several frames stay few
_HANDLER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class PolicyError(Exception):
    """The policy is wrong; everything is denied."""


class Policy:
    """One reading of the file. With `error` set, it allows nothing."""

    def __init__(self, section: Map, own_uid: int, agent_uid: int) -> None:
        """Check `[policy]`.

        Raises:
            PolicyError: a value has the wrong type or form.
        """
        self.error: str | None = None
        self.given = frozenset(section)  # the keys that the file names
        self.shared: list[str] = []  # where others than root could write the file
        self.warnings = [f"[policy] {key}: unknown" for key in section if not _known(key)]
        self.lists = {key: _texts(section, key) for key in LISTS}
        self.handlers, self.logins = self.lists["handlers"], self.lists["logins"]
        for name in self.handlers:
            if not name[:1].isalpha() or not _HANDLER.issuperset(name):
                raise PolicyError(f"handlers: {name!r} is no handler's name")
        for key in _PLACES:
            for path in self.lists[key]:
                if not path.startswith("/") and path != "~" and not path.startswith("~/"):
                    raise PolicyError(f"{key}: {path!r} begins neither with / nor with ~/")
        _check_targets(section)
        self.max_file_size = self._number(section, "max_file_size", 0)
        self.setid = section.get("setid", False)
        if not isinstance(self.setid, bool):
            raise PolicyError("setid: neither true nor false")
        self.limits = {key: self._limit(section, key, most) for key, most in LIMITS.items()}
        self._own = own_uid
        self._boundary = own_uid == 0 and agent_uid != 0
        if self._boundary:
            for login in {pwd_name(0), pwd_name(agent_uid)}.intersection(self.logins):
                self.warnings.append(f"logins: {login} makes policy a guard rail")

    def _limit(self, section: Map, key: str, most: int) -> int:
        value = self._number(section, key, most)
        if value > most:
            self.warnings.append(f"{key}: {value} is too high, {most} holds")
        return min(value, most)

    @staticmethod
    def _number(section: Map, key: str, default: int) -> int:
        value = section.get(key, default)
        if type(value) is not int or value < 0:
            raise PolicyError(f"{key}: not a number of 0 or more")
        return value

    def account(self, handler: str, login: str | None) -> Account:
        """Return whom `handler` runs as.

        Raises:
            Refused: policy does not allow it, or there is no such login.
        """
        return Account(self.login(handler, login))

    def login(self, handler: str, login: str | None) -> str | None:
        """Return the name of whom `handler` runs as; None is the keeper's own user.

        Raises:
            Refused: policy does not allow it.
        """
        if self.error is not None:
            raise Refused("policy", f"the device's policy cannot be used: {self.error}")
        if handler not in self.handlers:
            raise Refused("policy", f"the device's policy does not allow the handler {handler}")
        if login is None:
            login = self.logins[0] if self.logins else "self"
        own = login == "self" or login == pwd_name(self._own)  # "self" needs no look at passwd
        if login not in self.logins and not (own and "self" in self.logins):
            raise Refused("policy", f"the device's policy does not allow the login {login}")
        if self._boundary and (login == "self" or login not in self.logins):
            raise Refused("policy", "the keeper runs as root for others: self is not allowed")
        return None if own else login

    @property
    def boundary(self) -> bool:
        """Whether the agent must not get beyond it (K9)."""
        return self._boundary

    def rules(self) -> Map:
        """Return what a worker may do to files, for `Confined`; nothing while `error` is set."""
        places: Map = {key: [] if self.error else self.lists[key] for key in _PLACES}
        return {**places, "max_file_size": self.max_file_size, "setid": self.setid}

    def report(self) -> Map:
        """Return what the control connection tells; `digest` changes with what is allowed."""
        import _blake2  # hashlib loads libcrypto, 3 MB, for the same function

        body: Map = {
            **{key: [] if self.error else listed for key, listed in self.lists.items()},
            "error": self.error,
            "warnings": self.warnings,
        }
        known = json.dumps([body, self.limits, self.max_file_size, self.setid])
        digest = _blake2.blake2b(known.encode(), digest_size=16)
        return {**body, "digest": digest.hexdigest()}


def _known(key: str) -> bool:
    return key in LISTS or key in LIMITS or key in ("max_file_size", "setid")


def _texts(section: Map, key: str) -> list[str]:
    value = section.get(key)
    if value is None:
        return list(LISTS[key])
    if not isinstance(value, list):
        raise PolicyError(f"{key}: not a list")
    texts = [item for item in value if isinstance(item, str) and 0 < len(item) <= _LONGEST]
    if len(texts) != len(value):
        raise PolicyError(f"{key}: holds something else than text")
    if len(texts) > _MOST:
        raise PolicyError(f"{key}: more than {_MOST} entries")
    if key in ("handlers", "logins") and any(len(t) > _MOST or not t.isascii() for t in texts):
        raise PolicyError(f"{key}: a name that is longer than {_MOST} characters or not ASCII")
    if any("\0" in text for text in texts):
        raise PolicyError(f"{key}: holds a NUL character")
    return texts


def _check_targets(section: Map) -> None:
    """Refuse rules that the code which forwards could not read; nothing set costs nothing."""
    for key in ("forward", "forward_back"):
        for text in _texts(section, key) if section.get(key) else []:
            from rshell_agent.keeper.targets import BadRule, parse_rule

            try:
                parse_rule(text)
            except BadRule as error:
                raise PolicyError(f"{key}: {error}") from None


class PolicyFile:
    """The file, read again whenever it has changed.

    Args:
        home: The agent's home.
        path: The file, if it is not `home/agent.toml`.
        own: Whose keeper obeys it, by number; by default this process is the keeper.
    """

    def __init__(self, home: str, path: str | None, own: int | None = None) -> None:
        self._home, self._own = home, os.geteuid() if own is None else own
        self.path = path or os.path.join(home, "agent.toml")
        self.document: Map = {}  # all of the file, as it was read last
        self.agent_uid = 0
        self._seen: object = ()
        self._policy: Policy | None = None
        #: ``[reboot]`` of the file, unchecked; {} if the file cannot be used.
        self.reboot: object = {}
        self.served_uids: frozenset[int] = frozenset()

    def forget(self) -> None:
        """Read again in any case."""
        self._policy = None

    def current(self) -> Policy:
        """Return the policy as the file is now."""
        try:
            info = os.stat(self.path)
            seen: object = (info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_size)
        except OSError as error:
            seen = error.errno
        if self._policy is None or seen != self._seen:
            self._seen = seen
            self._policy = self._read()
        return self._policy

    def _read(self) -> Policy:
        own, owner = self._own, os.stat(self._home).st_uid
        self.document = {}
        self.served_uids = frozenset({own, 0, owner} if own == 0 else {own, 0})
        try:
            document = self.document = self._document()
            agent = _agent_uid(document) if own == 0 else None
            agent_uid = self.agent_uid = owner or agent or 0
            warnings = self._check_place(agent_uid != 0) if own == 0 else []
            if agent is not None:  # only a file that passed may name who is served
                self.served_uids |= {agent}
            section = document.get("policy", {})
            if not isinstance(section, dict):
                raise PolicyError("[policy] is no table")
            policy = Policy(section, own, agent_uid)
            policy.shared = warnings
            policy.warnings += warnings
            self.reboot = document.get("reboot", {})
        except (OSError, ValueError, PolicyError, RecursionError) as error:
            policy = Policy({}, own, 0)
            why = getattr(error, "strerror", None) or error
            policy.error = f"{self.path[:200]}: {why}"[:500]
            self.reboot = {}
        return policy

    def _document(self) -> Map:
        try:
            with open(self.path, "rb", 0) as file:
                raw = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        if len(raw) > _MAX_FILE:
            raise PolicyError("too long")
        import tomllib  # a device without a policy file saves its 1.7 MB

        document: Map = tomllib.loads(raw.decode())
        return document

    def _check_place(self, boundary: bool) -> list[str]:
        """Return warnings about who else could write the policy a root keeper obeys."""
        warnings: list[str] = []
        place = os.path.realpath(self.path)
        for path in (place, *_parents(place), *_parents(os.path.abspath(self.path))):
            try:
                info = os.stat(path)
            except FileNotFoundError:
                continue  # no policy file: its folders tell who could make one
            shared = info.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if info.st_gid else 0))
            sticky = info.st_mode & stat.S_ISVTX and stat.S_ISDIR(info.st_mode)
            message = f"{path} can be written by others than root"
            if (shared and not sticky) or (info.st_uid and boundary):
                raise PolicyError(message)
            if info.st_uid and message not in warnings:
                warnings.append(message)
        return warnings


def _parents(path: str) -> list[str]:
    found = []
    while path != "/":
        path = os.path.dirname(path)
        found.append(path)
    return found


def _agent_uid(document: Map) -> int | None:
    keeper = document.get("keeper", {})
    name = keeper.get("agent_user") if isinstance(keeper, dict) else 0
    if name is None:
        return None
    try:
        if isinstance(name, str):
            return pwd.getpwnam(name).pw_uid
    except KeyError:
        pass
    raise PolicyError(f"[keeper] agent_user: no such user: {name!r}")
