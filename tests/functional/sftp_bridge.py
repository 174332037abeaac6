"""Pipes standard input and output to a device's ``sftp`` handler, through the client library.

``sftp -D 'python -m tests.functional.sftp_bridge --home DIR DEVICE'`` makes OpenSSH's client talk
to the device, as it would through a door that speaks SSH.  The exit status is the session's: the
worker's own, or 255 if there was none.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rshell.cli.pipes import ByteSink, ByteSource
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Client, RshellError, Session
from rshell.handlers import SftpRequest


class Bridge:
    """A `rshell.client.SessionReceiver` that writes what comes to our standard streams."""

    def __init__(self, reactor: Any) -> None:
        self.session: Session | None = None
        self.output = ByteSink(reactor, 1, self._changed)
        self.error = ByteSink(reactor, 2, self._changed)

    def _changed(self) -> None:
        if self.session is None:
            return
        if self.output.full or self.error.full:
            self.session.pause()
        else:
            self.session.resume()

    def session_opened(self) -> None:
        pass

    def output_received(self, data: bytes, stderr: bool) -> None:
        (self.error if stderr else self.output).write(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        pass


async def bridge(surroundings: Surroundings, client: Client, options: argparse.Namespace) -> int:
    """Pipe until the session ends; return its exit status."""
    reactor = surroundings.reactor
    receiver = Bridge(reactor)
    request = SftpRequest(read_only=options.read_only)
    session = client.open(options.device, "sftp", request, receiver, login=options.login)
    receiver.session = session

    def received(data: bytes) -> None:
        if data:
            session.write(data)
        else:
            session.unregisterProducer()
            session.write_eof()

    source = ByteSource(reactor, 0, received)
    session.registerProducer(source, True)
    source.start()
    outcome = await session.outcome
    await receiver.output.drained()
    if outcome.status not in ("ok", "exit"):
        receiver.error.write(f"{outcome.status}: {outcome.code} {outcome.message}\n".encode())
    await receiver.error.drained()
    return 0 if outcome.status == "ok" else (outcome.exit_code or 255)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home")
    parser.add_argument("--as", dest="login")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("device")
    options = parser.parse_args()
    try:
        return run_with_client(options.home, lambda *given: bridge(*given, options))
    except RshellError as error:
        sys.stderr.write(f"{error}\n")
        return 255


if __name__ == "__main__":
    sys.exit(main())
