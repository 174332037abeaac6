"""``rshell play``: a recorded terminal session, in our terminal, at its own pace."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from rshell.access.asciicast import BadCast, CastHeader, read_cast
from rshell.cli.options import common_options, settings_of, written_as
from rshell.cli.playback import Playback
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.terminal import RawTerminal, terminal_size
from rshell.client import Client, RshellError

__all__ = ["play"]

#: A recording is held as a whole, for seeking; a longer one is for `recordings get`.
MAX_BYTES = 512 * 1024 * 1024
SEEK_SECONDS = 10.0
_KEYS = {b"\x1b[C": SEEK_SECONDS, b"\x1b[D": -SEEK_SECONDS, b"\x1bOC": SEEK_SECONDS}
_KEYS |= {b"\x1bOD": -SEEK_SECONDS, b"\x1b[A": 60.0, b"\x1b[B": -60.0}


@click.command(short_help="Play a recorded terminal session.")
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    metavar="N",
    help="Times faster than it was.",
)
@click.option(
    "--idle-limit",
    type=click.FloatRange(0.0),
    metavar="S",
    help="Shorten pauses to S seconds.",
)
@click.option(
    "--from",
    "start",
    type=click.FloatRange(0.0),
    default=0.0,
    metavar="T",
    help="Begin at T seconds.",
)
@common_options
@click.argument(
    "session",
    metavar="ID",
    callback=written_as(
        r"(?s).*/.*|.*\.cast|[0-9a-fA-F]{4,32}",
        "a recording is named by its id, by four or more of its first digits, or by a path "
        "(./FILE); list them with: rshell recordings",
    ),
)
@click.pass_context
def play(
    context: click.Context, session: str, speed: float, idle_limit: float | None, start: float
) -> int:
    """Play the recording ID, or the one that begins so; or a file, if ID is the path of one.

    \b
    rshell play 4f2a91c7
    rshell play 4f2a --speed 4 --idle-limit 1
    rshell play ./session.cast --from 120

    Space pauses; left and right go 10 seconds back and forth, down and up a minute; q quits.
    """
    settings = settings_of(context)
    data = bytearray()
    if "/" in session or session.endswith(".cast"):
        data += _read_file(Path(session))
    else:

        def received(piece: bytes) -> None:
            data.extend(piece)
            if len(data) > MAX_BYTES:
                text = "the recording is too long to be played; fetch it: rshell recordings get"
                raise RshellError("bad-request", text, "")

        async def main(_surroundings: Surroundings, client: Client) -> int:
            await client.fetch_recording(session.lower(), received)
            return 0

        run_with_client(settings.home, main)
        # The reactor had taken them, and is gone.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
    try:
        header, events = read_cast(bytes(data))
        playback = Playback(
            events, speed=speed, idle_limit=idle_limit, start=start, now=time.monotonic()
        )
    except BadCast as error:
        raise RshellError("bad-request", f"this recording cannot be read: {error}", "") from None
    return _Player(playback).run(header)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise RshellError("bad-request", f"cannot read {path}: {error.strerror}", "") from None


class _Player:
    """Shows a playback and reads keys."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._keys = os.isatty(0) and os.isatty(1)

    def run(self, header: CastHeader) -> int:
        """Play to the end; return the exit status."""
        terminal = RawTerminal(0) if self._keys else None
        rows, columns = terminal_size(1)
        if self._keys and (header.rows > rows or header.columns > columns):
            sys.stderr.write(
                f"rshell: recorded at {header.columns}x{header.rows}, "
                f"this terminal has {columns}x{rows}\n"
            )
        if terminal:
            terminal.enter()
        try:
            self._show(self._playback.begin())
            return self._loop()
        finally:
            if terminal:
                self._show(b"\x1b[0m\x1b[?25h\x1b[?1049l\r\n")
                terminal.restore()

    def _loop(self) -> int:
        playback = self._playback
        while not playback.over:
            wait = playback.wait()
            key = self._key(wait)
            self._show(playback.advance(time.monotonic()))
            if key in (b"q", b"\x03", b"\x04"):
                return 130 if key == b"\x03" else 0
            if key == b" ":
                playback.toggle()
            elif key in _KEYS:
                self._show(playback.seek(_KEYS[key]))
        return 0

    def _key(self, seconds: float | None) -> bytes:
        """Wait for a key, so long at most."""
        if not self._keys:
            time.sleep(seconds or 0.0)
            return b""
        ready: Any = select.select([0], [], [], seconds)[0]
        return os.read(0, 16) if ready else b""

    @staticmethod
    def _show(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
