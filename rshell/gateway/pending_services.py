"""``gateway.pending``, ``gateway.accept``, ``gateway.reject``: devices that wait to be let in.

A name is what a device says of itself; only the fingerprint is its key's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.access.audit import AuditRecord
from rshell.access.labels import BadLabel, parse_label
from rshell.access.names import BadName, check_name
from rshell.access.printable import printable
from rshell.gateway.long_answers import LongAnswer, in_slices
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.identity.keys import fingerprint, read_fingerprint
from rshell.store import pending as limits
from rshell.store.errors import NotFound, StoreError, StoreUnavailable
from rshell.store.pending_records import PendingDevice
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

#: Of one request: a site at once, and an answer that is there in a second.
MAX_AT_ONCE = 100

Name = Annotated[str, Meta(max_length=64)]
Short = Annotated[str, Meta(max_length=256)]
Which = Annotated[list[Name], Meta(min_length=1, max_length=MAX_AT_ONCE)]


class PendingRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


class AcceptRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices, by fingerprint or name; another name for the one; labels for all."""

    devices: Which
    name: Name | None = None
    labels: Annotated[dict[Name, Short], Meta(max_length=64)] = msgspec.field(default_factory=dict)


class RejectRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices, by fingerprint or name."""

    devices: Which


@verb("gateway.pending", PendingRequest)
async def pending(gateway: Gateway, asker: Asker, request: PendingRequest) -> Any:
    """List the devices that wait to be accepted, and which of their bounds are reached."""
    waiting = await gateway.store.pending()
    sources = Counter(device.source for device in waiting)
    invites = Counter(device.token_id for device in waiting)

    def full(device: PendingDevice) -> list[str]:
        reached = {
            "source": sources[device.source] >= limits.MAX_FROM_SOURCE,
            "invite": invites[device.token_id] >= limits.MAX_OF_INVITE,
            "all": len(waiting) >= limits.MAX_PENDING,
        }
        return [which for which, is_full in reached.items() if is_full]

    return LongAnswer(
        in_slices(gateway.slices, waiting, lambda one: _told(one) | {"full": full(one)})
    )


@verb("gateway.accept", AcceptRequest, changes=True)
async def accept(gateway: Gateway, asker: Asker, request: AcceptRequest) -> Any:
    """Let in devices that wait, each on its own: one that fails takes no other along."""
    _check(request)
    answers = []
    for wanted, device in await _wanted(gateway, request.devices):
        if isinstance(device, str):
            answers.append(_failed(wanted, NotFound.code, device))
            continue
        try:
            made, found = await gateway.store.accept_pending(
                device.spki, request.name, request.labels
            )
        except StoreUnavailable:
            raise
        except StoreError as error:
            answers.append(_failed(wanted, error.code, str(error)))
            continue
        gateway.metrics.joins.labels("accepted").inc()
        await _audit(gateway, asker, "join.accepted", found, made.id, made.name)
        told = {"ok": True, "id": made.id, "provisional": made.name_provisional}
        answers.append(_about(wanted, found) | told | {"name": made.name})
    await gateway.pending.refresh()
    return answers


@verb("gateway.reject", RejectRequest, changes=True)
async def reject(gateway: Gateway, asker: Asker, request: RejectRequest) -> Any:
    """Refuse devices that wait, and their keys for a day."""
    answers = []
    for wanted, device in await _wanted(gateway, request.devices):
        if isinstance(device, str):
            answers.append(_failed(wanted, NotFound.code, device))
            continue
        found = await gateway.store.reject_pending(device.spki)
        if found is None:
            answers.append(_failed(wanted, NotFound.code, "it does not wait any more"))
            continue
        gateway.metrics.joins.labels("rejected").inc()
        await _audit(gateway, asker, "join.rejected", found)
        answers.append(_about(wanted, found) | {"ok": True})
    await gateway.pending.refresh()
    return answers


def _check(request: AcceptRequest) -> None:
    if request.name is not None and len(request.devices) > 1:
        raise BadRequest("a name is for one device: accept the others without")
    try:
        if request.name is not None:
            check_name(request.name)
        for key, value in request.labels.items():
            parse_label(f"{key}={value}")
    except (BadName, BadLabel) as error:
        raise BadRequest(str(error)) from None


async def _wanted(gateway: Gateway, words: Sequence[str]) -> list[tuple[str, PendingDevice | str]]:
    """Return each word with the device it means, or with why it means none."""
    waiting = await gateway.store.pending()
    return [(word, _match(word, waiting)) for word in dict.fromkeys(words)]


def _match(word: str, waiting: Sequence[PendingDevice]) -> PendingDevice | str:
    # What can be read as a fingerprint is one: no device may take another's for its name.
    prefix = read_fingerprint(word)
    if prefix is not None:
        found = [device for device in waiting if device.spki.startswith(prefix)]
    else:
        found = [device for device in waiting if device.name == word]
    if len(found) == 1:
        return found[0]
    if found:
        return "several keys have this fingerprint: somebody made them so; reject their invite"
    return f"no device waits as {printable(word, 64)!r} (see: rshell pending)"


def _failed(wanted: str, code: str, message: str) -> dict[str, Any]:
    return {"wanted": wanted, "ok": False, "code": code, "message": message}


def _about(wanted: str, device: PendingDevice) -> dict[str, Any]:
    return {"wanted": wanted, "fingerprint": fingerprint(device.spki), "name": device.name}


def _told(device: PendingDevice) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(device.spki),
        "name": device.name,
        "pattern": device.name_pattern,
        "within": device.within,
        "labels": dict(device.labels),
        "address": device.address,
        "source": device.source,
        "first_seen": rfc3339(device.first_seen),
        "last_seen": rfc3339(device.last_seen),
        "invite": device.token_id.hex(),
        "invited_by": device.invited_by,
    }


async def _audit(
    gateway: Gateway,
    asker: Asker,
    kind: str,
    device: PendingDevice,
    owner: str | None = None,
    name: str | None = None,
) -> None:
    caller = asker.caller
    await gateway.store.append_audit(
        AuditRecord(
            kind=kind,
            operator=asker.name,
            device=owner,
            device_name=name,
            door=caller.door if caller else None,
            address=caller.address if caller else None,
            status="ok",
            details={
                "fingerprint": fingerprint(device.spki),
                "proposed": device.name,
                "from": device.address,
                "invite": device.token_id.hex(),
            },
        )
    )
