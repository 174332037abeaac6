"""The verbs about sessions: list them, end one.  Importing this module registers them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.chosen import Chosen, check_named, chosen, selector_of
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.long_answers import LongAnswer, in_slices
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
    """Of which devices, empty for every one; own sessions, or ``all`` that may be watched.

    The rest narrows that down: how its id begins, whose, through which door, in which state.
    """

    selector: Annotated[str, Meta(max_length=4096)] = ""
    all: bool = False
    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{0,32}\Z")] = ""
    operator: Annotated[str, Meta(max_length=64)] = ""
    door: Annotated[str, Meta(max_length=16)] = ""
    state: Literal["", "attached", "parked", "detached", "finished"] = ""


class EndSessionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which session, by its id in hexadecimal."""

    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


@verb("gateway.sessions", SessionsRequest, open_to_all=True)
async def sessions(gateway: Gateway, asker: Asker, request: SessionsRequest) -> Any:
    """List sessions that live on devices: yours, or all that you may watch."""
    if request.all and not gateway.rights.may_watch_any(asker.operator):
        raise OpenRefused(
            ErrorCode.POLICY,
            "only who may watch them, as an administrator may, lists other operators' sessions",
        )
    selector = selector_of(request.selector)
    wanted = [
        entry
        for entry in gateway.sessions.entries()
        if (request.all or entry.operator == asker.name)
        and entry.session.hex().startswith(request.session)
        and request.operator in ("", entry.operator)
        and request.door in ("", entry.door)
    ]
    if not wanted:
        await check_named(gateway, asker.operator, operator=request.operator)
        return []
    on: dict[str, list[TableEntry]] = {}
    for entry in wanted:
        on.setdefault(entry.device_id, []).append(entry)
    pages = chosen(gateway, asker.operator, selector, among=on.keys())
    return LongAnswer(_rows(gateway, asker, request, on, pages))


async def _rows(
    gateway: Gateway,
    asker: Asker,
    request: SessionsRequest,
    on: Mapping[str, list[TableEntry]],
    pages: AsyncGenerator[list[Chosen], None],
) -> AsyncGenerator[list[Any], None]:
    """Yield the rows of sessions, by device, a few devices at a time."""
    async with aclosing(pages):
        async for page in pages:
            theirs = (
                (entry, one.device)
                for one in page
                for entry in sorted(on.get(one.device.id, ()), key=_by_start)
                if gateway.sessions.find(entry.device_id, entry.session) is entry  # not over since
                and _theirs_to_see(gateway, asker, entry, one.device)
            )
            async for rows in in_slices(
                gateway.slices,
                theirs,
                lambda pair: _row(gateway, *pair, _device_state(gateway, pair[1])),
            ):
                yield [row for row in rows if request.state in ("", row["state"])]
            yield []  # of a page without any: whoever asked may have left


def _by_start(entry: TableEntry) -> tuple[float, bytes]:
    return entry.began, entry.session


def _theirs_to_see(gateway: Gateway, asker: Asker, entry: TableEntry, device: Device) -> bool:
    mine = entry.operator == asker.name
    return mine or gateway.rights.may_watch(asker.operator, device) is not None


def _device_state(gateway: Gateway, device: Device) -> State:
    live = gateway.presence.find(device.id)
    return State.LOST if live is None else live.state(gateway.wheel.seconds())


def _row(gateway: Gateway, entry: TableEntry, device: Device, state: State) -> dict[str, Any]:
    now = gateway.wheel.seconds()
    driver = gateway.switchboard.driven(entry.device_id, entry.session, entry.operator)
    stream = None if driver is None else driver.stream
    attached = stream is not None
    age_ms = max(0, round((now - entry.began) * 1000))
    alone = 0.0 if attached or entry.detached_at is None else now - entry.detached_at
    if driver is not None and stream is not None:
        driver.use.look(stream, now)
    recording = gateway.recordings.live(entry.session.hex())
    viewers = gateway.switchboard.viewers(entry.device_id, entry.session)
    return {
        "session": entry.session.hex(),
        "device": device.name,
        "device_id": device.id,
        "device_state": state.value,
        "operator": entry.operator,
        "handler": entry.handler,
        "login": entry.login or None,
        "state": _state(entry, driver),
        "door": entry.door or None,
        "address": printable(entry.address, 64) or None,
        "terminal": entry.terminal,
        "driver": driver.caller.operator.name if driver is not None and attached else None,
        "idle_ms": None if not attached or driver is None else _ms(now - driver.use.used),
        "bytes_in": entry.bytes_in + (stream.bytes_in if stream is not None else 0),
        "bytes_out": entry.bytes_out + (stream.bytes_out if stream is not None else 0),
        "recorded": None if recording is None else recording.row.mode,
        "started_at": rfc3339(gateway.now_us() - age_ms * 1000),
        "age_ms": age_ms,
        "detached_ms": max(0, round(alone * 1000)),
        # A parked attempt counts: who attaches now must be above it.
        "attempt": max(entry.attempt, driver.attempt if driver else 0),
        "viewers": len(viewers),
        "watchers": [
            {
                "operator": one.caller.operator.name,
                "door": one.caller.door,
                "address": printable(one.caller.address, 64),
            }
            for one in viewers
        ],
        "outcome": entry.outcome,
    }


def _state(entry: TableEntry, driver: LiveSession | None) -> str:
    if entry.outcome:
        return "finished"
    if driver is None:
        return "detached"
    return "parked" if driver.stream is None else "attached"


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


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
