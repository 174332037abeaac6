"""``sessions``, ``links``, ``pending``, ``why()``, ``metrics()``: what the gateway tells."""

from __future__ import annotations

from typing import Any

from rshell.client import Client, Decision, LinkRecord, PendingDevice, RshellError, SessionInfo
from rshell.client import Device as DeviceRow
from rshell.client.session_listing import SESSION_HEADINGS, find_session, session_cells
from rshell.doors.console.results import Call, Rows, Shown
from rshell.doors.console.screen import Screen
from rshell.doors.console.takeover import TakenOver

__all__ = ["Links", "Pending", "Sessions", "Text", "metrics_of", "why_of"]


class Text(str, Shown):
    """Text that is shown as it is, not as a literal."""

    __slots__ = ()

    def look(self, columns: int) -> str:
        from rshell.doors.console.painting import safe_text

        return safe_text(self)


class Sessions:
    """The sessions that live on devices: ``sessions``, ``sessions("site=berlin")``."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen

    def __repr__(self) -> str:
        return "<sessions>"

    def __call__(
        self,
        selector: str = "",
        *,
        everybodys: bool = True,
        operator: str = "",
        door: str = "",
        state: str = "",
    ) -> Call[Rows]:
        """List them, on the devices that a selector picks."""

        async def work() -> Rows:
            found = await self._client.sessions(
                selector, everybodys=everybodys, operator=operator, door=door, state=state
            )
            return Rows(found, SESSION_HEADINGS, session_cells, "no sessions")

        return Call("sessions", work)

    def default_call(self) -> Call[Rows]:
        """Return what is shown for ``sessions`` alone."""
        return self()

    def end(self, session: str | SessionInfo) -> Call[None]:
        """End a session, by its record or the first digits of its id."""

        async def work() -> None:
            await self._client.end_session((await self._found(session)).session)

        return Call(f"end of session {_id_of(session)}", work)

    def watch(self, session: str | SessionInfo) -> Call[None]:
        """Look on at a session, on this terminal, until it ends or Ctrl-] is pressed."""

        async def work() -> None:
            screen = self._screen
            if not screen.is_terminal:
                raise RshellError("usage", "watching needs a terminal", "use client.attach()")
            info = await self._found(session)
            await TakenOver.watch(self._client, screen, info).run()

        return Call(f"session {_id_of(session)}", work)

    async def _found(self, session: str | SessionInfo) -> SessionInfo:
        if isinstance(session, SessionInfo):
            return session
        return await find_session(self._client, session)


def _id_of(session: str | SessionInfo) -> str:
    return session if isinstance(session, str) else session.session


class Links:
    """The devices' links: ``links``, ``links("site=berlin")``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return "<links>"

    def __call__(self, selector: str = "") -> Call[Rows]:
        """List them, of the devices that a selector picks."""

        async def work() -> Rows:
            found = [row for row in await self._client.devices(selector) if row.live]
            headings = ("DEVICE", "STATE", "EPOCH", "ADDRESS", "CONNECTED", "SILENT", "AGENT")
            return Rows(found, headings, _link_cells, "no device is connected")

        return Call("links", work)

    def default_call(self) -> Call[Rows]:
        """Return what is shown for ``links`` alone."""
        return self()


def _link_cells(row: DeviceRow) -> tuple[str, ...]:
    silent = "" if row.silent_ms is None else f"{row.silent_ms / 1000:.0f} s"
    return (
        row.name,
        row.state,
        "" if row.epoch is None else f"{row.epoch:x}",
        row.address or "",
        row.connected_at or "",
        silent,
        row.agent_version or "",
    )


class Pending:
    """The devices that wait to be let in: ``pending``, ``pending.accept("ABCD-...")``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return "<pending>"

    def __call__(self) -> Call[Rows]:
        """List them; compare the fingerprints with what the devices show."""

        async def work() -> Rows:
            found = await self._client.pending()
            headings = ("FINGERPRINT", "NAME", "ADDRESS", "FIRST ASKED", "LAST ASKED")
            return Rows(found, headings, _pending_cells, "no device waits")

        return Call("pending", work)

    def default_call(self) -> Call[Rows]:
        """Return what is shown for ``pending`` alone."""
        return self()

    def accept(
        self, *devices: str | PendingDevice, name: str | None = None, **labels: str
    ) -> Call[Rows]:
        """Let in devices, by fingerprint, name or record; ``name`` and labels for them."""
        words = [_fingerprint(one) for one in devices]

        async def work() -> Rows:
            decided = await self._client.accept(*words, name=name, labels=labels)
            return _decisions(decided, "accepted")

        return Call(f"accept {' '.join(words)}", work)

    def reject(self, *devices: str | PendingDevice) -> Call[Rows]:
        """Refuse devices, and their keys for a day."""
        words = [_fingerprint(one) for one in devices]

        async def work() -> Rows:
            return _decisions(await self._client.reject(*words), "rejected")

        return Call(f"reject {' '.join(words)}", work)


def _fingerprint(device: str | PendingDevice) -> str:
    return device if isinstance(device, str) else device.fingerprint


def _pending_cells(row: PendingDevice) -> tuple[str, ...]:
    name = row.name if row.within else f"{row.name} !"
    return (row.fingerprint, name, row.address, row.first_seen or "", row.last_seen or "")


def _decisions(decided: list[Decision], done: str) -> Rows:
    def cells(one: Decision) -> tuple[str, ...]:
        told = f"not {done}: {one.message}" if not one.ok else done
        return (one.wanted, one.name or "", "provisional" if one.provisional else "", told)

    return Rows(decided, ("DEVICE", "NAME", "", ""), cells, "nothing was asked for")


def why_of(client: Client, device: Any, limit: int) -> Call[Rows]:
    """Return what happened to a device's link."""
    name = device if isinstance(device, str) else device.name

    async def work() -> Rows:
        found = await client.why(name, limit)
        return Rows(found, ("WHEN", "WHO", "WHAT", "MESSAGE"), _why_cells, "nothing is recorded")

    return Call(f"why {name}", work)


def _why_cells(record: LinkRecord) -> tuple[str, ...]:
    # How long it took is in the message already.
    return (record.at, record.source, record.kind, record.message)


def metrics_of(client: Client, containing: str) -> Call[Text]:
    """Return the gateway's counters, those whose lines contain a text."""

    async def work() -> Text:
        lines = (await client.metrics()).splitlines()
        return Text("\n".join(one for one in lines if containing in one and one[:1] != "#"))

    return Call("metrics", work)
