"""What the store can refuse, each as one line an operator can read."""

from __future__ import annotations

__all__ = [
    "NO_SUCH_INVITE",
    "InUse",
    "LimitReached",
    "NameTaken",
    "NotFound",
    "StoreError",
    "StoreUnavailable",
]

NO_SUCH_INVITE = "there is no such invite (see: rshell invites --all)"


class StoreError(Exception):
    """The store did not do what was asked; nothing of it was written."""

    code = "store"


class StoreUnavailable(StoreError):
    """The database itself failed: full, unreadable, locked, closed or too busy."""

    code = "store-unavailable"


class NameTaken(StoreError):
    """Another active device or operator has that name."""

    code = "name-taken"


class NotFound(StoreError):
    """There is no such device, operator, key or token."""

    code = "not-found"


class LimitReached(StoreError):
    """The request would exceed a documented limit."""

    code = "limit"


class InUse(StoreError):
    """Something else still needs it."""

    code = "in-use"
