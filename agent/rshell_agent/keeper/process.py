"""Logins, a process with its terminal or pipes, and signals to it.

How a program comes to run is in `spawn`, where that is cheap, and else in `child`.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import signal
import struct
import termios

from rshell_agent.keeper import child, spawn, wire
from rshell_agent.keeper import constants as c
from rshell_agent.keeper.wire import Map, Refused, WireError

__all__ = ["Account", "Command", "Process", "outcome_of"]

_IUTF8 = 0o40000  # termios.h; erase deletes whole characters. The termios module lacks it
_ROOT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_PATH = b"/usr/local/bin:/usr/bin:/bin"
_FORBIDDEN = frozenset([b"BASH_ENV", b"ENV", b"IFS", b"SHELLOPTS", b"BASHOPTS"])
_FORBIDDEN_STARTS = (b"LD_", b"PYTHON", b"BASH_FUNC_", b"RSHELL_")
_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789")
_TERM = _NAME | frozenset(b"+.-")
SIGNALS = {s.name[3:]: int(s) for s in signal.Signals if not s.name.startswith("SIGRT")}

FILES = ("files", "sftp")  # the workers that tell what they touch, and move bulk


class Account:
    """Whom a process runs as."""

    def __init__(self, name: str | None) -> None:
        """Look up a login's name; None is the keeper's own user.

        Raises:
            Refused: there is no such login, or the keeper cannot become it.
        """
        own = os.geteuid()
        try:
            entry = pwd.getpwuid(own) if name is None else pwd.getpwnam(name)
        except KeyError:
            if name is not None:
                raise Refused("not-found", f"no such login: {name}") from None
            self.name, self.uid, self.gid, self.home, self.shell = (
                str(own),
                own,
                os.getgid(),
                "",
                "",
            )
        else:
            self.name, self.uid, self.gid = entry.pw_name, entry.pw_uid, entry.pw_gid
            self.home, self.shell = entry.pw_dir, entry.pw_shell
        self.home = self.home or "/"
        self.shell = self.shell or "/bin/sh"
        self.switch = self.uid != own
        if self.switch and own:
            message = f"the keeper runs as {pwd_name(own)} and cannot become {name}"
            raise Refused("policy", message)


def pwd_name(uid: int) -> str:
    """Return a user's name, or its number as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class Command:
    """The checked `process` part of an OPEN (docs/keeper.md K14, K35, K44).

    `rules` is what the policy allows a worker to do; whoever checked the policy sets it.
    """

    def __init__(self, value: Map) -> None:
        """Check it.

        Raises:
            WireError: it is malformed.
            Refused: a variable that is not allowed.
        """
        self.kind = wire.text(value, "kind", 16)
        if self.kind not in ("shell", "exec", "worker"):
            raise WireError("kind: neither shell nor exec nor worker")
        self.worker = wire.text(value, "worker", c.MAX_TEXT) if self.kind == "worker" else ""
        self.argument = wire.submap(value, "argument") or {}
        if len(wire.dump(self.argument)) > c.MAX_ARGUMENT:
            raise WireError(f"argument: more than {c.MAX_ARGUMENT} bytes")
        self.rules: Map = {"read": [], "write": []}
        self.told = self.worker in FILES and value.get("touched") is True  # K54
        self.argv = [wire.unbase64(a, "argv") for a in wire.array(value, "argv")]
        line, cwd = value.get("line"), value.get("cwd")
        self.line = None if line is None else wire.unbase64(line, "line")
        self.cwd = None if cwd is None else wire.unbase64(cwd, "cwd")
        given = bool(self.argv) + (self.line is not None)
        if given != (self.kind == "exec"):
            raise WireError("exec takes either argv or line, shell takes neither")
        self.env = dict(_variable(pair) for pair in wire.array(value, "env"))
        self.timeout = wire.integer(value, "timeout_ms", 0) / 1000
        self.size: tuple[int, int] | None = None
        self.term = b""
        pty = wire.submap(value, "pty")
        if pty is not None:
            self.size = window(pty)
            self.term = wire.text(pty, "term", 64, "xterm").encode()
            if not _TERM.issuperset(self.term):
                self.term = b"xterm"
        self.confirm = wire.submap(value, "confirm")  # checked by keeper/guard.py
        if self.confirm is not None and self.kind != "exec":
            raise WireError("confirm: for exec only")
        #: It must not die of what it says when the keeper does: a change half done, or half undone.
        self.outlives = self.confirm is not None
        if self.worker and (self.size or self.cwd is not None or self.env):
            # With another HOME, what the policy says of ~/ would be somewhere else (K46).
            raise WireError("a worker has neither terminal nor folder nor variables of its own")

    def program(self, account: Account) -> tuple[bytes, list[bytes]]:
        """Return what to execute and its argv."""
        shell = os.fsencode(account.shell)
        if self.kind == "shell":
            return shell, [b"-" + shell.rpartition(b"/")[2]]  # the dash makes it a login shell
        if self.line is not None:
            return shell, [shell, b"-c", self.line]
        return self.argv[0], self.argv

    def start(self, account: Account, extra: dict[bytes, bytes]) -> child.Start:
        """Return files to try, argv and environment for exec; os.execvpe does it in 1 ms more."""
        env = self.environment(account, extra)
        if self.worker:
            return [], [], env
        program, argv = self.program(account)
        if b"/" in program:
            return [program], argv, env
        return [folder + b"/" + program for folder in env[b"PATH"].split(b":") if folder], argv, env

    def environment(self, account: Account, extra: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the whole environment; nothing of the keeper's own but LANG."""
        name = os.fsencode(account.name)
        env = {
            b"HOME": os.fsencode(account.home),
            b"USER": name,
            b"LOGNAME": name,
            b"SHELL": os.fsencode(account.shell),
            b"PATH": _USER_PATH if account.uid else _ROOT_PATH,
        }
        if b"LANG" in os.environb:
            env[b"LANG"] = os.environb[b"LANG"]
        if self.size:
            env[b"TERM"] = self.term
        return {**env, **self.env, **extra}


def _variable(pair: object) -> tuple[bytes, bytes]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise WireError("env: not a pair")
    name, value = wire.unbase64(pair[0], "env"), wire.unbase64(pair[1], "env")
    valid = bool(name) and _NAME.issuperset(name) and not name[:1].isdigit()
    if not valid or name in _FORBIDDEN or name.startswith(_FORBIDDEN_STARTS):
        raise Refused("bad-request", f"variable not allowed: {ascii(name.decode('latin-1'))[1:-1]}")
    return name, value


def window(value: Map) -> tuple[int, int]:
    """Return rows and columns, sane; 0 means unknown, which is 24 by 80."""
    rows, columns = wire.integer(value, "rows"), wire.integer(value, "columns")
    return min(rows, 1000) or 24, min(columns, 1000) or 80


class Process:
    """One child, its group, and our ends of its terminal or pipes.

    `outputs` maps descriptors to read from to whether they are standard error; `stdin` is written
    to; `status` tells of exec: it closes when the program runs, or tells `stage:errno` first. It is
    None where the program runs already.
    """

    touched: int | None = None  # where a worker tells what it touches

    def __init__(self, command: Command, account: Account, extra: dict[bytes, bytes]) -> None:
        """Start it.

        Raises:
            Refused: the system has no process, terminal or descriptor left.
        """
        self.terminal = command.size is not None
        self.slave: int | None = None  # kept open until the end, so that a reopened /dev/tty works
        self.outputs: dict[int, bool] = {}
        self.stdin: int | None = None
        self.status: int | None = None
        self._ending: set[int] = set()  # groups that got TERM
        opened: list[int] = []
        try:
            theirs = (
                self._terminal(command, account, opened)
                if command.size
                else self._pipes(command, opened)
            )
            start = command.start(account, extra)  # before fork: each page the child writes costs
            if command.outlives:  # so that the pipes have a reader while it runs
                self._share_outputs(True)
            self.pid = spawn.spawn(command, account, start, theirs) or 0
            if not self.pid:
                self.pid = self._fork(command, account, start, theirs, opened)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise Refused("overload", f"cannot start a process: {error.strerror}") from None
        if command.outlives:
            self._share_outputs(False)
        if not self.terminal:
            for fd in theirs:
                os.close(fd)
        for ours in (self.stdin, self.status, self.touched, *self.outputs):
            if ours is not None:
                os.set_blocking(ours, False)

    def _fork(
        self,
        command: Command,
        account: Account,
        start: child.Start,
        theirs: list[int],
        opened: list[int],
    ) -> int:
        self.status, status = _pair(os.pipe(), opened)
        telling = None
        if command.told:
            self.touched, telling = _pair(os.pipe(), opened)
        pid = child.fork()
        if pid == 0:
            child.become(command, account, start, theirs, status, telling)
        os.close(status)
        if telling is not None:
            os.close(telling)
        return pid

    def _terminal(self, command: Command, account: Account, opened: list[int]) -> list[int]:
        master, slave = _pair(os.openpty(), opened)
        self.stdin = os.dup(master)  # reading and writing pause independently
        opened.append(self.stdin)
        self.outputs = {master: False}
        self.slave = slave
        attributes = termios.tcgetattr(slave)
        attributes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.resize(*(command.size or (24, 80)))
        if account.switch:
            os.fchown(slave, account.uid, -1)
        return [slave, slave, slave]

    def _pipes(self, command: Command, opened: list[int]) -> list[int]:
        input_read, self.stdin = _pair(os.pipe(), opened)
        output, output_write = _pair(os.pipe(), opened)
        error, error_write = _pair(os.pipe(), opened)
        self.outputs = {output: False, error: True}
        if command.worker:
            for fd in (input_read, output):
                _widen(fd)
        if command.outlives:  # nobody empties them then
            for fd in (output, error):
                _widen(fd)
        return [input_read, output_write, error_write]

    def _share_outputs(self, shared: bool) -> None:
        for fd in self.outputs:
            os.set_inheritable(fd, shared)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size, which also signals WINCH; nothing to do for pipes."""
        if self.terminal and self.outputs:
            packed = struct.pack("4H", rows, columns, 0, 0)
            fcntl.ioctl(next(iter(self.outputs)), termios.TIOCSWINSZ, packed)

    def foreground(self) -> int:
        """Return the process group that has the terminal, or the child's own."""
        try:
            group = os.tcgetpgrp(next(iter(self.outputs))) if self.terminal and self.outputs else 0
        except OSError:
            group = 0
        return group if group > 0 and self._is_ours(group) else self.pid

    def _session_groups(self) -> set[int]:
        groups = set()
        for name in os.listdir("/proc"):
            if name.isdigit() and self._is_ours(int(name)):
                try:
                    groups.add(os.getpgid(int(name)))
                except OSError:  # gone in between
                    pass
        return groups

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.getsid(pid) == self.pid
        except OSError:  # it is gone
            return False

    def signal(self, *groups: int, number: int) -> None:
        """Signal process groups while the leader is unreaped; one that is gone is no fault."""
        for group in groups:
            try:
                os.killpg(group, number)
            except OSError:
                if group == self.pid:  # it has just been forked, and leads no group yet
                    self._signal_child(number)

    def _signal_child(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except OSError:  # it changed its user, or is gone
            pass

    def terminate(self) -> None:
        """Ask both groups to end; at a terminal, HUP for the whole session as from a closed window.

        An interactive shell heeds HUP only, and may not come to pass it on to its jobs.
        """
        self._ending = groups = {self.pid, self.foreground()}
        self.signal(*groups, number=signal.SIGTERM)
        if self.terminal:
            self.signal(*groups, *self._session_groups(), number=signal.SIGHUP)
        self.signal(*groups, number=signal.SIGCONT)

    def kill(self) -> None:
        """End both groups, and what has the terminal by now."""
        others = {group for group in self._ending if self._is_ours(group)}
        self.signal(self.pid, self.foreground(), *others, number=signal.SIGKILL)

    def exit_status(self) -> tuple[int, int] | None:
        """Return waitid's code and status if the child has ended; it stays unreaped."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if found is None else (found.si_code, found.si_status)

    def reap(self) -> None:
        """Let the ended child's number go."""
        os.waitpid(self.pid, 0)


def _pair(pair: tuple[int, int], opened: list[int]) -> tuple[int, int]:
    opened.extend(pair)
    return pair


def _widen(pipe: int) -> None:
    """Have a pipe hold more: fewer wake-ups for what workers move."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, c.WORKER_PIPE)
    except OSError:  # the user's share of the system's pipes is used up
        pass


def start_error(told: bytes, command: Command, account: Account) -> Refused:
    """Return the refusal for what a child told through `status`."""
    stage, number, *more = told.decode("ascii", "replace").split(":", 2)
    why = more[0] if more else os.strerror(int(number))
    if stage == "worker":
        what = "there is no such worker" if why == os.strerror(2) else why
        return Refused("not-found", f"cannot start the worker {command.worker}: {what}")
    if stage == "exec":
        name = os.fsdecode(command.program(account)[0])
        what = "command not found" if why == os.strerror(2) else why
        return Refused("not-found", f"{what}: {ascii(name)[1:-1]}")
    if stage == "cwd":
        folder = ascii(os.fsdecode(command.cwd or b"/"))[1:-1]
        return Refused("not-found", f"{why}: {folder}")
    if stage == "login":
        return Refused("policy", f"cannot become {account.name}: {why}")
    return Refused("overload", f"cannot start a process: {why}")


def outcome_of(code: int, status: int) -> Map:
    """Return the outcome for waitid's code and status."""
    exited = code == os.CLD_EXITED
    name = None
    if not exited:
        name = next((n for n, s in SIGNALS.items() if s == status), str(status))
    return outcome(
        ("exit" if status else "ok") if exited else "signal",
        exit_code=status if exited else None,
        signal_name=name,
        core=code == os.CLD_DUMPED,
    )


def outcome(
    status: str,
    code: str | None = None,
    message: str | None = None,
    exit_code: int | None = None,
    signal_name: str | None = None,
    core: bool = False,
) -> Map:
    """Return an outcome event's fields, all of them always there."""
    return {
        "kind": "outcome",
        "status": status,
        "exit_code": exit_code,
        "signal": signal_name,
        "code": code,
        "message": message,
        "core": core,
    }
