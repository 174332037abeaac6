"""May this operator do that?  One function that every door's every request passes.

Default deny.  The role ``admin`` is built in and grants everything; no other role grants
anything until roles with grants can be defined.  The device's own policy comes on top.
"""

from __future__ import annotations

import attrs

from rshell.store.records import Device, Operator

__all__ = ["ADMIN", "Decision", "decide"]

ADMIN = "admin"


@attrs.frozen
class Decision:
    """The answer, with the reason an operator is shown and the audit keeps."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


def decide(
    operator: Operator, device: Device | None, handler: str, login: str | None = None
) -> Decision:
    """Decide whether *operator* may use *handler* on *device*.

    Args:
        operator: as the store has it now, not as it was when the link began.
        device: None for what concerns no single device (``invite``, ``roles``, ``console``).
        handler: a handler's name, or the verb where there is no handler.
        login: the login asked for on the device; None for its default.
    """
    if not operator.active:
        return Decision(False, f"operator {operator.name} is revoked")
    if device is not None and not device.active:
        return Decision(False, f"device {device.name} is revoked")
    if operator.role == ADMIN:
        return Decision(True, f"role {ADMIN}")
    where = "on the fleet" if device is None else f"on {device.name}"
    who = f" as {login}" if login is not None else ""
    return Decision(False, f"role {operator.role} grants no {handler} {where}{who}")
