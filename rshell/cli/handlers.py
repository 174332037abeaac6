"""``rshell handlers``: what can be called, where, with which arguments, and what is broken."""

from __future__ import annotations

import sys
from collections import Counter

import click

from rshell.access.printable import printable
from rshell.cli.arguments import describe_arguments
from rshell.cli.choosing import selector_of
from rshell.cli.handler_help import handler_summary_lines
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, Device, Handler, Refused

__all__ = ["handlers"]


@click.command(short_help="List what can be called on a device.")
@click.option("--gateway", is_flag=True, help="List what the gateway itself answers.")
@click.option(
    "-v", "--verbose", is_flag=True, help="All arguments with their meaning, and results."
)
@common_options
@click.argument("device", required=False)
@click.pass_context
def handlers(context: click.Context, device: str | None, gateway: bool, verbose: bool) -> int:
    """List the handlers of DEVICE with their arguments, for rshell call.

    \b
    rshell handlers                    which there are in the fleet, and on how many devices
    rshell handlers pump-17            those of one device
    rshell handlers pump-17 -v         with all that they say of their arguments
    rshell handlers pump-17 --json     with their JSON schemas
    rshell handlers --gateway          what the gateway answers

    A handler that is not allowed is there, and the device's own policy does not name it. Plug-ins
    that are broken are told on standard error, with the distribution that brought them.
    """
    if device is not None and gateway:
        raise click.UsageError("name one DEVICE, or say --gateway")
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if device is None and not gateway:
            _list_fleet(await client.devices(), settings.json)
            return 0
        found = await client.handlers(device)
        if settings.json:
            print_json(found)
        elif verbose:
            say("\n".join(line for handler in found for line in _story(handler)) + "\n")
        else:
            _print(found)
        if device is not None and not settings.json:
            await _tell_problems(client, device)
        return 0

    return run_with_client(settings.home, main)


def _print(found: list[Handler]) -> None:
    rows = [
        (h.name, "yes" if h.allowed else "no", h.summary, describe_arguments(h.schema))
        for h in found
    ]
    print_table(("HANDLER", "ALLOWED", "WHAT IT DOES", "ARGUMENTS"), rows)


def _story(handler: Handler) -> list[str]:
    head = f"{printable(handler.name, 64)}: {printable(handler.summary)}"
    if not handler.allowed:
        return [head, "  not allowed by the device's policy", ""]
    return [head, *(f"  {line}".rstrip() for line in handler_summary_lines(handler)[1:]), ""]


def _list_fleet(devices: list[Device], json: bool) -> None:
    """List handlers by how many devices allow them; of devices that told theirs."""
    told = [device for device in devices if device.handlers and not device.revoked]
    counts = Counter(name for device in told for name in device.handlers)
    if json:
        print_json([{"name": name, "devices": counts[name]} for name in sorted(counts)])
        return
    rows = [(name, f"{counts[name]:,} of {len(told):,}") for name in sorted(counts)]
    print_table(("HANDLER", "DEVICES"), rows)


async def _tell_problems(client: Client, device: str) -> None:
    """Say which plug-ins of a device are broken; a device that is away tells nothing."""
    try:
        rows = await client.devices(selector_of(device))
    except Refused:
        return  # a role that may not list devices gets its handlers without this
    for row in rows:
        for line in row.problems:
            text = printable(f"{row.name}: broken plug-in: {line}", 500)
            sys.stderr.write(f"rshell: {text}\n")
