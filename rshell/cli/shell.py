"""``rshell shell``: an interactive login shell on a device."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from rshell.cli import statuses
from rshell.cli.away import AwayNotice, Overlay, notice_for
from rshell.cli.fanout import Outputs
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.pipes import ByteSource
from rshell.cli.presenting import complaint
from rshell.cli.replay import QuestionFilter
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.terminal import (
    ESCAPE_HELP,
    WATCH_HELP,
    EscapeFilter,
    RawTerminal,
    terminal_size,
    terminal_type,
)
from rshell.client import Client, Session, SessionReceiver
from rshell.handlers import ShellRequest, TerminalSize

__all__ = ["InteractiveShell", "our_terminal", "shell"]

#: After ``~.`` the device has this long to hear of it.
QUIT_SECONDS = 1.0
#: Between the two sizes that make a full-screen program paint again: sent at once, only the
#: newest of them would ever arrive.
REPAINT_SECONDS = 0.2


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
    disconnects, ~d detaches, ~? helps and ~~ types one ~.

    When the link breaks the shell lives on: it is continued as soon as there is a link again,
    for up to a minute. After that, or after ~d, or when this terminal is closed: rshell attach.

    If standard input is no terminal the shell has none either: it runs what it reads, its
    standard output and standard error stay apart, and it ends with its input.
    """
    settings = settings_of(context)
    raw = os.isatty(0)

    async def main(surroundings: Surroundings, client: Client) -> int:
        def open_shell(receiver: SessionReceiver) -> Session:
            return client.open(
                device,
                "shell",
                ShellRequest(terminal=our_terminal() if raw else None),
                receiver,
                login=login,
                priority="interactive" if raw else "normal",
            )

        return await InteractiveShell(surroundings, device, open_shell, raw).run()

    return run_with_client(settings.home, main)


def our_terminal() -> TerminalSize:
    """Return the size and kind of the terminal on standard input."""
    rows, columns = terminal_size(0)
    return TerminalSize(rows=rows, columns=columns, term=terminal_type(os.environ.get("TERM", "")))


def notice_line(message: str, terminal: bool, started: bool) -> bytes:
    """Return what shows a notice of the gateway's, which may come before the session is there.

    At a terminal each line ends with a return too, also before the terminal is raw: it may be by
    the time that this is written.
    """
    begin = b"\r\n" if terminal and started else b""
    return begin + f"rshell: {message}".encode() + (b"\r\n" if terminal else b"\n")


