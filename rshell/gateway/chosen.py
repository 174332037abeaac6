"""From what operators write to what is meant: a selector to devices, a name to what has it.

Facts of devices are read only where somebody asks for them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import attrs

from rshell.access import selectors
from rshell.access.narrowing import conditions_of
from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.device_rows import state_of
from rshell.gateway.long_answers import ROWS_A_TURN
from rshell.gateway.presence import LiveDevice, State
from rshell.gateway.rights import no_such_device
from rshell.handlers import BadRequest
from rshell.link.core.errors import ErrorCode
from rshell.store.listing import Page
from rshell.store.narrowing import Narrowing
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Chosen", "check_named", "chosen", "selector_of"]

#: Devices that are looked up one by one; for more, every row that can be meant is read.
MAX_AMONG = 2_000
_AWAY = (State.LOST.value, State.NEVER.value)
_FACT_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


@attrs.frozen
class Chosen:
    """A device that a selector picked.

    Attributes:
        live: Its link at this moment.
        facts: Those that were asked for, and the few of HELLO.
    """

    device: Device
    live: LiveDevice | None
    facts: Mapping[str, Any]


def selector_of(text: str) -> selectors.Selector | None:
    """Return the selector, None for an empty one, which means all.

    Raises:
        BadRequest: It cannot be understood.
    """
    if not text.strip():
        return None
    try:
        return selectors.parse(text)
    except selectors.BadSelector as error:
        raise BadRequest(error.message) from None


async def chosen(
    gateway: Gateway,
    operator: Operator,
    selector: selectors.Selector | None,
    facts: Collection[str] = (),
    among: Collection[str] | None = None,
) -> AsyncGenerator[list[Chosen], None]:
    """Yield the active devices that a selector picks, by name, a page at a time.

    The store is asked only for rows that can be meant; the selector decides on each of them, as it
    is when its page is read.  Whoever asks for the next page has a turn for it
    (`rshell.gateway.long_answers`).

    Args:
        gateway: Its store and who is live.
        operator: Only devices that exist for them.
        selector: None picks all.
        facts: Names of facts that are wanted besides those that the selector needs.
        among: Ids of the only devices of interest; None does not limit them.

    Raises:
        OpenRefused: Too many such listings are under way; before the first page.
    """
    asked = frozenset(facts) | (selector.fact_names if selector else frozenset())
    names = [name for name in sorted(asked) if _FACT_NAME.fullmatch(name)]
    if among is None and selector is not None and selector.single_name is not None:
        yield _picked(gateway, operator, selector, await _one(gateway, selector.single_name, names))
        return
    narrowing = _narrowing(gateway, selector, among)
    page, left = await gateway.store.first_page(narrowing, ROWS_A_TURN, names)
    slices = gateway.slices
    with slices.lasting(operator.name) if left else nullcontext():
        while True:
            await slices.turn(len(page.devices))
            yield _picked(gateway, operator, selector, page)
            if not left:
                break
            page = await gateway.store.page(left.take(), names)


async def check_named(
    gateway: Gateway, asker: Operator, *, operator: str | None = None, device: str | None = None
) -> None:
    """See whether those that a listing was asked for exist, once it came out empty.

    A name that is misspelt must not read as "nothing".  Who is no administrator is told the same
    of what does not exist and of what is not theirs to see.

    Raises:
        OpenRefused: One does not.
    """
    admin = gateway.rights.is_admin(asker)
    if operator and admin and await gateway.store.operator(operator) is None:
        raise OpenRefused(
            ErrorCode.NOT_FOUND,
            f"there is no operator {printable(operator, 64)!r} (see: rshell operators)",
        )
    if device and not admin:
        await gateway.rights.device(asker, device)
    elif device and await gateway.store.device(device) is None:
        raise no_such_device(device)


async def _one(gateway: Gateway, name: str, names: Collection[str]) -> Page:
    device = await gateway.store.device(name)
    if device is None or not device.active:
        return Page((), {})
    facts = await gateway.store.all_facts(names, [device.id]) if names else {}
    return Page((device,), facts)


def _narrowing(
    gateway: Gateway, selector: selectors.Selector | None, among: Collection[str] | None
) -> Narrowing:
    """Return what the database need not look at."""
    few = len(gateway.presence) <= MAX_AMONG
    if among is None and selector is not None and few and not selector.state_allows(*_AWAY):
        among = [live.device.id for live in gateway.presence]
    return Narrowing(
        () if selector is None else conditions_of(selector),
        None if among is None or len(among) > MAX_AMONG else frozenset(among),
    )


def _picked(
    gateway: Gateway, operator: Operator, selector: selectors.Selector | None, page: Page
) -> list[Chosen]:
    found = []
    for device in gateway.rights.seen(operator, page.devices):
        live = gateway.presence.of_id(device.id)
        own: Mapping[str, Any] = device.facts if live is None else live.hello.facts
        told = page.facts.get(device.id)
        if told:
            own = {**own, **told}
        if selector is None or selector.matches(
            device.name,
            device.labels,
            state=state_of(gateway, device, live).value,
            device_id=device.id,
            facts=own,
        ):
            found.append(Chosen(device, live, own))
    return found
