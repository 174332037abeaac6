"""What the parts of an agent tell about its link; the flight recorder listens."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Journal", "Unheard"]


class Journal(Protocol):
    """Takes notes of what happened to the link, and why."""

    def note(
        self,
        kind: str,
        message: str = "",
        *,
        target: str = "",
        seconds: float | None = None,
        **details: Any,
    ) -> None:
        """Something happened.

        Args:
            kind: One word; see `rshell.handlers.flight`.
            message: One line for a person.
            target: The gateway's address it is about.
            seconds: How long it took or lasted.
            details: Short JSON values.
        """


class Unheard:
    """A journal that nobody reads."""

    def note(
        self,
        kind: str,
        message: str = "",
        *,
        target: str = "",
        seconds: float | None = None,
        **details: Any,
    ) -> None:
        """Nothing is kept."""
