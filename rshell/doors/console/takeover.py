"""A session on the console's terminal, to use or to look on at, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError

from rshell.client import Client, Outcome, Session, SessionInfo, describe_outcome
from rshell.doors.console.painting import DIM, safe_text, tint
from rshell.doors.console.screen import Screen
from rshell.handlers import ShellRequest, TerminalSize

__all__ = ["RETURN_KEY", "TakenOver"]

#: Ctrl-], as telnet has it: ssh's and rshell's own ``~.`` would end the console with it.
RETURN_KEY = b"\x1d"
INTERRUPT_KEY = b"\x03"


class TakenOver:
    """One session that has the terminal.

    Args:
        screen: Whose terminal it is.
        device: Its name, for what is said here.
        open_session: Opens the session for this receiver.
        watching: Whether we only look on; what is typed goes nowhere, and Ctrl-C leaves, too.
    """

    def __init__(
        self,
        screen: Screen,
        device: str,
        open_session: Callable[[TakenOver], Session],
        *,
        watching: bool = False,
    ) -> None:
        self._screen = screen
        self._device = device
        self._open_session = open_session
        self._watching = watching
        self._session: Session | None = None
        self._write: Any = None
        self._left = False

    @classmethod
    def shell(cls, client: Client, screen: Screen, device: str, login: str | None) -> TakenOver:
        """Return a new shell on a device.

        Args:
            client: Opens the session.
            screen: Whose terminal it gets.
            device: Name or id.
            login: The account there; None asks for its default.
        """

        def open_session(receiver: TakenOver) -> Session:
            size = TerminalSize(rows=screen.rows, columns=screen.columns, term=screen.term)
            return client.open(
                device,
                "shell",
                ShellRequest(terminal=size),
                receiver,
                login=login,
                priority="interactive",
            )

        return cls(screen, device, open_session)

    @classmethod
    def watch(cls, client: Client, screen: Screen, info: SessionInfo) -> TakenOver:
        """Return a session that somebody drives, to look on at."""

        def open_session(receiver: TakenOver) -> Session:
            return client.attach(info, receiver, view=True)

        return cls(screen, info.device, open_session, watching=True)

    async def run(self) -> None:
        """Run the session to its end, or until Ctrl-], and say which.

        Raises:
            RshellError: It cannot be asked for.
        """
        screen = self._screen
        session = self._session = self._open_session(self)
        session.noticed = self._noticed
        try:
            outcome = await session.outcome
        except CancelledError:
            session.cancel()
            raise
        finally:
            screen.give_back()
        screen.begin_line()
        screen.show(tint(DIM, safe_text(self._farewell(outcome))))

    def _farewell(self, outcome: Outcome) -> str:
        if self._left and self._watching:
            return f"back at the console; the session on {self._device} goes on"
        if self._left and self._session is not None:
            short = self._session.session_id.hex()[:8]
            return f"the shell on {self._device} lives on; go on there with: rshell attach {short}"
        return f"back at the console; {self._device}: {describe_outcome(outcome)}"

    # -- SessionReceiver -------------------------------------------------------------------------

    def session_opened(self) -> None:
        screen = self._screen
        what = "a session on {} is shown" if self._watching else "{} has the terminal"
        text = f"{what.format(self._device)}; Ctrl-] gives it back"
        screen.show(tint(DIM, safe_text(text)))
        self._write = screen.take(self._typed, self._resized, self._flow)

    def output_received(self, data: bytes, stderr: bool) -> None:
        if self._write is not None:
            self._write(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """A shell has none that matter here."""

    def _noticed(self, _code: str, message: str) -> None:
        if self._write is not None:
            self._write(f"\r\nrshell: {safe_text(message)}\r\n".encode())
        else:
            self._screen.show(tint(DIM, safe_text(f"{self._device}: {message}")))

    # -- the terminal ----------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        session = self._session
        if session is None or session.ended:
            return
        before, key, _ = data.partition(RETURN_KEY)
        if self._watching:
            key = key or (INTERRUPT_KEY if INTERRUPT_KEY in data else b"")
        elif before:
            session.write(before)
        if key:
            self._left = True
            session.detach()

    def _resized(self, rows: int, columns: int) -> None:
        if self._session is not None and not self._watching:
            self._session.send_window(rows, columns)

    def _flow(self, stopped: bool) -> None:
        if self._session is not None:
            if stopped:
                self._session.pause()
            else:
                self._session.resume()
