"""``gateway.touched``: which files a session touched, told by the device and kept in the audit log.

A row for each part of a report. A part that is told again, because link, agent or gateway died over
the answer, finds its row there: the store decides, in the order of its writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from rshell.gateway.callers import OpenRefused
from rshell.gateway.verbs import Asker, verb
from rshell.handlers.touched import HANDLERS, TouchedReport
from rshell.link.core.errors import ErrorCode
from rshell.store.touched_files import FILES

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []


@verb("gateway.touched", TouchedReport, peers=("device",))
async def touched(gateway: Gateway, asker: Asker, request: TouchedReport) -> Any:
    """Write down which files a session touched on a device."""
    live = gateway.presence.find(asker.name)
    if live is None or live.link.peer is not asker.peer:
        raise OpenRefused(ErrorCode.OFFLINE, "this link is not the device's current one")
    if gateway.touches.admit(asker.name) is None:
        raise OpenRefused(ErrorCode.OVERLOAD, "too many reports: try again later")
    story = await gateway.store.session_story(request.session.hex())
    first = None if story.first is None else story.first.record
    if first is None or first.device != live.device.id or first.handler not in HANDLERS:
        raise OpenRefused(ErrorCode.POLICY, "the device had no such session with files")
    details: dict[str, Any] = {"n": request.n, "files": msgspec.to_builtins(request.files)}
    if request.left_out:
        details["left_out"] = request.left_out
    await gateway.store.append_audit(
        attrs.evolve(
            first,
            kind=FILES,
            opens=False,
            code=f"part-{request.n}",
            details=details,
            once=True,
        )
    )
    return {"n": request.n}
