"""``rshell recordings``: list recorded terminal sessions, and fetch one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from rshell.cli.listings import print_json
from rshell.cli.options import common_options, parse_moment, settings_of, written_as
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.cli.targets import Target
from rshell.cli.times import span
from rshell.client import Client, Recording

__all__ = ["recordings"]


def _row(recording: Recording) -> Sequence[str]:
    status = recording.status
    if recording.mode == "input":
        status += " +input"
    return (
        recording.session[:8],
        recording.started_at,
        span(recording.duration_ms / 1000),
        recording.operator,
        recording.device,
        recording.login or "-",
        f"{recording.size:,}",
        status,
    )


_ID = written_as(
    "[0-9a-fA-F]{4,32}",
    "a recording is named by its id, or by four or more of its first digits "
    "(list them with: rshell recordings)",
)


@click.group(invoke_without_command=True, short_help="List and fetch recorded sessions.")
@click.option("--device", metavar="D", help="Only of this device.")
@click.option("--operator", metavar="O", help="Only of this operator.")
@click.option(
    "--since", "since_ms", callback=parse_moment, metavar="T", help="Begun not before: 2h, a date."
)
@click.option("--until", "until_ms", callback=parse_moment, metavar="T", help="Begun before then.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="The newest N.",
)
@common_options
@click.pass_context
def recordings(context: click.Context, /, limit: int, **wanted: Any) -> int:
    """List recordings of terminal sessions, newest first.

    \b
    rshell recordings
    rshell recordings --device pump-17 --since 1w --json
    rshell recordings get 4f2a91c7 > session.cast

    STATUS open is not closed: it may still grow, and has the length that it has by now, also after
    the gateway was killed; of an interrupted one it is not known how the session ended; of a
    failed one something is missing, and a marker in it says where. +input has what was typed too.
    """
    if context.invoked_subcommand is not None:
        return 0
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        found = await client.recordings(limit=limit, **wanted)
        if settings.json:
            print_json(found)
        else:
            headings = ("ID", "BEGAN", "LASTED", "OPERATOR", "DEVICE", "AS", "BYTES", "STATUS")
            print_table(headings, [_row(recording) for recording in found])
        return 0

    return run_with_client(settings.home, main)


@recordings.command("get", short_help="Write a recording to standard output or a file.")
@click.option("--to", metavar="FILE", default="-", help="A file, written whole or not at all.")
@common_options
@click.argument("session", metavar="ID", callback=_ID)
@click.pass_context
def get(context: click.Context, session: str, to: str) -> int:
    """Write the recording ID, or the one that begins so, as asciicast v2, for asciinema.

    \b
    rshell recordings get 4f2a91c7 > session.cast
    rshell recordings get 4f2a91c7 --to session.cast

    Of one that still grows, what it has by now.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        with Target(to) as target:
            await client.fetch_recording(session.lower(), target.write)
        return 0

    return run_with_client(settings.home, main)
