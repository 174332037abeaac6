"""Device: one device, as a person at the console uses it.

Each method is a `rshell.client` call as the console's operator; roles, audit and the device's own
policy hold as through every door.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError

from rshell.client import (
    Client,
    Handler,
    Outcome,
    Refused,
    RshellError,
    Tail,
    TailLine,
    TailNotice,
    describe_outcome,
)
from rshell.client.commands import Collected, exec_request
from rshell.doors.console.painting import DIM, safe_text, tint
from rshell.doors.console.results import Call, Done, Rows
from rshell.doors.console.screen import Screen
from rshell.doors.console.signatures import help_of, request_of, signature_of
from rshell.doors.console.takeover import TakenOver
from rshell.handlers import RebootRequest, TailRequest
from rshell.link.clock import TimerWheel

if TYPE_CHECKING:
    from rshell.client import Session

__all__ = ["Device", "HandlerMethod", "Workbench", "command_of"]

#: What is kept of a command's output for ``_``.
MAX_OUTPUT_BYTES = 4 * 1024 * 1024


@attrs.define(eq=False)
class Workbench:
    """What the console's objects work with.

    Attributes:
        client: Acts as the console's operator.
        screen: Shows.
        wheel: Timers.
        known: Handlers by device, as they were told last.
    """

    client: Client
    screen: Screen
    wheel: TimerWheel
    known: dict[str, list[Handler]] = attrs.field(factory=dict)


def command_of(
    command: str | bytes | Sequence[str | bytes], timeout: float | None
) -> dict[str, Any]:
    """Return the request for a line (text) or a program with its arguments (a list)."""
    if isinstance(command, str | bytes):
        request = exec_request(None, command, timeout)
    else:
        request = exec_request(list(command), None, timeout)
    encoded: dict[str, Any] = msgspec.to_builtins(request)
    return encoded


class _Watching(Collected):
    """Collects output, and shows what a handler tells of its progress."""

    def __init__(self, screen: Screen, device: str) -> None:
        super().__init__(MAX_OUTPUT_BYTES)
        self._screen = screen
        self._device = device

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        self._screen.show(tint(DIM, safe_text(f"{self._device}: {kind} {body}", 400)))


class Device:
    """A device by its name or id; whether there is one, the first use tells.

    Any handler that the device has is a method of this object, too: ``device.HANDLER(…)``, with
    the arguments that ``help(device.HANDLER)`` tells.
    """

    def __init__(self, workbench: Workbench, name: str) -> None:
        self._workbench = workbench
        self.name = name

    def __repr__(self) -> str:
        return f"<device {safe_text(self.name, 64)}>"

    def __getattr__(self, name: str) -> HandlerMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return HandlerMethod(self, name.replace("_", "-"))

    def __dir__(self) -> list[str]:
        handlers = self._workbench.known.get(self.name, ())
        names = [one.name.replace("-", "_").replace(".", "_") for one in handlers]
        return [*super().__dir__(), *names]

    # -- commands --------------------------------------------------------------------------------

    def run(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        input: bytes = b"",  # as subprocess.run calls it
        login: str | None = None,
        timeout: float | None = None,
    ) -> Call[Done]:
        """Run a command: text is a line for the login's shell, a list runs as it is."""
        request = command_of(command, timeout)
        return Call(
            f"run {command!r} on {self.name}",
            partial(self._use, "exec", request, input=input, login=login, timeout=None),
        )

    def call(
        self,
        handler: str,
        *arguments: Any,
        input: bytes = b"",  # as subprocess.run calls it
        login: str | None = None,
        timeout: float | None = None,
        **named: Any,
    ) -> Call[Done]:
        """Call any handler, also a plug-in's."""

        async def work() -> Done:
            found = await self._handler(handler)
            request = request_of(found, arguments, named)
            return await self._use(found.name, request, input=input, login=login, timeout=timeout)

        return Call(f"{handler} on {self.name}", work)

    async def _use(
        self,
        handler: str,
        request: dict[str, Any],
        *,
        input: bytes,  # as subprocess.run calls it
        login: str | None,
        timeout: float | None,  # noqa: ASYNC109  # the device keeps it, not this coroutine
    ) -> Done:
        collected = _Watching(self._workbench.screen, self.name)
        session = self._workbench.client.open(
            self.name, handler, request, collected, login=login, timeout=timeout
        )
        session.write(input)
        session.write_eof()
        return Done.new(collected.completed(self.name, await _outcome_of(session)))

    def shell(self, login: str | None = None) -> Call[None]:
        """Open a shell that takes this terminal, until it ends or Ctrl-] is pressed."""

        async def work() -> None:
            screen = self._workbench.screen
            if not screen.is_terminal:
                raise RshellError("usage", "a shell needs a terminal", "use run()")
            await TakenOver.shell(self._workbench.client, screen, self.name, login).run()

        return Call(f"shell on {self.name}", work)

    def tail(
        self,
        *paths: str | bytes,
        unit: str | None = None,
        lines: int = 10,
        follow: bool = False,
        grep: str | None = None,
        login: str | None = None,
    ) -> Call[None]:
        """Show the ends of files, or of a systemd unit's journal; with ``follow`` until Ctrl-C."""
        names = [p if isinstance(p, bytes) else p.encode("utf-8", "surrogateescape") for p in paths]
        request = TailRequest(
            paths=names,
            units=[unit] if unit else [],
            journal=not (names or unit),
            lines=lines,
            follow=follow,
            pattern=grep,
        )
        return Call(f"tail on {self.name}", partial(self._tail, request, login))

    async def _tail(self, request: TailRequest, login: str | None) -> None:
        client, screen = self._workbench.client, self._workbench.screen
        tail = Tail(client, self.name, request, _TailView(screen), client.reactor, login=login)
        screen.flow = lambda stopped: tail.pause() if stopped else tail.resume()
        tail.start()
        try:
            outcome = await tail.outcome
        except CancelledError:
            tail.cancel()
            raise
        finally:
            screen.flow = None
        if outcome.status != "ok":
            raise RshellError(outcome.code or outcome.status, describe_outcome(outcome), "")

    # -- files -----------------------------------------------------------------------------------

    def put(
        self, source: str, target: str = "", *, recursive: bool = False, login: str | None = None
    ) -> Call[Any]:
        """Copy a file of the gateway's machine to the device (``target``: its home)."""
        work = partial(self._copy, (None, source), (self.name, target), recursive, login)
        return Call(f"put {source} on {self.name}", work)

    def get(
        self, source: str, target: str = ".", *, recursive: bool = False, login: str | None = None
    ) -> Call[Any]:
        """Copy a file of the device to the gateway's machine."""
        work = partial(self._copy, (self.name, source), (None, target), recursive, login)
        return Call(f"get {source} from {self.name}", work)

    async def _copy(
        self,
        source: tuple[str | None, str],
        target: tuple[str | None, str],
        recursive: bool,
        login: str | None,
    ) -> Any:
        # Late: copies are rare here, and their modules are many.
        from rshell.client.files import Copy, CopyOptions, FileResult, Place

        screen = self._workbench.screen

        def told(result: FileResult) -> None:
            source = result.source.decode("utf-8", "replace")
            text = f"{result.status} {source} {result.message}".rstrip()
            screen.show(tint(DIM, safe_text(text, 400)))

        options = CopyOptions(recursive=recursive, login=login)
        places = [
            Place(device, path.encode("utf-8", "surrogateescape"))
            for device, path in (source, target)
        ]
        copying = Copy.new(self._workbench.client, places[:1], places[1], options, told)
        try:
            return await copying.run()
        except CancelledError:
            copying.stop()
            raise

    # -- the device ------------------------------------------------------------------------------

    def reboot(
        self,
        wait: float | None = 300.0,
        *,
        reason: str = "",
        delay: int = 0,
        login: str | None = None,
    ) -> Call[Outcome]:
        """Restart it, and wait so many seconds until it is back; None does not wait."""
        request = RebootRequest(reason=reason, delay_seconds=delay)

        async def work() -> Outcome:
            from rshell.client.reboots import Reboot

            client, screen = self._workbench.client, self._workbench.screen
            reboot = Reboot(
                client,
                client.reactor,
                self.name,
                request,
                wait_seconds=wait,
                progress=lambda step: screen.show(
                    tint(DIM, safe_text(f"{self.name}: {step.step} {step.message or ''}", 300))
                ),
                login=login,
            )
            try:
                return await reboot.run()
            except CancelledError:
                reboot.cancel()
                raise

        return Call(f"reboot {self.name}", work)

    def info(self) -> Call[Any]:
        """Return its row of the listing."""

        async def work() -> Any:
            found = await self._workbench.client.devices(self.name)
            if not found:
                raise Refused("not-found", f"no device is called {self.name}", "")
            return found[0]

        return Call(f"info of {self.name}", work)

    def facts(self) -> Call[Any]:
        """Return what it told of itself last."""
        return Call(f"facts of {self.name}", lambda: self._workbench.client.facts(self.name))

    def probe(self) -> Call[Any]:
        """Ask it for a sign of life."""
        return Call(f"probe of {self.name}", lambda: self._workbench.client.probe(self.name))

    def handlers(self) -> Call[Rows]:
        """List what it can do."""

        async def work() -> Rows:
            found = await self._learn_handlers()
            return Rows(
                found,
                ("HANDLER", "WHAT IT DOES", "CALLED BY"),
                lambda one: (one.name, one.summary, f"{one.name}{signature_of(one)}"),
            )

        return Call(f"handlers of {self.name}", work)

    async def _learn_handlers(self) -> list[Handler]:
        """Ask for its handlers, and keep them for completion."""
        found = await self._workbench.client.handlers(self.name)
        self._workbench.known[self.name] = found
        return found

    async def _handler(self, name: str) -> Handler:
        """Return one of its handlers.

        Raises:
            Refused: It has none of that name.
        """
        found = await self._learn_handlers()
        for one in found:
            if one.name == name or one.name.replace(".", "-") == name.replace("_", "-"):
                return one
        known = ", ".join(one.name for one in found)
        raise Refused("not-found", f"{self.name} has no handler {name}", f"it has: {known}")


