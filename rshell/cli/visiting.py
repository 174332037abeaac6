"""What the verbs for files share: a connection for each device, output with back-pressure, errors.

One place that fails does not stop the others.  The exit status is 255 if a device could not be
reached or used at all, 1 if anything else failed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.away import notice_for
from rshell.cli.fanout import Outputs
from rshell.cli.places import Place
from rshell.cli.presenting import encode_json
from rshell.cli.running import Surroundings
from rshell.client import Client, RshellError
from rshell.client.files import FilesConnection, FilesError

__all__ = ["Visit", "json_path"]

_PATTERN = re.compile(rb"[*?\[]")


def json_path(path: bytes, key: str = "path") -> dict[str, Any]:
    """Return a path as it goes into JSON: text, or base64 if it is no UTF-8."""
    try:
        return {key: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {key + "_b64": path}


class Visit:
    """One verb's use of one or more devices.

    Args:
        surroundings: Reactor and signals.
        client: Connected.
        login: The account on the devices.
        json: Whether to answer in JSON.

    Attributes:
        outputs: Our stdout and stderr.
        stopped: Whether the operator, or whoever read our output, wants no more.
        stopping: Called when that is so.
    """

    def __init__(
        self, surroundings: Surroundings, client: Client, login: str | None, json: bool
    ) -> None:
        self.outputs = Outputs(surroundings.reactor)
        self.stopped = False
        self.stopping: Callable[[], None] = lambda: None
        self.json = json
        self._surroundings = surroundings
        self._client = client
        self._login = login
        self._known: dict[str, FilesConnection | RshellError] = {}
        #: Devices of which it was said that they cannot be used.
        self._lost: set[str] = set()
        self._rooms: list[Deferred[None]] = []
        self._status = 0
        self._notice = notice_for(surroundings.reactor, partial(self.outputs.write, stderr=True))
        self.outputs.changed = self._outputs_changed
        surroundings.interrupts.act = self._interrupted

    async def run(
        self,
        places: list[Place],
        act: Callable[[FilesConnection, Place], Awaitable[None]],
        *,
        expand: bool = True,
        end: Callable[[], None] = lambda: None,
    ) -> int:
        """Do something at each place, one after the other, and return the exit status.

        Args:
            places: On devices.
            act: Its `RshellError` is shown, and the next place is next.
            expand: Replace patterns by what they match; one that matches nothing stands for
                itself.
            end: Called at the end, whatever happened.
        """
        try:
            for place in places:
                for one in await self.expand(place) if expand else [place]:
                    if not self.stopped:
                        await self.attempt(one, act)
        finally:
            end()
            await self._close()
        if self._surroundings.interrupts.received:
            return self._surroundings.interrupts.status
        return self.outputs.status(self._status)

    async def attempt(
        self, place: Place, act: Callable[[FilesConnection, Place], Awaitable[None]]
    ) -> None:
        """Do something at a place, and show why that was not possible."""
        try:
            await act(await self.connection(place), place)
        except RshellError as error:
            self.failed(place, error)

    async def connection(self, place: Place) -> FilesConnection:
        """Return the connection to a place's device.

        Raises:
            RshellError: There is none; said again for each place.
        """
        device = place.device or ""
        known = self._known.get(device)
        if known is None:
            try:
                known = await FilesConnection.open(self._client, device, self._login)
                known.session.link_changed = partial(self._notice.changed, device)
            except RshellError as error:
                known = error
            self._known[device] = known
        if isinstance(known, RshellError):
            raise known
        return known

    async def expand(self, place: Place) -> list[Place]:
        """Return what a place's pattern matches on its device; itself if it has none."""
        if not _PATTERN.search(place.path) or self.stopped:
            return [place]
        try:
            found = await (await self.connection(place)).glob(place.path)
        except RshellError:
            found = []  # said when the place itself is looked at
        return [Place(place.device, path) for path in found] or [place]

    # -- showing ---------------------------------------------------------------------------------

    def show(self, data: bytes) -> Deferred[None] | None:
        """Write to stdout; return what fires when there is room for more, if there is none."""
        self.outputs.write(data, False)
        if not self.outputs.full:
            return None
        room: Deferred[None] = Deferred()
        self._rooms.append(room)
        return room

    async def show_all(self, data: bytes) -> None:
        """Write to stdout and wait for room."""
        room = self.show(data)
        if room is not None:
            await room

    def say(self, place: Place, text: str) -> None:
        """Write a line about a place to stderr."""
        line = f"rshell: {place.shown}: {printable(text, 500)}\n"
        self.outputs.write(line.encode("utf-8"), True)

    def failed(self, place: Place, error: RshellError) -> None:
        """Show why something was not possible; what is wrong with a device is said once."""
        device = place.device or ""
        known = self._known.get(device)
        over = isinstance(known, RshellError) or (known is not None and known.error is not None)
        self._status = statuses.OURS if over else max(self._status, statuses.FAILED)
        if self.stopped or device in self._lost:
            return
        about: Place | None = place
        if over:
            self._lost.add(device)
            about = None
        elif isinstance(error, FilesError) and error.path:
            about = Place(place.device, error.path)
        if self.json:
            told = {"code": error.code, "message": error.message, "hint": error.hint}
            where = json_path(about.path) if about else {}
            answer = encode_json({"device": place.device, **where, "error": told})
            self.outputs.write(answer + b"\n", False)
            return
        text = error.message + (f" ({error.hint})" if error.hint else "")
        if about is not None:
            self.say(about, text)
        else:
            self.outputs.write(f"rshell: {text}\n".encode(), True)

    # -- the end ---------------------------------------------------------------------------------

    def _outputs_changed(self) -> None:
        if self.outputs.failed:
            self._stop()
        if not self.outputs.full or self.outputs.failed:
            rooms, self._rooms = self._rooms, []
            for room in rooms:
                room.callback(None)

    def _interrupted(self, count: int) -> None:
        if count > 1:
            self._surroundings.leave(self._surroundings.interrupts.status)
        else:
            self._stop()

    def _stop(self) -> None:
        """Want no more: what waits for an answer fails at once."""
        if not self.stopped:
            self.stopped = True
            self.stopping()
            for known in self._known.values():
                if isinstance(known, FilesConnection):
                    known.abort()

    async def _close(self) -> None:
        self._notice.stop()
        for known in self._known.values():
            if isinstance(known, FilesConnection) and known.error is None:
                known.abort() if self.stopped else await known.close()
        if not self._surroundings.interrupts.received:
            # Whoever pressed ^C does not wait for a reader that has stopped to read.
            await self.outputs.drained()
