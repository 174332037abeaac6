"""ConsoleSession: one console, as a door drives it.

To its door it is what a device's shell would be: input and window sizes in, bytes and an outcome
out.  With a terminal it is interactive; without one it runs its input, whole, as a program, and
with a line it runs that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableSequence
from typing import Annotated, Any, Protocol

from msgspec import Meta, Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditEnd, AuditRecord
from rshell.client import Client, RshellError
from rshell.doors.console.console import Console
from rshell.doors.console.editor import ConsoleLine
from rshell.doors.console.interpreter import MAX_SOURCE
from rshell.doors.console.namespace import BANNER, make_namespace
from rshell.doors.console.screen import Screen
from rshell.doors.console.terminal import ConsoleTerminal
from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.core import Gateway
from rshell.gateway.session_use import SessionUse
from rshell.handlers import Outcome, TerminalSize
from rshell.link.core.constants import SESSION_BYTES
from rshell.link.core.errors import ErrorCode
from rshell.store.errors import StoreError

__all__ = ["ConsoleReceiver", "ConsoleRequest", "ConsoleSession"]

#: What is kept for a door that takes nothing; what is printed beyond is dropped, and counted.
MAX_HELD_BYTES = 1024 * 1024
#: Input before the console is ready: typed ahead, or a whole program.
MAX_EARLY_BYTES = 4 * MAX_SOURCE


class ConsoleRequest(Struct, frozen=True, kw_only=True):
    """What a door asks for: what a shell or a command is asked for by, as far as it matters here.

    Attributes:
        terminal: None runs all input as one program.
        line: A program to run, and nothing else.
    """

    terminal: TerminalSize | None = None
    line: Annotated[bytes, Meta(max_length=MAX_SOURCE)] | None = None


class ConsoleReceiver(Protocol):
    """Takes what a console sends; ``session_ended`` comes last, once."""

    def session_opened(self) -> None:
        """The console is there."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Bytes for the terminal."""

    def session_ended(self, outcome: Outcome) -> None:
        """The operator has left, or was refused."""


class Reception(Protocol):
    """What a console asks of whoever lets it in."""

    gateway: Gateway

    async def admit(self, caller: Caller, session: str) -> int:
        """Return the number of the committed row that opens a console, or raise `OpenRefused`."""

    async def connect(self, caller: Caller) -> Client:
        """Return a client that acts as the operator."""

    def history(self, caller: Caller) -> MutableSequence[str]:
        """Return the operator's earlier lines."""

    def check(self, caller: Caller) -> None:
        """Raise `OpenRefused` if the operator may not have a console any more."""

    def opened(self, session: ConsoleSession) -> None:
        """It begins."""

    def closed(self, session: ConsoleSession) -> None:
        """It is over."""


