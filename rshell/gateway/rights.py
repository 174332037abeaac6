"""Rights: the book of roles as this gateway has it now, and what follows when it changes.

Decisions are made in memory: one command on 5,000 devices asks 5,000 times.  Every change goes to
the store first, then here, and what is no longer granted ends at once: sessions that somebody is
attached to, waits for, or has left running on a device.  Devices that are away are judged when they
list theirs (rule S2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from rshell.access.printable import printable
from rshell.access.roles import Decision, GrantView, RoleBook
from rshell.access.terms import SessionTerms
from rshell.gateway.callers import OpenRefused
from rshell.gateway.live_sessions import LiveSession
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Sessions
from rshell.store.audit import SessionStory
from rshell.store.records import Device, Grant, Operator, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rshell.gateway.core import Gateway

__all__ = ["Rights", "no_such_device"]


def no_such_device(name: str) -> OpenRefused:
    """Return the one answer for a device that is not there and one that is not theirs to see."""
    shown = printable(name, 64)
    return OpenRefused(ErrorCode.NOT_FOUND, f"no device is called {shown!r} (see: rshell devices)")


class Rights:
    """Decides for one gateway, and ends what is no longer granted.

    Attributes:
        version: Rises with every change of roles, labels or names; who decided by an older one and
            has waited since, asks again.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._book = RoleBook()
        #: Operators whose roles changed since this process began: a link's own record is older.
        self._changed: dict[str, Operator] = {}
        self._lock = DeferredLock()
        self.version = 0

    async def start(self) -> None:
        """Read the roles."""
        self._book = RoleBook(await self._gateway.store.roles())

    # -- asking --------------------------------------------------------------------------------

    def current(self, operator: Operator) -> Operator:
        """Return an operator with the roles of now."""
        return self._changed.get(operator.name, operator)

    def decide(
        self,
        operator: Operator,
        device: Device | None,
        handler: str,
        login: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Decide as `RoleBook.decide` does, by the roles of now."""
        return self._book.decide(self.current(operator), device, handler, login, request)

    def explain(
        self,
        operator: Operator,
        device: Device,
        handler: str,
        login: str | None,
        request: Mapping[str, Any] | None,
    ) -> list[GrantView]:
        """Return every grant of an operator, and what it lacks for this."""
        return self._book.explain(self.current(operator), device, handler, login, request)

    def terms(
        self,
        operator: Operator,
        device: Device | None,
        handler: str,
        login: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> SessionTerms:
        """Return what holds for such a session, by the roles of now."""
        return self._book.terms(self.current(operator), device, handler, login, request)

    def may_watch(self, operator: Operator, device: Device) -> str | None:
        """Return the rule by which an operator looks on at others' sessions there, or None."""
        return self._book.may_watch(self.current(operator), device)

    def admin_rule(self, operator: Operator) -> str | None:
        """Return the rule by which an operator is an administrator, or None."""
        return self._book.admin_rule(self.current(operator))

    def shortest_time_limit(self) -> int:
        """Return the shortest time limit of any role, in seconds; 0 if none has one."""
        return self._book.shortest_time_limit

    def may_watch_any(self, operator: Operator) -> bool:
        """Whether there may be sessions of others that an operator looks on at."""
        return self._book.may_watch_any(self.current(operator))

    def sees(self, operator: Operator, device: Device) -> bool:
        """Whether a device exists for an operator."""
        return self._book.sees(self.current(operator), device)

    def is_admin(self, operator: Operator) -> bool:
        """Whether an operator may everything but, perhaps, use the console."""
        return self._book.is_admin(self.current(operator))

    def knows(self, role: str) -> bool:
        """Whether there is such a role."""
        return role in self._book

    async def device(self, operator: Operator, name_or_id: str) -> Device:
        """Return an active device that an operator may see: as its link has it, else the store.

        Raises:
            OpenRefused: There is none, or it is not theirs to see: in the same words.
        """
        live = self._gateway.presence.find(name_or_id)
        device = live.device if live else await self._gateway.store.device(name_or_id)
        if device is None or not device.active or not self.sees(operator, device):
            raise no_such_device(name_or_id)
        return device

    def seen(self, operator: Operator, devices: Iterable[Device]) -> list[Device]:
        """Return the devices that an operator may see."""
        operator = self.current(operator)
        if self._book.is_admin(operator):
            return list(devices)
        return [device for device in devices if self._book.sees(operator, device)]

    # -- changing ------------------------------------------------------------------------------

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Make one change of roles or operators at a time: the last administrator must stay."""
        await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    async def put_role(self, name: str, grants: Sequence[Grant], by: str, *, add: bool) -> Role:
        """Make a role or change one, whose grants were checked; what it takes away ends at once.

        Raises:
            OpenRefused: Nobody would be an administrator any more.
            StoreError: Too many.
        """
        async with self.changing():
            if not add:
                wanted = Role(name=name, grants=tuple(grants), changed_at=0, changed_by=by)
                await self._keep_one_admin(self._book.changed(name, wanted))
            role = await self._gateway.store.put_role(name, grants, by, add=add)
            self._book = self._book.changed(name, role)
        await self.enforce()
        return role

    async def remove_role(self, name: str, *, force: bool) -> list[str]:
        """Remove a role; with ``force`` also one that operators have.

        Returns:
            The operators who had it.

        Raises:
            OpenRefused: Nobody would be an administrator any more.
            StoreError: There is none, or it is in use.
        """
        async with self.changing():
            left = self._book.changed(name, None)
            await self._keep_one_admin(left)
            had = await self._gateway.store.remove_role(name, force=force)
            self._book = left
            for operator in await self._gateway.store.operators():
                if operator.name in had:
                    self._changed[operator.name] = operator
        await self.enforce()
        return had

    async def assign(
        self, name: str, put: Collection[str], remove: Collection[str] = ()
    ) -> Operator:
        """Give an operator roles, and take others away; that holds at once.

        Raises:
            OpenRefused: There is no such role, or nobody would be an administrator any more.
            StoreError: There is no such operator.
        """
        async with self.changing():
            for role in put:
                if role not in self._book:
                    raise OpenRefused(
                        ErrorCode.NOT_FOUND,
                        f"there is no role {printable(role, 64)!r} (see: rshell roles list)",
                    )
            if remove:
                await self._keep_one_admin(self._book, name, frozenset(remove) - frozenset(put))
            operator = await self._gateway.store.set_operator_roles(name, put, remove)
            self._changed[operator.name] = operator
        await self.enforce()
        return operator

    async def _keep_one_admin(
        self, book: RoleBook, losing: str = "", roles: frozenset[str] = frozenset()
    ) -> None:
        """Check that somebody is an administrator by this book.

        Raises:
            OpenRefused: Nobody is.
        """
        for operator in await self._gateway.store.operators():
            kept = [one for one in operator.roles if operator.name != losing or one not in roles]
            if operator.active and any(book.grants_admin(one) for one in kept):
                return
        raise OpenRefused(
            ErrorCode.POLICY, "nobody would be an administrator any more: invite another one first"
        )

    def forget(self, operator: str) -> None:
        """An operator was revoked: the next one of that name brings a record of their own."""
        self._changed.pop(operator, None)

    async def device_changed(self, device: Device) -> None:
        """Labels or name of a device changed: end what its roles no longer grant on it."""
        await self.enforce(device)

    # -- ending --------------------------------------------------------------------------------

    async def enforce(self, device: Device | None = None) -> None:
        """End every session that is no longer granted, on one device or on all."""
        self.version += 1
        ended = self._end_attempts(device)
        ended += await self._end_left_alone(device)
        if ended:
            self._log.info("ended {count} sessions that are no longer granted", count=ended)

    def _end_attempts(self, device: Device | None) -> int:
        board = self._gateway.switchboard
        attempts = board.sessions() if device is None else board.of_device(device.id)
        ended = 0
        for attempt in attempts:
            attempt.device = device or self._newest(attempt.device)
            refused = self.refusal(attempt)
            if refused is None:
                continue
            ended += 1
            if attempt.foreign and self._granted_to_owner(attempt):
                attempt.part(refused.code, refused.message)
            else:
                self.end_on_device(attempt.device.id, [attempt.session])
                attempt.end(refused.code, refused.message)
        return ended

    def refusal(self, attempt: LiveSession, operator: Operator | None = None) -> OpenRefused | None:
        """Decide anew about an attempt that was granted before; None if it still is.

        Args:
            attempt: Its device is the newest that is known.
            operator: Newer than its caller's record.
        """
        attempt.judged = self.version
        who = operator or attempt.caller.operator
        if attempt.foreign:
            rule = self.may_watch(who, attempt.device) if attempt.view else self.admin_rule(who)
            if rule is None:
                text = "no longer granted: this session belongs to somebody else"
                return OpenRefused(ErrorCode.POLICY, text)
            who = attempt.owner  # it is theirs, and ends when they lose it
        decision = self._decide(attempt, who)
        if decision:
            return None
        return OpenRefused(ErrorCode.POLICY, f"no longer granted: {decision.reason}")

    def _decide(self, attempt: LiveSession, operator: Operator) -> Decision:
        return self.decide(operator, attempt.device, attempt.handler, attempt.login, attempt.asked)

    def _granted_to_owner(self, attempt: LiveSession) -> bool:
        return bool(self._decide(attempt, attempt.owner))

    def may_live(self, operator: Operator | None, device: Device, story: SessionStory) -> bool:
        """Whether a session may go on, by what was asked when it began.

        What the device says of handler and login does not count: it is what the gate let pass that
        was granted.
        """
        if operator is None or story.first is None:
            return False  # what no committed row tells of, did not come through the gate
        record = story.first.record
        if record.operator != operator.name or record.device != device.id:
            return False
        request = record.details.get("request")
        asked = request if isinstance(request, dict) else None
        return bool(self.decide(operator, device, record.handler or "", record.login, asked))

    async def _end_left_alone(self, device: Device | None) -> int:
        """End sessions on live devices that nobody is attached to."""
        gateway = self._gateway
        table = gateway.sessions
        entries = table.entries() if device is None else table.of_device(device.id)
        alone = [
            entry
            for entry in entries
            if not gateway.switchboard.has_attempt(entry.device_id, entry.session)
        ]
        if not alone:
            return 0
        operators = {one.name: one for one in await gateway.store.operators()}
        ended = 0
        for entry in alone:
            operator = operators.get(entry.operator)
            live = gateway.presence.find(entry.device_id)
            if live is None or (operator is not None and self.is_admin(operator)):
                continue
            story = await gateway.store.session_story(entry.session.hex())
            if not self.may_live(operator, live.device, story):
                ended += 1
                self.end_on_device(entry.device_id, [entry.session])
                table.forget(entry.device_id, entry.session)
        return ended

    def end_on_device(self, device_id: str, sessions: list[bytes]) -> None:
        """Tell a device to end sessions, if it is there."""
        live = self._gateway.presence.find(device_id)
        if live is not None and not live.link.closed:
            # A device ignores what it does not have.
            live.link.sessions(Sessions(end=sessions))

    def _newest(self, device: Device) -> Device:
        live = self._gateway.presence.find(device.id)
        return device if live is None else live.device
