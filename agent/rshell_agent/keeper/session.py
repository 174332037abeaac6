"""One session: a process, its stream, and whoever is attached to it just now.

States: starting (forked, exec not yet known), running, draining (the process has ended, its output
has not), finished (outcome told or waiting). Joining and admission are in sessions.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import loop as loops
from rshell_agent.keeper import process as processes
from rshell_agent.keeper import wire
from rshell_agent.keeper.offsets import Incoming, Outgoing
from rshell_agent.keeper.process import Account, Command
from rshell_agent.keeper.touches import Teller
from rshell_agent.keeper.viewer import Viewer
from rshell_agent.keeper.wire import Map, Refused, WireError

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.server import Connection
    from rshell_agent.keeper.sessions import Opening, Sessions

__all__ = ["Session"]

STARTING, RUNNING, DRAINING, FINISHED = "starting", "running", "draining", "finished"


class Session:
    """Made for an OPEN that was allowed; it registers and buries itself with `sessions`."""

    _teller: Teller | None = None  # of a worker that tells what it touches
    kept = False  # whether the journal of jobs has its outcome, for this keeper and the next

    def __init__(self, sessions: Sessions, opening: Opening, command: Command, account: Account):
        extra = {
            b"RSHELL_SESSION": opening.id.hex().encode(),
            b"RSHELL_OPERATOR": opening.operator.encode(errors="replace"),
        }
        self.process = sessions.spawn(command, account, extra)
        self._begin(sessions, opening.id, opening.operator, opening.handler)
        self.login = account.name
        self.detach_allowed = opening.detach
        wide = command.worker in processes.FILES
        self.out = Outgoing(c.HISTORY if command.size else 0, wide)
        self.into = Incoming(wide)
        self._command, self._account = command, account
        if self.process.status is None:
            self.state = RUNNING
        else:
            self._loop.watch(self.process.status, self.check_started, loops.READ)
        if self.process.touched is not None:
            self._teller = Teller(sessions.touches, self.id, self.process.touched)
        if command.timeout:
            self._after("timeout", command.timeout, self._time_out)

    def _begin(self, sessions: Sessions, key: bytes, operator: str, handler: str) -> None:
        """Be a session to which nothing has happened yet."""
        self.id, self.operator, self.handler, self.login = key, operator, handler, ""
        self.detach_allowed = False
        self.attempt = 0
        self.state = STARTING
        self.outcome: Map | None = None
        self.connection: Connection | None = None
        self.viewers: list[Viewer] = []
        self.out, self.into = Outgoing(), Incoming()
        self._sessions, self._loop, self._times = sessions, sessions.loop, sessions.times
        self._welcome: Map | None = None  # OPENED, held back until the program runs
        self._stale = False  # whoever attached does not have the screen as it is
        self._verdict: Map | None = None  # an outcome decided by us, not by the process
        self._stopping = False
        self._overwriting = False
        self._drain_left = self._times.drain
        self._drain_began: float | None = None
        self._read_since_exit = 0
        self._unwanted = False  # given up: what it wrote has no reader, and is not waited for
        self._unsettled: set[int] = set()  # outputs that may hold what the ended process wrote
        self._timers: dict[str, loops.Timer] = {}
        self.started = self._loop.now()
        self.alone_since: float | None = self.started

    # -- attachments ------------------------------------------------------------------------

    def attach(self, connection: Connection, opening: Opening, existed: bool) -> None:
        """Make `connection` the one; the older is closed first (K17)."""
        if self.connection is not None:
            self.connection.close("displaced by a newer attempt")
            self.detached()
        self.attempt = opening.attempt
        self.connection, self.alone_since = connection, None
        self._overwriting = False
        for name in ("overwrite", "limit"):
            self._cancel(name)
        self.into.rewind()
        gap = self.out.resume(opening.consumed, opening.limit, opening.events)
        self.out.largest = connection.largest
        anew = opening.resumes and not opening.consumed  # another terminal than before
        self._stale = existed and (gap > 0 or anew)
        consumed, limit, events = self.into.tell()
        opened: Map = {"consumed": consumed, "limit": limit, "events": events}
        if gap:
            opened["gap"] = gap
        if self.out.end > self.out.base:
            opened["replay"] = self.out.end - self.out.base
        self._welcome = {**opened, "attached": existed, "pid": self.process.pid}
        if self.state != STARTING:
            self._open()

    def _open(self) -> None:
        connection, welcome = self.connection, self._welcome
        if connection is None or welcome is None:
            return
        self._welcome = None
        connection.send(wire.encode_map(wire.OPENED, welcome))
        if self._stale:
            self._repaint()
        if self.out.all_seen and self.state == FINISHED:
            self._sessions.bury(self)
            connection.close("")
            return
        self.pump()

    def _repaint(self) -> None:
        """Have a full-screen program paint again: by a row less, then the right size (K24).

        Sizes set at once would be one signal, and a program that then finds its size unchanged
        paints nothing.
        """
        if self._command.size and self.state == RUNNING:
            rows, columns = self._command.size
            self.process.resize(rows - 1 if rows > 1 else rows + 1, columns)
            self._after("repaint", self._times.repaint, self._repainted)

    def _repainted(self) -> None:
        self._cancel("repaint")
        if self._command.size and self.state == RUNNING:
            self.process.resize(*self._command.size)

    def view(self, connection: Connection, opening: Opening) -> Viewer:
        """Let `connection` watch (R9); nobody is displaced."""
        viewer = Viewer(self._sessions, self, connection, opening.limit)
        self.viewers.append(viewer)
        viewer.begin()
        return viewer

    def detached(self) -> None:
        """The connection is gone; the session lives (K30, K32)."""
        self.connection, self._welcome = None, None
        self._cancel("announce")
        self.out.recall()
        self.alone_since = self._loop.now()
        if self.state in (STARTING, RUNNING, DRAINING):
            limits = self._sessions.policy.current().limits
            key = "shell_limit_seconds" if self.detach_allowed else "exec_limit_seconds"
            self._after("limit", limits[key], self._time_out)
            if self.detach_allowed:
                self._after("overwrite", self._times.backpressure, self._run_on)
        self._read_or_pause()

    def _run_on(self) -> None:
        self._overwriting = True
        self._sessions.limit_detached()
        self._read_or_pause()

    @property
    def long_alone(self) -> bool:
        """Whether nobody has been attached for so long that output is overwritten."""
        return self._overwriting and self.state != FINISHED

    # -- what the peer sends ------------------------------------------------------------------

    def received(self, kind: int, flags: int, payload: bytes) -> None:
        """Act on a frame after OPEN.

        Raises:
            WireError: it breaks a rule.
        """
        if kind == wire.DATA:
            self.into.accept(payload, bool(flags & wire.EOF))
            self._feed()
        elif kind == wire.LIMIT:
            if len(payload) != wire.OFFSETS.size:
                raise WireError("LIMIT: wrong length")
            seen = self.out.heard(*wire.OFFSETS.unpack(payload))
            if seen and self.state == FINISHED and self.out.all_seen:
                self._sessions.bury(self)
                if self.connection is not None:
                    self.connection.close("")
                return
            self.pump()
        elif kind == wire.EVENT:
            self._event(wire.parse_map(payload))
        elif kind == wire.RESET:
            self._reset(wire.parse_map(payload).get("code"))
        else:
            raise WireError(f"frame type {kind} on an open stream")

    def _reset(self, code: object) -> None:
        if self.connection is not None:
            self.connection.close("")
        self.detached()
        if code != "link-lost":
            self._unwanted = True
            self.stop(None)

    def _event(self, event: Map) -> None:
        new = self.into.see(wire.integer(event, "seq"))
        kind = event.get("kind")
        if new and kind == "window":
            self._resize(event)
        elif new and kind == "signal":
            name = event.get("signal")
            number = processes.SIGNALS.get(name) if isinstance(name, str) else None
            if number is not None and self.state == RUNNING:
                self.process.signal(self.process.foreground(), number=number)
        elif new and kind == "cancel":
            self.stop(None)
        elif new:
            self._asked(kind)
        self._announce()

    def _asked(self, kind: object) -> None:
        """Act on an event of a kind that is not every session's; by default there are none."""

    def _resize(self, event: Map) -> None:
        if not self._command.size:
            return
        try:
            self._command.size = processes.window(event)
        except WireError:  # the operator's fault: it must not cost the process its operator (K26)
            return
        if "repaint" not in self._timers:  # else it is set in a moment, and must not be coalesced
            self.process.resize(*self._command.size)

    def _announce(self) -> None:
        if self.connection is None or self._welcome is not None or not self.into.untold:
            return
        if self.into.untold >= self.into.announce:
            self._tell()
        elif "announce" not in self._timers:
            self._after("announce", self._times.announce, self._tell)

    def _tell(self) -> None:
        self._cancel("announce")
        if self.connection is not None and self.into.untold:
            payload = wire.OFFSETS.pack(*self.into.tell())
            self.connection.send(wire.encode(wire.LIMIT, payload))
            self.connection.flush()

    # -- input and output ----------------------------------------------------------------------

    def _feed(self) -> None:
        fd = self.process.stdin
        if self.state == STARTING:
            return
        if fd is None:  # what nobody reads counts as consumed, and that is told too
            self._announce()
            return
        try:
            self.into.write_to(lambda pieces: os.writev(fd, pieces))
            if self.into.waiting:
                if self.process.terminal:
                    os.write(fd, b"\x04")  # VEOF, as typed
                    self.into.pass_end()
                else:
                    self._close_input()
            self._loop.watch(fd, self._feed, 0)
        except BlockingIOError:
            self._loop.watch(fd, self._feed, loops.WRITE)
        except OSError:  # EPIPE, EIO: nobody reads any more
            self._close_input()
        self._announce()

    def _close_input(self) -> None:
        self.into.close()
        fd, self.process.stdin = self.process.stdin, None
        if fd is not None:
            self._loop.unwatch(fd)
            os.close(fd)

    def pump(self) -> None:
        """Send what credit and the connection allow, then read on."""
        connection = self.connection
        if connection is not None and self._welcome is None and self.state != STARTING:
            frame = self.out.take()
            while frame is not None:
                connection.send(frame)
                if connection.pending >= c.SEND_HIGH:
                    connection.flush()  # on a full socket it stays high, and pumps us when ready
                    if connection.pending >= c.SEND_HIGH:
                        break
                frame = self.out.take()
            connection.flush()
        self._read_or_pause()

    def _read_or_pause(self) -> None:
        if self.state not in (RUNNING, DRAINING):
            return
        reading = self._overwriting or self.out.room > 0
        for fd, stderr in self.process.outputs.items():
            call = self._stderr_ready if stderr else self._stdout_ready
            self._loop.watch(fd, call, loops.READ if reading else 0)
        if self.state != DRAINING:
            return
        if not reading and self._drain_began is not None:  # the clock runs only while there is room
            self._drain_left -= self._loop.now() - self._drain_began
            self._drain_began = None
            self._cancel("drain")
        elif reading and self._drain_began is None:
            self._drain_began = self._loop.now()
            self._after("drain", max(0.0, self._drain_left), self._read_all)

    def _stdout_ready(self) -> None:
        self._read(False)
        self._settle()

    def _stderr_ready(self) -> None:
        self._read(True)
        self._settle()

    def _read_all(self) -> None:
        self._read(False)
        self._read(True)
        self._settle()

    def _settle(self) -> None:
        self.pump()
        if self.state == DRAINING and (not self.process.outputs or self._drain_is_over()):
            self._finish()

    def _read(self, stderr: bool) -> None:
        fd = next((f for f, e in self.process.outputs.items() if e == stderr), None)
        if fd is None or self.state not in (RUNNING, DRAINING):
            return
        for _ in range(c.READS_PER_TURN):
            room = wire.MAX_DATA if self._overwriting else self.out.room
            if room <= 0:
                break
            try:
                data = os.read(fd, min(room, wire.MAX_DATA))
            except BlockingIOError:
                self._unsettled.discard(fd)
                break
            except OSError:  # EIO: the terminal has no other side any more
                data = b""
            if not data:
                self._unsettled.discard(fd)
                self._close_output(fd)
                break
            flags = wire.STDERR if stderr else 0
            self.out.add(flags, data, self._overwriting)
            for viewer in tuple(self.viewers):
                viewer.add(flags, data)
            self._read_since_exit += len(data) if self.state == DRAINING else 0

    def _close_output(self, fd: int) -> None:
        del self.process.outputs[fd]
        self._loop.unwatch(fd)
        os.close(fd)

    # -- beginning and end -----------------------------------------------------------------------

    def check_started(self) -> None:
        """Learn from the status pipe whether the program runs."""
        status = self.process.status
        if self.state != STARTING or status is None:
            return
        try:
            told = os.read(status, c.MAX_TOLD)
        except BlockingIOError:
            return
        self._loop.unwatch(status)
        os.close(status)
        if told:
            self._start_failed(processes.start_error(told, self._command, self._account))
            return
        self.state = RUNNING
        self._open()
        self._feed()
        self._read_or_pause()

    def _start_failed(self, refusal: Refused) -> None:
        self.state = FINISHED
        self._release()
        self.process.reap()
        self._sessions.forget(self)
        if self.connection is not None:
            self.connection.refuse(refusal)

    def check_exited(self) -> None:
        """Learn whether the process has ended, after SIGCHLD."""
        if self.state == STARTING:
            self.check_started()
        status = self.process.exit_status() if self.state == RUNNING else None
        if status is None:
            return
        self.state = DRAINING
        self.outcome = self._ended_as(*status)
        kill = self._timers.get("kill")
        if kill is not None and kill.alive:
            # Its group may live on: the number must not be given to others before KILL.
            self._loop.after(self._times.kill, self._kill_and_reap)
        else:
            self.process.reap()
        for name in ("timeout", "kill"):
            self._cancel(name)
        self._close_input()
        if self.process.slave is not None:
            os.close(self.process.slave)
            self.process.slave = None
        self._unsettled = set(self.process.outputs)
        self._read_or_pause()
        self._read_all()
        if self._unwanted and self.state == DRAINING:
            self._finish()

    def _ended_as(self, code: int, status: int) -> Map:
        """Return the outcome for waitid's code and status."""
        return self._verdict or processes.outcome_of(code, status)

    def buried(self) -> None:
        """Hear that somebody has the outcome."""

    def check(self, opening: Opening) -> None:
        """Refuse an attachment from which this end cannot go on.

        Raises:
            WireError: it claims bytes or events which were never sent.
        """
        self.out.check(opening.consumed, opening.events)

    def _kill_and_reap(self) -> None:
        self.process.kill()
        self.process.reap()

    def _drain_is_over(self) -> bool:
        began = self._drain_began
        if began is None or self._loop.now() - began < self._drain_left:
            return False
        return not self._unsettled or self._read_since_exit >= c.PIPE_MAX

    def _finish(self) -> None:
        self.state = FINISHED
        self._release()
        self.out.ended = True
        self.out.add_event(self.outcome or {})
        self.alone_since = None if self.connection else self._loop.now()
        self._sessions.finished(self)
        self.pump()
        for viewer in tuple(self.viewers):
            viewer.finish(self.outcome or {})

    def _release(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._teller is not None:
            self._teller.close()
        self._close_input()
        for fd in tuple(self.process.outputs):
            self._close_output(fd)
        if self.process.slave is not None:
            os.close(self.process.slave)
            self.process.slave = None

    def stop(self, verdict: Map | None) -> None:
        """End the process group (K31); `verdict` replaces the process's own outcome."""
        if self.state == DRAINING:
            self._finish()
        if self.state not in (STARTING, RUNNING):
            return
        self._verdict = self._verdict or verdict
        if not self._stopping:
            self._stopping = True
            self.process.terminate()
            self._after("kill", self._times.kill, self.process.kill)

    def _time_out(self) -> None:
        self.stop(processes.outcome("timeout", message="its time was over"))

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.after(seconds, call)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
