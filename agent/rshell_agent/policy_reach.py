"""What a login may do at a path, found out by being that login and walking as a worker does.

For ``rshell-agent policy check``: it forks a child, because becoming a login cannot be undone.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import attrs

from rshell_agent.keeper.process import Account
from rshell_agent.keeper.wire import Map
from rshell_agent.workers.confined import Confined, Denied, shown

__all__ = ["Reach", "reach"]


@attrs.frozen
class Reach:
    """What was found at a path.

    Attributes:
        place: Where it leads to, without symbolic links; as asked for if it could not be walked.
        read: Whether the policy allows to read there.
        write: Whether the policy allows to write there.
        system: What the system says to the login ("a file of 12 bytes", "Permission denied"); ""
            if the policy lets nobody ask.
        as_login: False if we could not become the login and looked as ourselves.
    """

    place: str
    read: bool
    write: bool
    system: str
    as_login: bool = True


def reach(path: bytes, account: Account, rules: Map) -> Reach:
    """Walk to a path as a worker of that login would.

    Args:
        path: As a worker gets it; relative to the login's home.
        account: The login.
        rules: `Policy.rules`.
    """
    if not account.switch:
        return Reach(*_look(path, account, rules))
    if os.geteuid():
        return Reach(*_look(path, account, rules), as_login=False)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.initgroups(account.name, account.gid)
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.write(writing, json.dumps(_look(path, account, rules)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    if not told:
        return Reach(shown(path), False, False, f"we cannot become {account.name}")
    return Reach(*json.loads(told))


def _look(path: bytes, account: Account, rules: Map) -> tuple[str, bool, bool, str]:
    named: dict[str, Any] = dict(rules)
    roots = named.pop("read"), named.pop("write")
    with Confined(*roots, home=os.fsencode(account.home), **named) as confined:
        place, system = shown(path), ""
        for write in (False, True):
            try:
                with confined.at(path, write=write, follow=True) as found:
                    place = shown(found.path)
                    system = _what(found.stat())
            except Denied:
                pass
            except OSError as error:
                system = error.strerror or str(error)
        return place, confined.may(path), confined.may(path, write=True), system


def _what(info: os.stat_result) -> str:
    if stat.S_ISDIR(info.st_mode):
        return "a folder"
    if stat.S_ISREG(info.st_mode):
        return f"a file of {info.st_size} bytes"
    return "neither a file nor a folder: workers do not open it"
