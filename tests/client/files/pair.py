"""A `FilesConnection` and a real worker in a process of its own, without gateway, agent or keeper.

`WorkerSession` is to the connection what a session is: the same calls, the same back-pressure, over
the pipes of a child that runs the worker's own `run`.  Links and resuming are not in it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import error, protocol
from twisted.internet.defer import Deferred

import rshell_agent
from rshell.client.files.connection import FilesConnection
from rshell.client.outcomes import Outcome
from rshell.client.session import SessionReceiver

__all__ = ["WorkerSession", "connect_worker"]

_PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from rshell_agent.workers.confined import Confined
from rshell_agent.workers.files import run
told = json.loads(sys.argv[2])
os.umask(0o022)
os._exit(run({"version": 1}, Confined(told.pop("read"), told.pop("write"), **told)))
"""
_OUTPUTS = {1: False, 2: True}


def worker_command(read: Sequence[str], write: Sequence[str], **policy: Any) -> list[str]:
    """Return the command line of a worker with these roots."""
    import json

    folder = str(Path(rshell_agent.__file__ or "").parent.parent)
    told = json.dumps({"read": list(read), "write": list(write), **policy})
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, folder, told]


class WorkerSession(protocol.ProcessProtocol):
    """The session's side of a worker process.

    Args:
        receiver: Takes its output.
    """

    def __init__(self, receiver: SessionReceiver) -> None:
        self._receiver = receiver
        self._outcome: Outcome | None = None
        self._waiting: list[Deferred[Outcome]] = []
        #: Fires when the process has been reaped.
        self.gone: Deferred[None] = Deferred()

    # -- what FilesConnection uses -----------------------------------------------------------------

    @property
    def outcome(self) -> Deferred[Outcome]:
        waiting: Deferred[Outcome] = Deferred()
        if self._outcome is not None:
            waiting.callback(self._outcome)
        else:
            self._waiting.append(waiting)
        return waiting

    @property
    def ended(self) -> bool:
        return self._outcome is not None

    def write(self, data: bytes) -> None:
        # A worker that died leaves its pipe before its end is known.
        if not self.ended and 0 in self.transport.pipes:
            self.transport.writeToChild(0, data)

    def write_eof(self) -> None:
        if not self.ended:
            self.transport.closeChildFD(0)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.transport.pipes[0].registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if 0 in self.transport.pipes:
            self.transport.pipes[0].unregisterProducer()

    def pause(self) -> None:
        self.transport.pipes[1].pauseProducing()

    def resume(self) -> None:
        if 1 in self.transport.pipes:
            self.transport.pipes[1].resumeProducing()

    def abort(self) -> None:
        self.signal("KILL")
        text = "given up by this end"
        self._end(Outcome(status="lost", code="cancelled", message=text))

    def signal(self, name: str) -> None:
        try:
            self.transport.signalProcess(name)
        except error.ProcessExitedAlready:
            pass

    # -- ProcessProtocol ---------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._receiver.session_opened()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if not self.ended:
            self._receiver.output_received(data, _OUTPUTS[childFD])

    def processExited(self, reason: Any) -> None:
        # A pipe that is paused would never be read to its end, which `processEnded` waits for.
        self.resume()

    def processEnded(self, reason: Any) -> None:
        value = reason.value
        if value.signal is not None:
            name = signal.Signals(value.signal).name[3:]
            self._end(Outcome(status="signal", signal=name))
        elif value.exitCode:
            self._end(Outcome(status="exit", exit_code=value.exitCode))
        else:
            self._end(Outcome(status="ok"))
        self.gone.callback(None)

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            for deferred in self._waiting:
                deferred.callback(outcome)


async def connect_worker(
    reactor: Any,
    directory: Path,
    *,
    read: Sequence[str] = ("/",),
    write: Sequence[str] = ("/",),
    crash_at: str = "",
    **policy: Any,
) -> FilesConnection:
    """Start a worker and connect to it; end it with ``await connection.close()`` or ``abort()``.

    Args:
        reactor: The real one.
        directory: The worker's home.
        read: The policy's roots.
        write: Likewise.
        crash_at: Where it kills itself (docs/files.md FT36).
        policy: Further keywords of `Confined`.
    """

    def start(receiver: SessionReceiver) -> WorkerSession:
        session = WorkerSession(receiver)
        environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        if crash_at:
            environment["RSHELL_CRASH_AT"] = crash_at
        command = worker_command(read, write, **policy)
        reactor.spawnProcess(
            session, command[0], command, env=environment, path=str(directory), usePTY=False
        )
        return session

    return await FilesConnection.over(start, "pump-1")
