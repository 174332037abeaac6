"""SSH user names: ``[LOGIN@]DEVICE``.

Operators are known by their keys, so the user name is free to say where they want to go, and the
host name of the command line to say by which gateway: ``ssh -p 2222 root@pump-17@gw``.
"""

from __future__ import annotations

import attrs

from rshell.access.printable import printable

__all__ = ["CONSOLE", "BadUserName", "Destination", "read_user_name"]

#: The gateway's own console; no device is called so (`rshell.access.names`).
CONSOLE = "console"
#: A device's id or name, and what Linux lets a login be.
MAX_PART = 64


class BadUserName(ValueError):
    """The user name says no device; the text tells what to do."""


@attrs.frozen
class Destination:
    """Where an operator wants to go.

    Attributes:
        device: A name or id; perhaps of no device there is.
        login: The account there; None for the device's default.
    """

    device: str
    login: str | None = None

    @property
    def is_console(self) -> bool:
        """Whether the gateway's console is meant."""
        return self.device == CONSOLE

    def __str__(self) -> str:
        return printable(f"{self.login}@{self.device}" if self.login else self.device)


def read_user_name(user: bytes) -> Destination:
    """Return the destination that a user name says.

    Raises:
        BadUserName: It says none.
    """
    try:
        text = user.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    # Logins may hold an @ (of a directory service), devices' names cannot.
    login, at, device = text.rpartition("@")
    fits = all(1 <= len(part) <= MAX_PART and part.isprintable() for part in (login or "x", device))
    if not fits or (at and not login):
        raise BadUserName(
            f"the user name {printable(repr(user)[1:], 80)} names no device: "
            "use ssh [LOGIN@]DEVICE@GATEWAY (list devices with: rshell devices)"
        )
    return Destination(device, login or None)