class HandlerMethod:
    """A device's handler as a method; ``help()`` of it asks the device how it is called."""

    def __init__(self, device: Device, name: str) -> None:
        self._device = device
        self._name = name

    def __call__(self, *arguments: Any, **named: Any) -> Call[Done]:
        """Call it, with the arguments that its schema names."""
        return self._device.call(self._name, *arguments, **named)

    def __repr__(self) -> str:
        return f"<handler {safe_text(self._name, 64)} of {self._device!r}; help() tells more>"

    @property
    def __signature__(self) -> inspect.Signature:
        for one in self._device._workbench.known.get(self._device.name, ()):
            if one.name == self._name:
                return signature_of(one)
        raise AttributeError("__signature__")

    async def _help_text(self) -> str:
        """Return how it is called, as the device tells."""
        return help_of(await self._device._handler(self._name))


class _TailView:
    """Shows lines as they come."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def line_received(self, line: TailLine) -> None:
        self._screen.write(line.data.decode("utf-8", "replace"))

    def notice_received(self, notice: TailNotice) -> None:
        self._screen.show(tint(DIM, safe_text(notice.text, 400)))


async def _outcome_of(session: Session) -> Outcome:
    """Wait for a session's end; whoever gives up waiting ends it."""
    try:
        return await session.outcome
    except CancelledError:
        session.cancel()
        raise
