"""``confirm`` of an exec request: a change that is undone unless it is confirmed in time.

The device tells by the event ``guard`` that a change waits; an operator's end answers with the
event ``confirm`` or ``rollback``.  Only a confirmation over a link that the device dialled after
the command's end counts.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

__all__ = ["CONFIRM", "GUARD", "ROLLBACK", "Confirm", "GuardEvent"]

#: The kinds of the events.
GUARD, CONFIRM, ROLLBACK = "guard", "confirm", "rollback"


class Confirm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a command is undone.

    ``seconds`` count from the command's start.  ``rollback`` is a line for the login's shell; the
    device writes it down before the command runs, and runs it once.  A command that fails is rolled
    back at once, unless ``keep_failed``: then it may be confirmed like any other.
    """

    seconds: Annotated[int, Meta(ge=5, le=86_400)]
    rollback: Annotated[bytes, Meta(min_length=1, max_length=4096)]
    keep_failed: bool = False


class GuardEvent(Struct, frozen=True, kw_only=True):
    """A change waits to be confirmed.

    Attributes:
        fresh: Whether the link that brought this was dialled after the command's end.
        left_ms: Time left.
        command: How the command ended (``status``, ``exit_code``, ``signal``); None if that is
            not known.
    """

    fresh: bool = False
    left_ms: int = 0
    command: dict[str, Any] | None = None

    @classmethod
    def read(cls, body: dict[str, Any]) -> GuardEvent:
        """Return a device's event; what is malformed reads as one that is not fresh."""
        try:
            return msgspec.convert(body, cls)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError):
            return cls()

    @property
    def succeeded(self) -> bool:
        """Whether the command is known to have ended well."""
        return self.command is not None and self.command.get("status") == "ok"
