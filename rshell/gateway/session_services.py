"""The verbs about sessions: list them, end one.  Importing this module registers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from rshell.gateway.callers import OpenRefused
from rshell.gateway.chosen import chosen, selector_of
from rshell.gateway.presence import State
from rshell.gateway.session_table import TableEntry
from rshell.gateway.verbs import Asker, verb
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Sessions
from rshell.store.records import Device
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []


class SessionsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Of which devices, empty for every one; own sessions, or ``all`` operators'."""

    selector: Annotated[str, Meta(max_length=4096)] = ""
    all: bool = False


class EndSessionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which session, by its id in hexadecimal."""

    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


@verb("gateway.sessions", SessionsRequest, open_to_all=True)
async def sessions(gateway: Gateway, asker: Asker, request: SessionsRequest) -> Any:
    """List sessions that live on devices: yours, or everybody's."""
    if request.all and not gateway.rights.is_admin(asker.operator):
        raise OpenRefused(
            ErrorCode.POLICY, "only an administrator may list other operators' sessions"
        )
    selector = selector_of(request.selector)
    wanted = [e for e in gateway.sessions.entries() if request.all or e.operator == asker.name]
    if not wanted:
        return []
    found = await chosen(gateway, asker.operator, selector)
    devices = {one.device.id: one.device for one in found}
    rows = []
    for entry in wanted:
        device = devices.get(entry.device_id)
        if device is not None:
            rows.append(_row(gateway, entry, device, _device_state(gateway, device)))
    return sorted(rows, key=lambda row: (row["device"], row["started_at"], row["session"]))


def _device_state(gateway: Gateway, device: Device) -> State:
    live = gateway.presence.find(device.id)
    return State.LOST if live is None else live.state(gateway.wheel.seconds())


def _row(gateway: Gateway, entry: TableEntry, device: Device, state: State) -> dict[str, Any]:
    now = gateway.wheel.seconds()
    driver = gateway.switchboard.driven(entry.device_id, entry.session, entry.operator)
    attached = driver is not None and driver.stream is not None
    age_ms = max(0, round((now - entry.began) * 1000))
    alone = 0.0 if attached or entry.detached_at is None else now - entry.detached_at
    return {
        "session": entry.session.hex(),
        "device": device.name,
        "device_id": device.id,
        "device_state": state.value,
        "operator": entry.operator,
        "handler": entry.handler,
        "login": entry.login or None,
        "state": "finished" if entry.outcome else "attached" if attached else "detached",
        "started_at": rfc3339(gateway.now_us() - age_ms * 1000),
        "age_ms": age_ms,
        "detached_ms": max(0, round(alone * 1000)),
        # A parked attempt counts: who attaches now must be above it.
        "attempt": max(entry.attempt, driver.attempt if driver else 0),
        "viewers": gateway.switchboard.viewers(entry.device_id, entry.session),
        "outcome": entry.outcome,
    }


@verb("gateway.end-session", EndSessionRequest, changes=True, open_to_all=True)
async def end_session(gateway: Gateway, asker: Asker, request: EndSessionRequest) -> Any:
    """End a session and what runs in it."""
    story = await gateway.store.session_story(request.session)
    record = story.first.record if story.first else None
    mine = record is not None and record.operator == asker.name
    # Who may not end it does not learn that there is one.
    if record is None or not (mine or gateway.rights.is_admin(asker.operator)):
        raise OpenRefused(ErrorCode.NOT_FOUND, "there is no such session")
    live = gateway.presence.find(record.device or "")
    if live is None or live.link.closed:
        raise OpenRefused(
            ErrorCode.OFFLINE,
            f"{record.device_name} is offline: its sessions can be ended when it is back",
        )
    session = bytes.fromhex(request.session)
    live.link.sessions(Sessions(end=[session]))
    # Who is attached is told by whom; and a session that no keeper holds ends by this.
    gateway.switchboard.end_where(
        lambda one: one.session == session and one.device.id == record.device,
        ErrorCode.CANCELLED,
        f"ended by {asker.name}",
    )
    gateway.sessions.forget(record.device or "", session)
    return {"ended": True}
