"""Verbs that list: devices, audit, whoami."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from rshell.access.printable import printable
from rshell.access.selectors import parse
from rshell.cli.columns import (
    DEFAULT_COLUMNS,
    WIDE_COLUMNS,
    BadColumn,
    columns_of,
    fact_names,
)
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.presenting import encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client

__all__ = ["devices", "print_json", "whoami"]


def print_json(value: Any) -> None:
    """Print a JSON document to stdout: indented for eyes, one line for programs."""
    encoded = encode_json(value)
    if sys.stdout.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    say(encoded.decode("utf-8") + "\n")


@click.command(short_help="List devices.")
@click.option(
    "-o", "--output", type=click.Choice(["wide"]), help="wide: system, kernel and handlers too."
)
@click.option("--columns", metavar="A,B,...", help="Just these columns; see below.")
@common_options
@click.argument("selector", default="")
@click.pass_context
def devices(context: click.Context, selector: str, output: str | None, columns: str | None) -> int:
    """List the devices that SELECTOR picks, or all that you may see.

    \b
    rshell devices
    rshell devices 'pump-*,site=berlin'
    rshell devices state=lost --json
    rshell devices 'tier in (test,stage),!retired'
    rshell devices 'facts.os=arch' --columns name,facts.kernel,facts.memory.total_bytes

    SINCE is when it connected, or when it was last heard. A suspect device still has its link, and
    has been silent for so long.

    Columns: name, id, state, since, connected_at, last_seen, address, agent, labels, handlers,
    gateway, epoch, policy, labels.KEY and facts.NAME (see: rshell facts).
    """
    if selector:
        parse(selector)
    if columns and output:
        raise click.UsageError("give either --columns or -o wide")
    try:
        shown = columns_of(columns or (WIDE_COLUMNS if output else DEFAULT_COLUMNS))
    except BadColumn as error:
        raise click.UsageError(printable(str(error), 300)) from None
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        found = await client.devices(selector, facts=fact_names(shown))
        if settings.json:
            print_json(found)
            return 0
        print_table(
            [column.heading for column in shown],
            [[column.cell(device) for column in shown] for device in found],
        )
        for device in found:
            if device.policy_error:
                text = printable(f"{device.name}: bad policy: {device.policy_error}")
                sys.stderr.write(f"rshell: {text}\n")
            for alert in device.alerts:
                text = printable(f"{device.name}: {alert}", 300)
                sys.stderr.write(f"rshell: {text}\n")
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Show which operator you are.")
@common_options
@click.pass_context
def whoami(context: click.Context) -> int:
    """Show your name and roles, as the gateway knows them."""
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        me = await client.whoami()
        if settings.json:
            print_json(me)
        else:
            print_table(("OPERATOR", "ROLES"), [(me.name, ",".join(me.roles) or "-")])
        return 0

    return run_with_client(settings.home, main)
