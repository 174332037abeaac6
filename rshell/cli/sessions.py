"""Sessions that live: ``rshell sessions`` lists them, ``rshell attach`` continues one."""

from __future__ import annotations

import os
import re
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
from rshell.cli.times import span
from rshell.client import Client, Refused, RshellError, SessionInfo

__all__ = ["attach", "sessions"]

#: As many digits of a session's id as listings show.
SHOWN_DIGITS = 8


def _row(info: SessionInfo) -> list[str]:
    state = info.state
    if info.state == "detached":
        state += f" {span(info.detached_ms / 1000)}"
    if info.outcome is not None:
        state = f"{info.state}: {info.outcome.status}"
    if info.device_state == "lost":
        state += " (device away)"
    if info.viewers:
        state += f", {info.viewers} watching"
    return [
        info.session[:SHOWN_DIGITS],
        info.device,
        info.handler,
        info.login or "-",
        info.operator,
        span(info.age_ms / 1000),
        state,
    ]


@click.command(short_help="List sessions that live on devices.")
@click.option("--all", "everybodys", is_flag=True, help="Of all operators, not only yours.")
@click.option("--end", "ending", metavar="SESSION", help="End this session and what runs in it.")
@common_options
@click.argument("selector", default="")
@click.pass_context
def sessions(context: click.Context, selector: str, everybodys: bool, ending: str | None) -> int:
    """List the sessions that live on the devices that SELECTOR picks, or on all.

    \b
    rshell sessions
    rshell sessions 'site=berlin' --all
    rshell sessions --end 4f2a91c7

    A session is attached while somebody's rshell holds it, and detached when nobody does: its
    link broke, its terminal was closed, or it was left with ~d. A detached shell lives on for a
    day at most; a detached command waits with its output, for an hour. Finished ones wait for
    somebody to fetch their end. A device that is away shows what was known when it left.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if ending is not None:
            info = await find_session(client, ending, everybodys=everybodys)
            await client.end_session(info.session)
            say(printable(f"ended {info.session[:SHOWN_DIGITS]} on {info.device}") + "\n")
            return 0
        found = await client.sessions(selector, everybodys=everybodys)
        if settings.json:
            print_json(found)
            return 0
        headings = ("SESSION", "DEVICE", "HANDLER", "LOGIN", "OPERATOR", "AGE", "STATE")
        print_table(headings, [_row(info) for info in found])
        return 0

    return run_with_client(settings.home, main)


async def find_session(client: Client, wanted: str, *, everybodys: bool = False) -> SessionInfo:
    """Return the one session whose id begins so.

    Raises:
        Refused: There is none, or there are several.
    """
    if not re.fullmatch(r"[0-9a-f]{4,32}", wanted):
        raise RshellError(
            "bad-request",
            "a session is named by its id, or by four or more of its first digits",
            "list them with: rshell sessions",
        )
    every = await client.sessions("", everybodys=everybodys)
    found = [info for info in every if info.session.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{info.session} on {info.device}" for info in found[:4])
        raise Refused("bad-request", f"several sessions begin with {wanted}: {names}", "")
    raise Refused(
        "not-found", f"no session begins with {wanted}", "list them with: rshell sessions"
    )


@click.command(short_help="Continue a session, or watch it.")
@click.option("--watch", is_flag=True, help="Only look on; nothing that you type is sent.")
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
    then the other rshell ends. Output that nobody has seen comes first; how much was lost
    meanwhile is said; full-screen programs paint themselves anew. ~. ends the session, ~d leaves
    it running, ~? helps. The exit status is the session's own.
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
        view = watch or (info.state == "attached" and not take)
        if view and info.state == "finished":
            raise Refused("not-found", "the session has ended; attach without --watch", "")
        if view and not watch:
            sys.stderr.write(
                "rshell: somebody holds this session; watching it (--take takes it over)\n"
            )
        talk = InteractiveShell(
            surroundings,
            info.device,
            partial(client.attach, info, view=view),
            raw and info.handler == "shell",
            attached=True,
            watching=view or info.handler != "shell",
        )
        return await talk.run()

    return run_with_client(settings.home, main)
