"""``session`` channels (RFC 4254 section 6): shells, commands and SFTP on a device."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from rshell.access.printable import printable
from rshell.client.errors import advice_for
from rshell.client.signals import SIGNALS
from rshell.doors.ssh.channel import DoorChannel
from rshell.doors.ssh.visit import NoDestination, Visit
from rshell.doors.ssh.wire import Fields
from rshell.handlers import ExecRequest, Outcome, SftpRequest, ShellRequest, TerminalSize
from rshell.link.clock import WheelTimer

if TYPE_CHECKING:
    from rshell.doors.ssh.connection import Connection

__all__ = ["SessionChannel"]

#: Exit statuses: as ``ssh`` itself says of its own errors, and as timeout(1).
ERROR_STATUS, TIMEOUT_STATUS = 255, 124
#: Names and values that a client may set; what else sshd's AcceptEnv usually lets through.
_ALLOWED_ENVIRONMENT = re.compile(rb"LANG|LC_[A-Z]{1,32}|COLORTERM|NO_COLOR", re.ASCII)
MAX_ENVIRONMENT = 32
MAX_VALUE_BYTES = 256
#: A command line that fits into an OPEN, base64 and all.
MAX_COMMAND_BYTES = 11_000
_TERM = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_SIGNAL = re.compile(r"[A-Z0-9]{1,16}", re.ASCII)
#: A shorter absence is a hiccup: nobody needs to know, and a full-screen program stays tidy.
NOTICE_SECONDS = 2.0
MAX_CELLS = 1000
#: Both would let whoever is root on the device reach back to the operator's machine.
NO_AGENT = (
    "agent forwarding (-A) is refused: to go on from a device with your keys, "
    "use ssh -J, which leaves them where they are"
)
NO_X11 = "X11 forwarding (-X, -Y) is refused"
#: As in sshd_config: a command that stands for the subsystem.
INTERNAL_SFTP = b"internal-sftp"


class SessionChannel(DoorChannel):
    """One shell, command or subsystem.

    Args:
        connection: Carries it.
        visit: Where it goes.
    """

    kind = "session"

    def __init__(self, connection: Connection, visit: Visit) -> None:
        super().__init__(connection)
        self._visit = visit
        self._terminal: TerminalSize | None = None
        self._environment: list[tuple[bytes, bytes]] = []
        self._handler = ""
        #: What is not served here, to be told when something runs.
        self._refused: dict[str, None] = {}
        self._notice: WheelTimer | None = None
        self._noticed = False
        #: Whether the client throws output away: what it pipes it into has ended.
        self._reader_gone = self._told_so = False

    def open(self) -> None:
        self._confirm()

    # -- requests --------------------------------------------------------------------------------

    def request_received(self, kind: bytes, fields: Fields) -> bool:
        match kind:
            case b"shell":
                return self._shell()
            case b"exec":
                return self._exec(fields.string())
            case b"subsystem":
                return fields.string() == b"sftp" and self._sftp()
            case b"pty-req":
                return self._pty(fields)
            case b"window-change":
                return self._window(fields)
            case b"env":
                return self._env(fields.string(), fields.string())
            case b"signal":
                return self._signal(fields.text())
            case b"eow@openssh.com":
                self._reader_gone = True
                return True
            case b"auth-agent-req@openssh.com":
                self._refused[NO_AGENT] = None
            case b"x11-req":
                self._refused[NO_X11] = None
        return False

    def _pty(self, fields: Fields) -> bool:
        if self._handler or not self._visit.limits.pty:
            return False
        term, (rows, columns) = fields.text(), _cells(fields)
        self._terminal = TerminalSize(
            rows=rows, columns=columns, term=term if _TERM.fullmatch(term) else "xterm"
        )
        return True

    def _window(self, fields: Fields) -> bool:
        rows, columns = _cells(fields)
        if self._session is None or self._terminal is None:
            return False
        self._session.send_urgent("window", {"rows": rows, "columns": columns})
        return True

    def _env(self, name: bytes, value: bytes) -> bool:
        fits = len(self._environment) < MAX_ENVIRONMENT and len(value) <= MAX_VALUE_BYTES
        if self._handler or not fits or not _ALLOWED_ENVIRONMENT.fullmatch(name) or b"\0" in value:
            return False
        self._environment.append((name, value))
        return True

    def _signal(self, name: str) -> bool:
        if self._session is None or name not in SIGNALS:
            return False
        self._session.send_urgent("signal", {"signal": name})
        return True

    def _shell(self) -> bool:
        if self._visit.limits.command is not None:
            return self._forced(b"")
        request = ShellRequest(terminal=self._terminal, environment=self._environment)
        return self._begin("shell", request)

    def _exec(self, line: bytes) -> bool:
        if len(line) > MAX_COMMAND_BYTES and not self._handler:
            self._handler = "exec"
            self._fail(f"a command of {len(line):,} bytes; at most {MAX_COMMAND_BYTES:,}")
            return True
        if self._visit.limits.command is not None:
            return self._forced(line)
        request = ExecRequest(line=line, terminal=self._terminal, environment=self._environment)
        return self._begin("exec", request)

    def _sftp(self) -> bool:
        if self._visit.limits.command is not None:
            return self._forced(b"sftp")
        return self._begin("sftp", SftpRequest())

    def _forced(self, asked: bytes) -> bool:
        """Run what the certificate says; what was asked for is in its environment, as with sshd."""
        command = self._visit.limits.command or b""
        if command == INTERNAL_SFTP:
            return self._begin("sftp", SftpRequest())
        environment = list(self._environment)
        if asked:
            environment.append((b"SSH_ORIGINAL_COMMAND", asked))
        if len(command) + len(asked) > MAX_COMMAND_BYTES and not self._handler:
            self._handler = "exec"
            self._fail("the command of your certificate and yours are too long together")
            return True
        request = ExecRequest(line=command, terminal=self._terminal, environment=environment)
        return self._begin("exec", request)

    def _begin(self, handler: str, request: msgspec.Struct) -> bool:
        if self._handler:
            return False  # one of them, once (RFC 4254 section 6.5)
        self._handler = handler
        fields: dict[str, Any] = msgspec.to_builtins(request)
        try:
            session = self._visit.open(handler, fields, self)
        except NoDestination as error:
            self._fail(str(error))
        else:
            self._join(session)
            self._tell_refused()
        return True

    def _tell_refused(self) -> None:
        if self._handler != "sftp":  # a program reads that
            for text in (*self._refused, *self._connection.take_notices()):
                self.tell(text)

    @property
    def survives(self) -> bool:
        # What a keeper holds can be continued by rshell attach; an SFTP client cannot.
        return self._handler in ("shell", "exec")

    # -- EndReceiver -----------------------------------------------------------------------------

    def output_received(self, data: bytes, stderr: bool) -> None:
        if stderr or not self._reader_gone:
            self.send(data, stderr=stderr)
        elif not self._told_so and self._session is not None:
            # What a write into a closed pipe would bring; whoever does not write, goes on.
            self._told_so = True
            self._session.send_urgent("signal", {"signal": "PIPE"})

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        size = body.get("bytes")
        if kind == "gap" and isinstance(size, int):
            self.tell(f"{size:,} bytes of output were dropped on {printable(self._visit.device)}")

    def link_changed(self, away: str | None) -> None:
        """Tell a person at a terminal, once it is more than a hiccup; a program waits."""
        if self._terminal is None:
            return
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        if away is not None:
            wheel = self._visit.gateway.wheel
            self._notice = wheel.call_later(NOTICE_SECONDS, self._tell_away)
        elif self._noticed:
            self._noticed = False
            self.tell(f"{printable(self._visit.device)} is back")

    def _tell_away(self) -> None:
        self._noticed = True
        self.tell(f"{printable(self._visit.device)} went away; waiting for it up to a minute")

    def session_ended(self, outcome: Outcome) -> None:
        if self._notice is not None:
            self._notice.cancel()
        self._session = None
        name = outcome.signal or ""
        if outcome.status in ("ok", "exit"):
            self._exit(outcome.exit_code or 0)
        elif outcome.status == "signal" and _SIGNAL.fullmatch(name):
            data = b"".join((_string(name.encode()), b"\0", _string(b""), _string(b"")))
            self.finish((b"exit-signal", data))
        else:
            self._fail(self._words(outcome), timeout=outcome.status == "timeout")

    def _words(self, outcome: Outcome) -> str:
        code = outcome.code or outcome.status
        text = printable(outcome.message or code, 500)
        device = printable(self._visit.device)
        if device not in text:
            text = f"{device}: {text}"
        if outcome.status == "lost":
            text += "; what ran may go on (see: rshell sessions)" if code == "link-lost" else ""
        advice = advice_for(code, text, device)
        return f"{text} ({advice})" if advice else text

    # -- the end ---------------------------------------------------------------------------------

    def _exit(self, status: int) -> None:
        self.finish((b"exit-status", struct.pack(">L", status & 0xFFFFFFFF)))

    def _fail(self, text: str, *, timeout: bool = False) -> None:
        self.tell(text)
        self._exit(TIMEOUT_STATUS if timeout else ERROR_STATUS)

    def tell(self, text: str) -> bool:
        if not self._handler or self.closed:
            return False
        end = "\r\n" if self._terminal is not None else "\n"
        begin = end if self._terminal is not None and self._device_ready else ""
        self.send(f"{begin}rshell: {text}{end}".encode(), stderr=True)
        return True

    def close_received(self) -> bool:
        if self._notice is not None:
            self._notice.cancel()
        return super().close_received()

    def connection_lost(self, *, on_purpose: bool) -> None:
        if self._notice is not None:
            self._notice.cancel()
        super().connection_lost(on_purpose=on_purpose)


def _cells(fields: Fields) -> tuple[int, int]:
    """Return rows and columns of a packet that has them the other way round."""
    columns, rows = fields.number(), fields.number()
    return min(rows, MAX_CELLS), min(columns, MAX_CELLS)


def _string(data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + data