class ConsoleSession:
    """One operator's console at one door.

    Args:
        reception: Lets it in, and out.
        caller: Who, through which door.
        request: A terminal, or a program.
        receiver: Takes what it sends.
    """

    _log = Logger()

    def __init__(
        self,
        reception: Reception,
        caller: Caller,
        request: ConsoleRequest,
        receiver: ConsoleReceiver,
    ) -> None:
        self.caller = caller
        self.session = os.urandom(SESSION_BYTES).hex()
        self._reception = reception
        self._request = request
        self._receiver = receiver
        self._client: Client | None = None
        self._console: Console | None = None
        self._terminal: ConsoleTerminal | None = None
        self._row: int | None = None
        self._lines = 0
        self._early = bytearray()
        self._input_ended = False
        self._paused = False
        self._held = bytearray()
        self._dropped = 0
        self._ended = False
        self._starting: Deferred[None] | None = None
        size = request.terminal
        now = reception.gateway.wheel.seconds()
        #: What is typed counts; the console's operator may have limits (`Consoles`).
        self.use = SessionUse(began=now, used=now)
        self._screen = Screen(
            self._send,
            columns=(size.columns or 80) if size else 0,
            is_terminal=size is not None,
        )
        if size is not None:
            self._screen.rows, self._screen.term = size.rows or 24, size.term

    # -- what a door calls -----------------------------------------------------------------------

    def start(self) -> None:
        """Ask for it; what follows is told to the receiver."""
        self._starting = Deferred.fromCoroutine(self._begin())
        self._starting.addErrback(self._refused)

    def write(self, data: bytes) -> None:
        """Take what was typed."""
        if self._ended:
            return
        self.use.used = self._reception.gateway.wheel.seconds()
        if self._terminal is not None:
            self._terminal.dataReceived(data)
        elif len(self._early) + len(data) <= MAX_EARLY_BYTES:
            self._early += data
        elif not self._input_ended:
            self._input_ended = True
            text = f"a program of more than {MAX_EARLY_BYTES:,} bytes; nothing of it was run"
            self.end(Outcome(status="error", code=ErrorCode.BAD_REQUEST.value, message=text))

    @property
    def is_interactive(self) -> bool:
        """Whether somebody types line after line."""
        return self._terminal is not None

    def tell(self, message: str) -> None:
        """Tell the person something of the gateway's, in one line, whoever has the terminal."""
        if self._screen.taken_by is not None:
            self._send(f"\r\nrshell: {message}\r\n".encode())
        else:
            self._screen.write(f"rshell: {message}")

    def write_eof(self) -> None:
        """No input follows: a terminal hung up, or the program is whole."""
        if self._input_ended or self._ended:
            return
        self._input_ended = True
        if self._console is not None and self._terminal is not None:
            self._console.leave()
        elif self._console is not None and self._request.line is None:
            self._run_program()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Input is taken as it comes: people type slowly, and the buffers have limits."""

    def unregisterProducer(self) -> None:
        """The producer is done."""

    def send_urgent(self, kind: str, body: dict[str, Any]) -> None:
        """Take a window size or a signal."""
        if kind == "window":
            rows, columns = body.get("rows"), body.get("columns")
            if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
                self._resize(min(rows, 1000), min(columns, 1000))
        elif kind == "signal" and body.get("signal") in ("INT", "TERM", "HUP", "QUIT"):
            if body.get("signal") == "INT" and self._terminal is not None:
                self._terminal.dataReceived(b"\x03")
            else:
                self.abort("a signal ended it")
        elif kind == "cancel":
            self.abort("given up")

    def pause(self) -> None:
        """Send nothing until `resume`."""
        self._paused = True
        if self._screen.flow is not None:
            self._screen.flow(True)

    def resume(self) -> None:
        """Send again."""
        self._paused = False
        held, self._held = bytes(self._held), bytearray()
        if held:
            self._receiver.output_received(held, False)
        if self._dropped and not self._paused:
            count, self._dropped = self._dropped, 0
            self._screen.write(_notice(count))
        if self._screen.flow is not None and not self._paused:
            self._screen.flow(False)

    def abort(self, message: str = "") -> None:
        """End it; the receiver is told nothing more."""
        self._finish(Outcome(status="error", code="cancelled", message=message), tell=False)

    def detach(self, message: str = "the operator's connection is gone") -> None:
        """End it: a console lives on for nobody; the receiver is told nothing more."""
        self._finish(Outcome(status="lost", code="link-lost", message=message), tell=False)

    # -- beginning -------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._row = await self._reception.admit(self.caller, self.session)
        if self._is_over():
            self._write_end(Outcome(status="lost", code="link-lost"))
            return
        client = await self._reception.connect(self.caller)
        if self._is_over():
            await client.close()
            return
        self._client = client
        self._reception.opened(self)
        self._receiver.session_opened()
        gateway = self._reception.gateway
        namespace = make_namespace(gateway, client, self._screen, self._leave)
        console = self._console = Console(
            namespace, self._screen, self.session[:8], self._write_down, self._operator_left
        )
        if self._request.terminal is not None and self._request.line is None:
            self._be_interactive(console)
        elif self._request.line is not None or self._input_ended:
            self._run_program()

    def _is_over(self) -> bool:
        """Whether it ended while something was awaited."""
        return self._ended

    def _be_interactive(self, console: Console) -> None:
        line = ConsoleLine(console, self._reception.history(self.caller))
        terminal = self._terminal = ConsoleTerminal(lambda: line)
        transport: Any = _TerminalTransport(self._send)
        terminal.makeConnection(transport)  # type: ignore[no-untyped-call]  # untyped in Twisted
        line.terminalSize(self._screen.columns, self._screen.rows)
        self._screen.taken_changed = self._taken_changed
        banner = BANNER.format(
            fleet=self._reception.gateway.home.keys.fleet[:8], operator=self.caller.operator.name
        )
        console.start(line, banner)
        early, self._early = bytes(self._early), bytearray()
        if early:
            terminal.dataReceived(early)
        if self._input_ended:
            console.leave()

    def _taken_changed(self) -> None:
        if self._terminal is not None:
            self._terminal.taken_by = self._screen.taken_by
            if self._screen.taken_by is not None:
                self._terminal.release()  # typed ahead, for the shell
        if self._screen.flow is not None and self._paused:
            self._screen.flow(True)

    def _run_program(self) -> None:
        source = self._request.line if self._request.line is not None else bytes(self._early)
        assert self._console is not None
        self._console.run_script(source.decode("utf-8", "replace"))

    def _resize(self, rows: int, columns: int) -> None:
        self._screen.rows, self._screen.columns = rows, columns
        if self._screen.resized is not None:
            self._screen.resized(rows, columns)
        elif self._console is not None and self._console.line is not None:
            self._console.line.terminalSize(columns, rows)

    # -- lines -----------------------------------------------------------------------------------

    async def _write_down(self, source: str) -> None:
        """Commit a statement to the audit log; raise if it may not be run."""
        self._check()
        self._lines += 1
        caller = self.caller
        try:
            await self._reception.gateway.store.append_audit(
                AuditRecord(
                    kind="console.line",
                    operator=caller.operator.name,
                    session=self.session,
                    door=caller.door,
                    address=caller.address,
                    details={"line": source, "number": self._lines},
                )
            )
        except StoreError as error:
            text = f"not run, because it cannot be written down: {error}"
            raise RshellError(error.code, text, "") from None
        self._check()  # meanwhile the right to it may be gone

    def _check(self) -> None:
        try:
            self._reception.check(self.caller)
        except OpenRefused as error:
            raise RshellError(error.code, error.message, "") from None

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, data: bytes, stderr: bool = False) -> None:
        if self._ended:
            return
        if not self._paused:
            self._receiver.output_received(data, stderr)
        elif len(self._held) + len(data) <= MAX_HELD_BYTES:
            self._held += data
        else:
            self._dropped += len(data)

    # -- the end ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self._console is not None:
            self._console.leave()

    def _operator_left(self) -> None:
        failed = self._console is not None and self._console.failed and self._terminal is None
        self.end(Outcome(status="exit", exit_code=1) if failed else Outcome(status="ok"))

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, OpenRefused | RshellError):
            outcome = Outcome(status="refused", code=error.code, message=error.message)
        elif isinstance(error, StoreError):
            outcome = Outcome(status="refused", code=error.code, message=str(error))
        else:
            if not failure.check(CancelledError):
                self._log.failure("a console could not be opened", failure)
            text = "the gateway failed; its log says why"
            outcome = Outcome(status="error", code=ErrorCode.INTERNAL.value, message=text)
        self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """End it, and tell the receiver."""
        # A device's program may have the terminal, full-screen: whoever reads why needs it back.
        self._screen.give_back()
        self._finish(outcome, tell=True)

    def _finish(self, outcome: Outcome, *, tell: bool) -> None:
        if self._ended:
            return
        held = bytes(self._held)
        self._ended = True
        self._held.clear()
        if self._console is not None:
            self._console.close()
        if self._client is not None:
            Deferred.fromCoroutine(self._client.close()).addErrback(
                lambda failure: self._log.failure("a console's client did not close", failure)
            )
        self._write_end(outcome)
        self._reception.closed(self)
        if tell:
            if held:
                self._receiver.output_received(held, False)
            if self._dropped:
                # A program prints without ever waiting: what nobody took is at least told.
                self._receiver.output_received(_notice(self._dropped).encode() + b"\n", True)
            self._receiver.session_ended(outcome)

    def _write_end(self, outcome: Outcome) -> None:
        row, self._row = self._row, None
        if row is None:
            return
        end = AuditEnd(
            refers=row,
            status=outcome.status,
            exit_code=outcome.exit_code,
            code=outcome.code,
            message=outcome.message,
            details={"lines": self._lines},
        )
        # A store that is closed or full: the row is completed at the next start.
        self._reception.gateway.store.finish_audit(end).addErrback(lambda _: None)


def _notice(count: int) -> str:
    return f"rshell: {count:,} bytes of output were dropped: nobody took them in time"


class _TerminalTransport:
    """What conch's terminal writes to."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def write(self, data: bytes) -> None:
        self._send(data)

    def loseConnection(self) -> None:
        """The console ends by its owner."""
