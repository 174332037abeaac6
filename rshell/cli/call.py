"""``rshell call``: any handler, also a plug-in's, with arguments typed by its own schema."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from rshell.cli import statuses
from rshell.cli.arguments import BadArgument, build_request
from rshell.cli.choosing import choose, names_one
from rshell.cli.fanout import Fanout, Outputs, Target
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.run import presenter_for
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Client, Handler, Refused, RshellError, Session, SessionReceiver

__all__ = ["call"]


@click.command(short_help="Call any handler of one device or of many.")
@login_option
@click.option(
    "--concurrency",
    type=click.IntRange(1, 8000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many devices at once.",
)
@common_options
@click.argument("selector")
@click.argument("handler")
@click.argument("arguments", nargs=-1, metavar="[key=value]...")
@click.pass_context
def call(
    context: click.Context,
    selector: str,
    handler: str,
    arguments: tuple[str, ...],
    login: str | None,
    concurrency: int,
) -> int:
    """Call HANDLER on every device that SELECTOR picks.

    \b
    rshell handlers pump-17                       what there is, and with which arguments
    rshell call pump-17 exec argv=uptime argv=-p  a list: repeat the key
    rshell call pump-17 exec line='df -h' timeout_ms=5000
    rshell call 'site=berlin' valve position:=3   key:=JSON is taken as it is

    Values are typed by the handler's schema: numbers, true or false, text, bytes. Output and
    exit status are as with run. Standard input is passed on to one device if it is no terminal.
    """
    names_one(selector)
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        targets = await choose(client, selector)
        described = await _describe(client, targets, handler)
        request = _request(arguments, described.schema)

        def open_session(device: str, receiver: SessionReceiver) -> Session:
            return client.open(
                device, handler, request, receiver, login=login, priority=described.priority
            )

        single = len(targets) == 1
        outputs = Outputs(surroundings.reactor)
        present = partial(presenter_for, outputs, settings.json, not single, False)
        fanout = Fanout(
            surroundings,
            open_session,
            present,
            outputs,
            concurrency=concurrency,
            stdin=single and not sys.stdin.isatty(),
        )
        outcomes = await fanout.run(targets)
        own = statuses.of_one(outcomes[0]) if single and outcomes else statuses.of_many(outcomes)
        return fanout.status(own)

    return run_with_client(settings.home, main)


async def _describe(client: Client, targets: list[Target], handler: str) -> Handler:
    """Return the handler's description, of the first device that is there."""
    present = [target for target in targets if target.absent is None] or targets
    for known in await client.handlers(present[0].device):
        if known.name == handler:
            return known
    raise Refused(
        "not-found",
        f"{present[0].device} has no handler {handler}",
        f"list them with: rshell handlers {present[0].device}",
    )


def _request(arguments: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    try:
        return build_request(arguments, schema)
    except BadArgument as error:
        raise RshellError("bad-request", str(error)) from None
