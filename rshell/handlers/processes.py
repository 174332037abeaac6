"""Requests of the handlers that run processes, and what they ask of the keeper.

Argument vectors, environments and paths are bytes: they need not be UTF-8.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from rshell.handlers.confirm import Confirm

__all__ = ["ExecRequest", "ProcessRequest", "ShellRequest", "TerminalSize"]

Rows = Annotated[int, Meta(ge=0, le=1000)]
Argument = Annotated[bytes, Meta(max_length=12_000)]
Environment = Annotated[list[tuple[Argument, Argument]], Meta(max_length=64)]
TermName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]{1,64}\Z")]


class TerminalSize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A terminal: its size in character cells (0 by 0 means unknown) and its type."""

    rows: Rows = 24
    columns: Rows = 80
    term: TermName = "xterm"


class ShellRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A login shell.

    ``terminal``: None gives it pipes instead, as ``ssh HOST < FILE`` does: a terminal would echo
    what is sent and has no true end of input.  ``environment``: name and value pairs added to the
    login's own; the device may refuse some.
    """

    terminal: TerminalSize | None = field(default_factory=TerminalSize)
    environment: Environment = field(default_factory=list)


class ExecRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command: either ``argv``, run as it is, or ``line``, run by the login's shell.

    ``directory`` is the working directory (default: the login's home), ``timeout_ms`` ends the
    command after that long, ``terminal`` gives it a terminal instead of pipes.  With ``confirm`` it
    is undone unless it is confirmed in time.
    """

    argv: Annotated[list[Argument], Meta(min_length=1, max_length=1024)] | None = None
    line: Argument | None = None
    environment: Environment = field(default_factory=list)
    directory: Argument | None = None
    timeout_ms: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    terminal: TerminalSize | None = None
    confirm: Confirm | None = None

    def __post_init__(self) -> None:
        if (self.argv is None) == (self.line is None):
            raise ValueError("give either argv or line")


class ProcessRequest(Struct, frozen=True, kw_only=True):
    """What a handler asks of the keeper through `IHandlerChannel.splice`.

    ``kind`` is ``shell`` (the login's own shell, as a login shell), ``exec``, or ``worker``: code
    of ours that runs as the login.  A worker has the name of its handler, ``worker``, and gets
    ``argument``, which is JSON of at most 8 KiB; of the other fields it heeds ``timeout_ms`` only.
    ``detach`` says that it may live on without an operator, as shells do.
    """

    kind: Literal["shell", "exec", "worker"]
    worker: str | None = None
    argument: dict[str, Any] = field(default_factory=dict)
    argv: list[bytes] | None = None
    line: bytes | None = None
    environment: list[tuple[bytes, bytes]] = field(default_factory=list)
    directory: bytes | None = None
    terminal: TerminalSize | None = None
    timeout_ms: int | None = None
    detach: bool = False
    confirm: Confirm | None = None
