"""Sessions that live: ``rshell sessions`` lists them, ``rshell attach`` continues one."""

from __future__ import annotations

import os
import sys
from functools import partial

import click

from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.shell import InteractiveShell
from rshell.cli.tables import print_table
from rshell.client import Client, Refused
from rshell.client.session_listing import (
    SESSION_HEADINGS,
    SHOWN_DIGITS,
    find_session,
    session_cells,
)

__all__ = ["attach", "sessions"]

STATES = ("attached", "parked", "detached", "finished")


@click.command(short_help="List sessions that live on devices.")
@click.option("--all", "everybodys", is_flag=True, help="All that you may watch, not only yours.")
@click.option("--operator", metavar="NAME", default="", help="Only of this operator.")
@click.option("--device", metavar="SELECTOR", default="", help="The same as SELECTOR.")
@click.option("--door", metavar="DOOR", default="", help="Only through this door: link, ssh …")
@click.option("--state", type=click.Choice(STATES), default=None, help="Only in this state.")
@click.option("--end", "ending", metavar="SESSION", help="End this session and what runs in it.")
@common_options
@click.argument("selector", default="")
@click.pass_context
def sessions(
    context: click.Context,
    selector: str,
    everybodys: bool,
    operator: str,
    device: str,
    door: str,
    state: str | None,
    ending: str | None,
) -> int:
    """List the sessions that live on the devices that SELECTOR picks, or on all.

    \b
    rshell sessions
    rshell sessions 'site=berlin' --all
    rshell sessions --operator ann --door ssh --state attached
    rshell sessions --end 4f2a91c7

    Sessions of all doors are listed: of this command, plain ssh, the console. IDLE is for how
    long nobody typed, IN and OUT count bytes from and to the operator, REC is what is recorded.

    A session is attached while somebody's rshell holds it, and detached when nobody does: its
    link broke, its terminal was closed, or it was left with ~d. A detached shell lives on for a
    day at most; a detached command waits with its output, for an hour. Finished ones wait for
    somebody to fetch their end. A device that is away shows what was known when it left.
    """
    settings = settings_of(context)
    if selector and device:
        raise click.UsageError("give devices once: SELECTOR, or --device")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if ending is not None:
            info = await find_session(client, ending)
            await client.end_session(info.session)
            say(printable(f"ended {info.session[:SHOWN_DIGITS]} on {info.device}") + "\n")
            return 0
        found = await client.sessions(
            selector or device,
            everybodys=everybodys or operator not in ("", client.operator),
            operator=operator,
            door=door,
            state=state or "",
        )
        if settings.json:
            print_json(found)
            return 0
        print_table(SESSION_HEADINGS, [session_cells(info) for info in found], clipped="FROM")
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Continue a session, or watch it.")
@click.option(
    "--watch", "--view", is_flag=True, help="Only look on; nothing that you type is sent."
)
@click.option("--take", is_flag=True, help="Take it over from whoever holds it.")
@common_options
@click.argument("session")
@click.pass_context
def attach(context: click.Context, session: str, watch: bool, take: bool) -> int:
    """Continue SESSION, of which the first digits of its id suffice, in this terminal.

    \b
    rshell sessions
    rshell attach 4f2a91c7
    rshell attach 4f2a --watch

    A session has one driver. If somebody holds it already you watch it, unless you say --take:
    then the other end is told that you took it over, and leaves. It does not matter through which
    door it was opened. Another operator's session you watch if a role lets you, and it needs an
    administrator to take it (--take, always); they are told of both.

    Output that nobody has seen comes first; how much was lost meanwhile is said; full-screen
    programs paint themselves anew, but not for who only looks on. ~. ends the session, ~d leaves
    it running, ~? helps. The exit status is the session's own; it is 0 if you stop watching.
    """
    if watch and take:
        raise click.UsageError("give either --watch or --take")
    settings = settings_of(context)
    raw = os.isatty(0)

    async def main(surroundings: Surroundings, client: Client) -> int:
        info = await find_session(client, session)
        if info.device_state == "lost":
            raise Refused(
                "offline",
                f"{info.device} is away, and the session with it",
                f"see why with: rshell why {info.device}",
            )
        anothers = info.operator != client.operator
        view = watch or ((info.state in ("attached", "parked") or anothers) and not take)
        if view and info.state == "finished":
            raise Refused("not-found", "the session has ended; attach without --watch", "")
        if view and not watch:
            who = f"operator {info.operator}" if anothers else "somebody"
            text = f"rshell: {who} holds this session; watching it (--take takes it over)"
            sys.stderr.write(printable(text) + "\n")
        typed = info.handler == "shell" or bool(info.terminal)
        talk = InteractiveShell(
            surroundings,
            info.device,
            partial(client.attach, info, view=view),
            raw and typed,
            attached=True,
            watching=view or not typed,
        )
        return await talk.run()

    return run_with_client(settings.home, main)