class InteractiveShell:
    """Our terminal, or what stands in its place, on one side, a session on the other.

    Args:
        surroundings: Reactor and signals.
        device: Its name, for what is said here.
        open_session: Opens the session, or attaches to it.
        raw: Whether standard input is a terminal, to be handed to the session.
        attached: Whether the session was there before: its terminal has another size than ours.
        watching: Whether we only look on; what is typed here goes nowhere.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        device: str,
        open_session: Callable[[SessionReceiver], Session],
        raw: bool,
        *,
        attached: bool = False,
        watching: bool = False,
    ) -> None:
        self._surroundings = surroundings
        self._device = device
        self._open_session = open_session
        self._terminal = RawTerminal(0) if raw else None
        self._attached = attached
        self._watching = watching
        self._escapes = EscapeFilter()
        self._questions = QuestionFilter()
        self._outputs = Outputs(surroundings.reactor)
        self._source = ByteSource(surroundings.reactor, 0, self._typed)
        self._session: Session | None = None
        self._started = False
        #: The size of our terminal that the device was told last; None before.
        self._size: tuple[int, int] | None = None
        self._left = ""
        self._notice = self._make_notice()

    def _make_notice(self) -> AwayNotice:
        write = partial(self._outputs.write, stderr=True)
        if self._terminal is None:
            return notice_for(self._surroundings.reactor, write)
        place = Overlay(lambda: terminal_size(0)[1])
        notice = AwayNotice(self._surroundings.reactor, place, write, "~. quits")
        notice.back = self._repaint
        return notice

    async def run(self) -> int:
        """Run the session to its end and return the exit status."""
        session = self._session = self._open_session(self)
        session.link_changed = partial(self._notice.changed, self._device)
        session.noticed = self._noticed
        self._notice.changed(self._device, session.away)
        self._outputs.changed = self._outputs_changed
        self._surroundings.interrupts.act = self._interrupted
        if self._terminal:
            signal.signal(signal.SIGWINCH, self._resized)
        try:
            outcome = await session.outcome
            self._source.stopProducing()
            self._notice.stop()
            await self._outputs.drained()
        finally:
            if self._terminal:
                self._terminal.restore()
        if self._left:
            self._say(self._left)
        received = self._surroundings.interrupts.received
        if self._left and self._watching and received in (0, signal.SIGHUP):
            return 0  # to look on no longer is no failure, and neither is to close the window
        if received:
            return self._surroundings.interrupts.status
        if self._left:
            return statuses.OURS
        # What ended because its output failed is told by that.
        if outcome.status not in ("ok", "exit", "signal") and not self._outputs.failed:
            self._say(complaint(self._device, outcome).decode())
            if outcome.status == "lost" and outcome.code == "link-lost":
                self._say(self._how_to_attach())
        return self._outputs.status(statuses.of_one(outcome))

    def _how_to_attach(self) -> str:
        session = self._session
        if session is None or self._watching or not self._started:
            return ""
        what = "what runs there waits" if self._terminal is None else "the shell lives on"
        return f"rshell: {what}; continue it with: rshell attach {session.session_id.hex()[:8]}\n"

    def _say(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass  # our terminal is gone, and whoever would read this too

    # -- the session's receiver ------------------------------------------------------------------

    def session_opened(self) -> None:
        """The shell is there: from now on every key is its."""
        if self._session is None or self._started:
            return
        self._started = True
        if self._terminal:
            self._terminal.enter()
        if self._attached and not self._watching and self._terminal:
            self._tell_size()
        if not self._watching:
            self._session.registerProducer(self._source, True)
        if not self._watching or self._terminal:
            self._source.start()

    def output_received(self, data: bytes, stderr: bool) -> None:
        if self._terminal is not None and self._session is not None:
            old = min(len(data), self._session.replay_left)
            while old or (data and not self._questions.idle):
                # After the replay: what it began to say is judged to its end.
                piece, data = data[: old or 1], data[old or 1 :]
                self._outputs.write(self._questions.feed(piece), stderr)
                old = 0
        self._outputs.write(data, stderr)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        count = body.get("bytes")
        if kind == "gap" and isinstance(count, int):
            text = f"rshell: {count:,} bytes of {self._what_is_missing()}"
            end = b"\r\n" if self._terminal else b"\n"
            mark = b"\x1b[0;7m%s\x1b[0m" % text.encode() if self._terminal else text.encode()
            self._outputs.write((b"\r\n" if self._terminal else b"") + mark + end, True)

    def _what_is_missing(self) -> str:
        if self._watching:  # what waits for a viewer is bounded, and the oldest makes room
            return "output were left out: this end was too slow for them"
        if self._attached:
            # A device counts from the session's beginning to what it holds: most of that has been
            # on the terminal that had the session before, and the rest on none.
            return "earlier output were shown elsewhere, or are not kept any more"
        return "output are gone"

    def _noticed(self, _code: str, message: str) -> None:
        """Show what the gateway says, as a line of its own."""
        line = notice_line(message, self._terminal is not None, self._started)
        self._outputs.write(line, True)

    # -- our side --------------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        session = self._session
        if session is None:
            return
        if not data:
            if self._watching or self._terminal:
                # In raw mode Ctrl-D is a key like others: this is a terminal that hung up.
                self._detach()
                return
            session.unregisterProducer()
            session.write_eof()
            return
        commands: list[str] = []
        if self._terminal:
            data, commands = self._escapes.feed(data)
        if self._watching:
            # Whoever only looks on has no other use for Ctrl-C.
            commands = [*commands, "quit"] if b"\x03" in data else commands
        elif data:
            self._keep_size()
            session.write(data)
        for command in commands:
            if command == "help":
                self._outputs.write((WATCH_HELP if self._watching else ESCAPE_HELP).encode(), True)
            elif command == "detach" or self._beyond_reach():
                self._detach()
            else:
                self._left = f"rshell: disconnected from {self._device}\n"
                self._give_up()

    def _detach(self) -> None:
        """Leave what runs running."""
        if self._session is None or self._session.ended:
            return
        self._left = self._how_to_attach() or f"rshell: left {self._device}\n"
        self._session.detach()

    def _resized(self, _number: int, _frame: Any) -> None:
        self._surroundings.reactor.callFromThread(self._tell_size)

    def _tell_size(self) -> None:
        if self._session is not None and not self._watching:
            self._size = terminal_size(0)
            self._session.send_window(*self._size)

    def _keep_size(self) -> None:
        """Before a key: what it does must find the size the terminal had when it was typed.

        The signal that tells of a new size may be acted on after the keys that followed it.
        """
        if self._terminal and self._size != terminal_size(0):
            self._tell_size()

    def _repaint(self) -> None:
        """Our notice has covered something: let a full-screen program paint it again."""
        rows, columns = terminal_size(0)
        if self._session is not None and not self._watching and rows > 1:
            self._session.send_window(rows - 1, columns)
            self._surroundings.reactor.callLater(REPAINT_SECONDS, self._tell_size)

    def _outputs_changed(self) -> None:
        if self._session is None:
            return
        if self._outputs.failed and self._terminal and self._outputs.hung_up:
            self._detach()
        elif self._outputs.failed:
            self._give_up()
        elif self._outputs.full:
            self._session.pause()
        else:
            self._session.resume()

    def _interrupted(self, count: int) -> None:
        hung_up = self._surroundings.interrupts.received == signal.SIGHUP
        if count == 1 and (self._beyond_reach() or (hung_up and self._terminal and self._started)):
            # Our terminal is gone and nobody said that the shell should end.
            self._detach()
        elif count == 1:
            self._give_up()
        else:
            self._leave()

    def _beyond_reach(self) -> bool:
        """Whether what runs cannot be ended from here: we only watch, or the link is away."""
        return self._watching or (self._session is not None and self._session.away is not None)

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
