"""``rshell console``: the Manhole of the running gateway, at this terminal."""

from __future__ import annotations

import base64
import os
from typing import Any

import click
import msgspec

from rshell.cli.options import common_options, settings_of
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.shell import InteractiveShell, our_terminal
from rshell.client import Client, Session, SessionReceiver

__all__ = ["console"]


@click.command(short_help="Python in the running gateway.")
@click.option("-c", "line", metavar="LINE", help="Run this and leave; await works in it.")
@common_options
@click.pass_context
def console(context: click.Context, line: str | None) -> int:
    """Open a console in the running gateway: Python, with the fleet at hand.

    \b
    rshell console
    >>> fleet                                            what there is
    >>> fleet["pump-17"].run("uptime")
    >>> fleet.select("site=berlin").run("uptime")        on many, with a table
    >>> fleet["pump-17"].shell()                         takes this terminal; Ctrl-] gives it back
    >>> help()

    \b
    rshell console -c 'fleet.devices("site=berlin")'     one line
    rshell console < program.py                          no terminal: runs what it reads

    It needs a role that grants the console, which implies everything else. Every line is written
    to the audit log before it runs. Tab completes, Ctrl-C interrupts, Ctrl-D leaves.

    Exit status: 0, or with -c or a program 1 if it raised an error, 255 for errors of rshell.
    """
    settings = settings_of(context)
    raw = line is None and os.isatty(0)

    async def main(surroundings: Surroundings, client: Client) -> int:
        def open_console(receiver: SessionReceiver) -> Session:
            request: dict[str, Any] = {"terminal": None}
            if raw:
                request["terminal"] = msgspec.to_builtins(our_terminal())
            if line is not None:
                request["line"] = base64.b64encode(line.encode("utf-8", "surrogateescape")).decode()
            return client.open(None, "gateway.console", request, receiver, priority="interactive")

        return await _Console(surroundings, "console", open_console, raw).run()

    return run_with_client(settings.home, main)


class _Console(InteractiveShell):
    """As a shell's, but for what is left behind: nothing."""

    def _how_to_attach(self) -> str:
        return ""
