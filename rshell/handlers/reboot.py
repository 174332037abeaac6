"""The request of the handler ``reboot``, and what its worker tells step by step.

The device decides by its own policy (``[reboot]`` in agent.toml) which commands these actions are
and how often they may be asked for; no request names a command.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

__all__ = ["MAX_DELAY_SECONDS", "RebootRequest", "RebootStep", "encode_argument", "read_steps"]

MAX_DELAY_SECONDS = 86_400


class RebootRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Restart the device, switch it off, or restart its agent; or ask about that.

    ``reboot``, ``poweroff`` and ``restart-agent`` are done once, ``delay_seconds`` after they were
    accepted, also if nobody is there any more by then; ``reason`` is shown to who is logged in.
    ``cancel`` takes back what waits for its time.  ``status`` tells what became of ``job``, which
    is the id of the session that asked for it in hexadecimal, or of the newest ones.
    """

    action: Literal["reboot", "poweroff", "restart-agent", "cancel", "status"] = "reboot"
    delay_seconds: Annotated[int, Meta(ge=0, le=MAX_DELAY_SECONDS)] = 0
    reason: Annotated[str, Meta(max_length=200)] = ""
    job: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None

    def __post_init__(self) -> None:
        if not self.reason.isprintable():
            raise ValueError("reason: not one printable line")


class RebootStep(Struct, frozen=True, kw_only=True):
    """One line of the worker's output.

    Attributes:
        step: ``accepted``, ``announced``, ``going``, ``done``, ``failed``, ``cancelled``,
            ``not-cancelled``, ``overtaken``, or ``status``.
        state: Of the job, for ``status``.
        decided: Whether that state is the last one.
    """

    step: str
    job: str = ""
    action: str = ""
    due_in_seconds: float = 0.0
    operator: str = ""
    reason: str = ""
    state: str = ""
    decided: bool = False
    status: str = ""
    code: str | None = None
    message: str | None = None
    seconds: float | None = None
    seconds_ago: dict[str, float] = msgspec.field(default_factory=dict)
    by_wall: bool = False
    boot_id: str = ""


_STEP: msgspec.json.Decoder[RebootStep] = msgspec.json.Decoder(RebootStep)
#: A line of the worker is some hundred bytes.
_MAX_LINE = 16 * 1024


def read_steps(buffer: bytearray) -> list[RebootStep]:
    """Take the complete lines out of a device's output and return those that are steps."""
    steps: list[RebootStep] = []
    while (end := buffer.find(b"\n")) >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        try:
            steps.append(_STEP.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    if len(buffer) > _MAX_LINE:
        buffer.clear()
    return steps


def encode_argument(request: RebootRequest) -> dict[str, Any]:
    """Return what the keeper is given for a request."""
    return {name: value for name, value in msgspec.structs.asdict(request).items() if value}
