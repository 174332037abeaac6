"""A device's shell on the console's terminal, and back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError

from rshell.client import Client, Outcome, Session, describe_outcome
from rshell.doors.console.painting import DIM, safe_text, tint
from rshell.doors.console.screen import Screen
from rshell.handlers import ShellRequest, TerminalSize

__all__ = ["RETURN_KEY", "TakenOver"]

#: Ctrl-], as telnet has it: ssh's and rshell's own ``~.`` would end the console with it.
RETURN_KEY = b"\x1d"


class TakenOver:
    """One shell that has the terminal.

    Args:
        client: Opens the session.
        screen: Whose terminal it is.
        device: Name or id.
        login: The account there; None asks for its default.
    """

    def __init__(self, client: Client, screen: Screen, device: str, login: str | None) -> None:
        self._client = client
        self._screen = screen
        self._device = device
        self._login = login
        self._session: Session | None = None
        self._write: Any = None
        self._left = False

    async def run(self) -> None:
        """Run the shell to its end, or until Ctrl-], and say which.

        Raises:
            RshellError: It cannot be asked for.
        """
        screen = self._screen
        size = TerminalSize(rows=screen.rows, columns=screen.columns, term=screen.term)
        session = self._session = self._client.open(
            self._device,
            "shell",
            ShellRequest(terminal=size),
            self,
            login=self._login,
            priority="interactive",
        )
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
        if self._left and self._session is not None:
            short = self._session.session_id.hex()[:8]
            return f"the shell on {self._device} lives on; go on there with: rshell attach {short}"
        return f"back at the console; {self._device}: {describe_outcome(outcome)}"

    # -- SessionReceiver -------------------------------------------------------------------------

    def session_opened(self) -> None:
        screen = self._screen
        screen.show(tint(DIM, safe_text(f"{self._device} has the terminal; Ctrl-] gives it back")))
        self._write = screen.take(self._typed, self._resized, self._flow)

    def output_received(self, data: bytes, stderr: bool) -> None:
        if self._write is not None:
            self._write(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """A shell has none that matter here."""

    # -- the terminal ----------------------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        session = self._session
        if session is None or session.ended:
            return
        before, key, _ = data.partition(RETURN_KEY)
        if before:
            session.write(before)
        if key:
            self._left = True
            session.detach()

    def _resized(self, rows: int, columns: int) -> None:
        if self._session is not None:
            self._session.send_window(rows, columns)

    def _flow(self, stopped: bool) -> None:
        if self._session is not None:
            if stopped:
                self._session.pause()
            else:
                self._session.resume()
