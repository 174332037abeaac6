"""``rshell shell``: an interactive login shell on a device."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from rshell.cli import statuses
from rshell.cli.fanout import Outputs
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.pipes import ByteSource
from rshell.cli.presenting import complaint
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.terminal import (
    ESCAPE_HELP,
    EscapeFilter,
    RawTerminal,
    terminal_size,
    terminal_type,
)
from rshell.client import Client, Session
from rshell.handlers import ShellRequest, TerminalSize

__all__ = ["shell"]

#: After ``~.`` the device has this long to hear of it.
QUIT_SECONDS = 1.0


@click.command(short_help="Open a login shell on a device.")
@login_option
@common_options
@click.argument("device")
@click.pass_context
def shell(context: click.Context, device: str, login: str | None) -> int:
    """Open an interactive login shell on DEVICE, a name or an id.

    \b
    rshell shell pump-17
    rshell shell pump-17 --as root
    rshell shell pump-17 < script.sh              no terminal: the shell reads commands

    The exit status is the shell's own, 255 if there was none. At the beginning of a line ~.
    disconnects, ~? helps and ~~ types one ~.

    If standard input is no terminal the shell has none either: it runs what it reads, its
    standard output and standard error stay apart, and it ends with its input.
    """
    settings = settings_of(context)
    raw = os.isatty(0)

    async def main(surroundings: Surroundings, client: Client) -> int:
        return await InteractiveShell(surroundings, client, device, login, raw).run()

    return run_with_client(settings.home, main)


def _our_terminal() -> TerminalSize:
    rows, columns = terminal_size(0)
    return TerminalSize(rows=rows, columns=columns, term=terminal_type(os.environ.get("TERM", "")))


class InteractiveShell:
    """Our terminal, or what stands in its place, on one side, a shell session on the other.

    Args:
        surroundings: Reactor and signals.
        client: Connected.
        device: Name or id.
        login: The account; None asks for the device's default.
        raw: Whether standard input is a terminal.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        client: Client,
        device: str,
        login: str | None,
        raw: bool,
    ) -> None:
        self._surroundings = surroundings
        self._client = client
        self._device = device
        self._login = login
        self._terminal = RawTerminal(0) if raw else None
        self._escapes = EscapeFilter()
        self._outputs = Outputs(surroundings.reactor)
        self._source = ByteSource(surroundings.reactor, 0, self._typed)
        self._session: Session | None = None
        self._quit = False

    async def run(self) -> int:
        """Run the shell to its end and return the exit status."""
        session = self._client.open(
            self._device,
            "shell",
            ShellRequest(terminal=_our_terminal() if self._terminal else None),
            self,
            login=self._login,
            priority="interactive" if self._terminal else "normal",
        )
        self._session = session
        self._outputs.changed = self._outputs_changed
        self._surroundings.interrupts.act = self._interrupted
        if self._terminal:
            signal.signal(signal.SIGWINCH, self._resized)
        try:
            outcome = await session.outcome
            self._source.stopProducing()
            await self._outputs.drained()
        finally:
            if self._terminal:
                self._terminal.restore()
        if self._surroundings.interrupts.received:
            return self._surroundings.interrupts.status
        if self._quit:
            self._say(f"rshell: disconnected from {self._device}\n")
            return statuses.OURS
        # What ended because its output failed is told by that.
        if outcome.status not in ("ok", "exit", "signal") and not self._outputs.failed:
            self._say(complaint(self._device, outcome).decode())
        return self._outputs.status(statuses.of_one(outcome))

    def _say(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    # -- the session's receiver ------------------------------------------------------------------

    def session_opened(self) -> None:
        """The shell is there: from now on every key is its."""
        if self._session is None:
            return
        if self._terminal:
            self._terminal.enter()
        self._session.registerProducer(self._source, True)
        self._source.start()

    def output_received(self, data: bytes, stderr: bool) -> None:
        self._outputs.write(data, stderr)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """A shell sends none."""

    # -- our side --------------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        session = self._session
        if session is None:
            return
        if not data:
            session.unregisterProducer()
            session.write_eof()
            return
        commands: list[str] = []
        if self._terminal:
            data, commands = self._escapes.feed(data)
        if data:
            session.write(data)
        for command in commands:
            if command == "help":
                self._outputs.write(ESCAPE_HELP.encode(), True)
            else:
                self._quit = True
                self._give_up()

    def _resized(self, _number: int, _frame: Any) -> None:
        self._surroundings.reactor.callFromThread(self._tell_size)

    def _tell_size(self) -> None:
        if self._session is not None:
            self._session.send_window(*terminal_size(0))

    def _outputs_changed(self) -> None:
        if self._session is None:
            return
        if self._outputs.failed:
            self._give_up()
        elif self._outputs.full:
            self._session.pause()
        else:
            self._session.resume()

    def _interrupted(self, count: int) -> None:
        if count == 1:
            self._give_up()
        else:
            self._leave()

    def _give_up(self) -> None:
        """Tell the device, then leave: at its answer, or after a second without one."""
        if self._session is not None:
            self._session.resume()
            self._session.cancel()
            self._surroundings.reactor.callLater(QUIT_SECONDS, self._leave)

    def _leave(self) -> None:
        if self._session is not None and not self._session.ended:
            self._session.abort()
        else:
            # The session is over and our own output hangs.
            if self._terminal:
                self._terminal.restore()
            received = self._surroundings.interrupts
            self._surroundings.leave(received.status if received.received else statuses.OURS)
